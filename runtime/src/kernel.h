/* What a kernel is: a row of kernels.inc, its function's type given by its op and output.
 *
 * A bgemm kernel multiplies MR pixels by NR filters through an indirection buffer: rows[t * MR + m] points at
 * the packed channel row that pixel m reads at tap t (a row of zero words, all +1, where the tap is padding).
 * Weights are tiled [tap][word][NR] for one block of NR filters. */
#ifndef BD_KERNEL_H
#define BD_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* out[m * out_stride + n] = depth - 2 * sum over t < taps, k < words of
 *                           popcount(rows[t * MR + m][k] ^ weights[(t * words + k) * NR + n]) */
typedef void bd_bgemm_i32_function(size_t taps, size_t words, int32_t depth, const uint64_t *const *rows,
                                   const uint64_t *weights, int32_t *out, size_t out_stride);

/* out[m * out_stride + n] = sum over t < taps, c < channels of
 *                           rows[t * MR + m][c] * weights[(t * channels + c) * NR + n] */
typedef void bd_fgemm_f32_function(size_t taps, size_t channels, const float *const *rows, const float *weights,
                                   float *out, size_t out_stride);

/* bits[p * ceil(channels / 64) + k]: bit c % 64 of word c / 64 is 1 where !(values[p * channels + c] >= 0) */
typedef void bd_binarize_b1_function(size_t pixels, size_t channels, const float *values, uint64_t *bits);

struct bd_kernel {
    const char *op;  /* bgemm, fgemm, binarize */
    const char *out; /* i32, f32, b1 */
    const char *isa;
    const char *name;
    int mr, nr;
    union {
        bd_bgemm_i32_function *bgemm_i32;
        bd_fgemm_f32_function *fgemm_f32;
        bd_binarize_b1_function *binarize_b1;
    } run;
};

/* Largest MR and NR of any row: the size of a driver's tile. */
enum { BD_MAX_MR = 16, BD_MAX_NR = 64 };

/* All rows compiled into this build, slowest first. */
const struct bd_kernel *bd_kernels(size_t *count);

/* Whether this CPU can run kernels of `isa`. */
int bd_cpu_has(const char *isa);

/* The last row of op and out that this CPU has; with `isa` not NULL, the last row no faster than that ISA's rows
 * (kernels of another op fall back to scalar). NULL if `isa` is unknown or the CPU lacks it. */
const struct bd_kernel *bd_choose(const char *op, const char *out, const char *isa);

#endif
