/* What a kernel is: a row of kernels.inc, its function's type given by its op and output.
 *
 * A bgemm kernel multiplies MR pixels by NR filters: tile[k * MR + m] is word k of what pixel m sees, its channels tap
 * by tap, zero words (all +1) where a tap is padding; weights[k * NR + n] the same of filter n. */
#ifndef BD_KERNEL_H
#define BD_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* out[m * out_stride + n] = depth - 2 * sum over k < words of popcount(tile[k * MR + m] ^ weights[k * NR + n]) */
typedef void bd_bgemm_i32_function(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                   int32_t *out, size_t out_stride);

/* The same of accumulated words: tile[k * MR + m] is the exclusive or of words 0 to k of pixel m, weights alike. With
 * o[k] = tile[k * MR + m] ^ weights[k * NR + n], the ones of all words are twice the falling edges of o's bits along k,
 * plus the ones of the last o; and two words have at most one falling edge together, which is one count for both. */
typedef bd_bgemm_i32_function bd_bgemm_edge_i32_function;

/* Where an instruction set has such a row, its kernels of edges read tiles that this has been done to, in place: each
 * word stands twice, one beside the other, so there is room for twice as many. From word `words % 4 > 0` on, as long
 * as there are four, those of a pixel stand side by side two by two, [k / 2][MR][k % 2], every other pair's second one
 * complemented, that of the first pair to begin with. */
typedef void bd_edge_tile_u64_function(size_t words, uint64_t *tile);

/* A kernel of edges and its thresholds in one, for tiles that follow each other: bit first + n of bits[p * bits_stride]
 * = (the integer of pixel p and filter n < thresholds[n]) ^ (bit n of flips) for p < pixels, n < filters <= NR. Words
 * are written as by `threshold`. */
typedef void bd_bgemm_threshold_b1_function(size_t pixels, size_t filters, size_t words, int32_t depth,
                                            const uint64_t *tile, const uint64_t *weights, const int32_t *thresholds,
                                            uint64_t flips, size_t first, uint64_t *bits, size_t bits_stride);

/* out[m * out_stride + n] = sum over t < taps, c < channels of
 *                           rows[t * MR + m][c] * weights[(t * channels + c) * NR + n] */
typedef void bd_fgemm_f32_function(size_t taps, size_t channels, const float *const *rows, const float *weights,
                                   float *out, size_t out_stride);

/* The same with MR = 1: for a layer whose output is one pixel, which a wider tile would compute MR times. The float one
 * reads through pointers: rows[t * MR + m] is at the channel row that pixel m reads at tap t. */
typedef bd_bgemm_i32_function bd_bgemv_i32_function;
typedef bd_fgemm_f32_function bd_fgemv_f32_function;

/* fgemm and what follows it in one, for tiles whose rows begin every `tile_rows` pointers: pixels p of tile p / MR.
 * out[p * out_stride + n] = clamp(sum + bias[n] + residual[p * out_stride + n]) for p < pixels, n < filters <= NR, the
 * sum being fgemm's and each addition rounded as faffine does; nothing is added where the residual is NULL. */
typedef void bd_fgemm_affine_f32_function(size_t pixels, size_t filters, size_t taps, size_t channels,
                                          const float *const *rows, size_t tile_rows, const float *weights,
                                          const float *bias, const float *residual, float minimum, float maximum,
                                          float *out, size_t out_stride);

/* The weights of a layer of packed signs as codes, MR of a `tables` row together: bit i of a code is 1 where the weight
 * of channel g * MR + i is -1. tables[(p * groups + g) * NR + code] is the sum that such a code gives, of MR channels
 * of pixel p from g * MR on, groups = ceil(channels / MR); channels beyond the last are 0. NR is 2^MR. Tables
 * of i16 are of the integers clamp(round(x / scale), -128, 127). The bytes of a table stand as the wgemm or wgemv of
 * the same instruction set wants them. */
typedef void bd_tables_f32_function(size_t pixels, size_t channels, const float *x, float *tables);
typedef void bd_tables_i16_function(size_t pixels, size_t channels, const float *x, float scale, int16_t *tables);

/* out[m * out_stride + n] = sum over t < taps, g < groups of entry code(t, g, n) of table g of rows[t * MR + m]
 * with `tables` of the same instruction set; i32 reads tables of i16. Weights are words [t][word][NR], each as many
 * codes as it has room for, the first one lowest: of 32 bits for f32, for i32 of 16 where a code has five bits and of 8
 * where it has four. */
typedef void bd_wgemm_f32_function(size_t taps, size_t groups, const void *const *rows, const void *weights, float *out,
                                   size_t out_stride);
typedef void bd_wgemm_i32_function(size_t taps, size_t groups, const void *const *rows, const void *weights,
                                   int32_t *out, size_t out_stride);

/* The same with MR = 1. */
typedef bd_wgemm_f32_function bd_wgemv_f32_function;
typedef bd_wgemm_i32_function bd_wgemv_i32_function;

/* Many pixels by slices, where an instruction set has rows for that: a slice is at most 32 channels of one tap. Its
 * tables stand one after the other, of four channels each: 16 rows, one for each code, of MR entries, one for each
 * pixel. Rows[m] is at the channels of pixel m, floats or, for i16, integers of 8 bits; those from `first` to
 * first + channels are read. */
typedef void bd_slice_tables_f32_function(size_t channels, const void *const *rows, size_t first, void *tables);
typedef bd_slice_tables_f32_function bd_slice_tables_i16_function;

/* sums[n * MR + m] += sum over g < groups of entry m of row codes[n] >> 4 * g & 15 of table g, for n < filters <= NR.
 * Then, where `out` is not NULL: out[m * NR + n] += sums[n * MR + m], which becomes 0; for i16 that is of 32 bits, and
 * must be done before 64 codes are summed. There is room for NR filters in both. */
typedef void bd_slice_sums_f32_function(size_t filters, size_t groups, const void *tables, const uint32_t *codes,
                                        void *sums, void *out);
typedef bd_slice_sums_f32_function bd_slice_sums_i16_function;

/* out[m * out_stride + n] = sum over k < quads, i < 4 of
 *                           (tile[(m * quads + k) * 4 + i] - 128) * weights[(k * NR + n) * 4 + i]
 * offsets[n] is -128 times the sum of filter n's weights, for rows that multiply without that 128. What comes out fits
 * in 32 bits; on the way there sums may wrap. */
typedef void bd_igemm_i32_function(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                                   int32_t *out, size_t out_stride);

/* The same with MR = 1. */
typedef bd_igemm_i32_function bd_igemv_i32_function;

/* Sums of 8 bits that saturate. From start[m * out_stride + n] on, which fits them, or from 0 where start is NULL, for
 * one k < words after the other
 *     sum = min(max(sum + depths[k] - 2 * popcount(word k of pixel m ^ word k of filter n), -128), 127)
 * and out[m * out_stride + n] = sum; out may be start. Words have 32 bits. tile[k * MR + m] is a word twice, so that
 * the four bytes from its byte v on are the word turned by v bytes. weights[(k * 4 + v) * NR + n] is byte (n + v) % 4
 * of a word: any four filters beside each other meet the same turned word, each a byte of its own that is not the one
 * of its neighbours, and in four turns all of them. */
typedef void bd_sgemm_i32_function(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                                   const int32_t *start, int32_t *out, size_t out_stride);

/* The same with MR = 1. */
typedef bd_sgemm_i32_function bd_sgemv_i32_function;

/* bits[p * ceil(channels / 64) + k]: bit c % 64 of word c / 64 is 1 where !(values[p * channels + c] >= 0) */
typedef void bd_binarize_b1_function(size_t pixels, size_t channels, const float *values, uint64_t *bits);

/* The same of planes: bit c % 64 of bits[p * ceil(channels / 64) + c / 64] is 1 where !(values[c * plane + p] >= 0) */
typedef void bd_binarize_planes_b1_function(size_t pixels, size_t channels, size_t plane, const float *values,
                                            uint64_t *bits);

/* Both for other signs: the bit is 1 where !(lowest[c] <= value && value <= highest[c]). */
typedef void bd_binarize_within_b1_function(size_t pixels, size_t channels, const float *values, const float *lowest,
                                            const float *highest, uint64_t *bits);
typedef void bd_binarize_planes_within_b1_function(size_t pixels, size_t channels, size_t plane, const float *values,
                                                   const float *lowest, const float *highest, uint64_t *bits);

/* out[m * out_stride + n] = clamp(scale[n] * dots[m * dots_stride + n] + bias[n] + residual[m * out_stride + n])
 * for m < pixels, n < filters <= BD_MAX_NR; nothing is added where the residual is NULL. The integer becomes the
 * nearest float, then the product is rounded, then each sum from left to right: never fused, so that every row gives
 * the same float. clamp(v) is minimum where v < minimum, maximum where v > maximum, else v. */
typedef void bd_affine_f32_function(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                    const float *scale, const float *bias, const float *residual, float minimum,
                                    float maximum, float *out, size_t out_stride);

/* bit first + n of bits[m * bits_stride] = (dots[m * dots_stride + n] < thresholds[n]) ^ (bit n of flips)
 * for m < pixels, n < filters <= 64 - first. A word is written from its lowest bit on: where `first` is 0 all higher
 * bits become 0, and where it is not they must still be 0. Flips has no bit from `filters` on. */
typedef void bd_threshold_b1_function(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                      const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,
                                      size_t bits_stride);

/* What the instruction set could do at most: `rounds` times the plain kernel's exclusive or, count of ones and sum, all
 * in registers and in as many chains as fill the pipes. Returns how many pairs of bits that were. */
typedef uint64_t bd_peak_u64_function(size_t rounds);

/* The same of floats, for any number of filters; the scale is 1 where it is NULL. Where the bias is NULL too, and
 * the residual, all there is is clamp. */
typedef void bd_faffine_f32_function(size_t pixels, size_t filters, const float *values, size_t values_stride,
                                     const float *scale, const float *bias, const float *residual, float minimum,
                                     float maximum, float *out, size_t out_stride);

/* out[p * out_stride + n] = clamp((s < 0 ? slope[n] * s : s) + after[n]),
 *                       s = (values[p * values_stride + n] + residual[p * out_stride + n]) + before[n]
 * Nothing is added where the residual or `before` is NULL, and 0 where `after` is. Nothing is fused. */
typedef void bd_fprelu_f32_function(size_t pixels, size_t filters, const float *values, size_t values_stride,
                                    const float *residual, const float *slope, const float *before, const float *after,
                                    float minimum, float maximum, float *out, size_t out_stride);

/* affine and fprelu in one, with the roundings of both:
 *   out[m * out_stride + n] = (s < 0 ? slope[n] * s : s) + after[n],
 *   s = (clamp(scale[n] * dots[m * dots_stride + n] + bias[n]) + residual[m * out_stride + n]) + before[n]
 * Nothing is added where the residual is NULL. */
typedef void bd_affine_prelu_f32_function(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                          const float *scale, const float *bias, float minimum, float maximum,
                                          const float *residual, const float *slope, const float *before,
                                          const float *after, float *out, size_t out_stride);

/* The taps of a window within the input, and where the next window is: distances in elements, floats or words. */
struct bd_taps {
    size_t channels; /* elements of a pixel */
    size_t height, width;
    size_t row, column; /* in the input, from a tap to the one below, and to the one beside */
    size_t weight_row;  /* in the weights [tap][channel], from a tap to the one below */
    size_t pixel;       /* in the input, from a window to the next one */
};

/* out[p * channels + c] = clamp(scale[c] * sum + bias[c] + residual[p * channels + c]) as by faffine,
 * sum = sum over taps y, x of weights[y * weight_row + x * channels + c] * input[p * pixel + y * row + x * column + c]
 */
typedef void bd_fdepthwise_f32_function(const struct bd_taps *taps, size_t pixels, const float *input,
                                        const float *weights, const float *scale, const float *bias,
                                        const float *residual, float minimum, float maximum, float *out);

/* Their maximum, of one tap at least: the first one where it is NaN, else without those that are. */
typedef void bd_fmax_f32_function(const struct bd_taps *taps, size_t pixels, const float *input, float *out);

/* Their sum, row by row, divided. */
typedef void bd_fmean_f32_function(const struct bd_taps *taps, size_t pixels, const float *input, float divisor,
                                   float *out);

/* out[p * 64 * channels + i] = height * width - 2 * ones that counter i counts, over taps y, x, of the bits of
 * weights[y * weight_row + x * channels + i / 64] ^ input[p * pixel + y * row + x * column + i / 64] */
typedef void bd_bdepthwise_i32_function(const struct bd_taps *taps, size_t pixels, const uint64_t *input,
                                        const uint64_t *weights, int32_t *out);

/* What `map` computes of each float: x (1 + erf(x / sqrt 2)) / 2, its form with tanh, x sigmoid(x), x clamp(x / 6 +
 * 1/2) to [0, 1], and the functions themselves. */
enum bd_function { BD_GELU = 1, BD_GELU_TANH, BD_SILU, BD_HARD_SWISH, BD_SIGMOID, BD_TANH, BD_ERF };

/* y[i] = function(x[i]); y may be x. */
typedef void bd_map_f32_function(enum bd_function function, size_t count, const float *x, float *y);

/* y[r][c] = e[r][c] / sum over c of e[r][c], e = exp(factor * (x - max over c of x)), for a factor > 0; the logarithm
 * of that where `logarithmic`. */
typedef void bd_softmax_f32_function(size_t rows, size_t channels, float factor, int logarithmic, const float *x,
                                     float *y);

/* y[r][c] = (x[r][c] - mean) / sqrt(variance + epsilon) * scale[c] + bias[c], both over the channels of row r. */
typedef void bd_layer_norm_f32_function(size_t rows, size_t channels, const float *x, const float *scale,
                                        const float *bias, float epsilon, float *y);

struct bd_kernel {
    const char *op;  /* bgemm, bgemm_edge, fgemm, affine, ... */
    const char *out; /* i32, i16, f32, b1, u64 */
    const char *isa;
    const char *name;
    int mr, nr;
    union {
        bd_bgemm_i32_function *bgemm_i32;
        bd_bgemm_edge_i32_function *bgemm_edge_i32;
        bd_edge_tile_u64_function *edge_tile_u64;
        bd_bgemm_threshold_b1_function *bgemm_threshold_b1;
        bd_fgemm_f32_function *fgemm_f32;
        bd_fgemm_affine_f32_function *fgemm_affine_f32;
        bd_bgemv_i32_function *bgemv_i32;
        bd_fgemv_f32_function *fgemv_f32;
        bd_tables_f32_function *tables_f32;
        bd_tables_i16_function *tables_i16;
        bd_wgemm_f32_function *wgemm_f32;
        bd_wgemm_i32_function *wgemm_i32;
        bd_wgemv_f32_function *wgemv_f32;
        bd_wgemv_i32_function *wgemv_i32;
        bd_slice_tables_f32_function *slice_tables_f32;
        bd_slice_tables_i16_function *slice_tables_i16;
        bd_slice_sums_f32_function *slice_sums_f32;
        bd_slice_sums_i16_function *slice_sums_i16;
        bd_igemm_i32_function *igemm_i32;
        bd_igemv_i32_function *igemv_i32;
        bd_sgemm_i32_function *sgemm_i32;
        bd_sgemv_i32_function *sgemv_i32;
        bd_binarize_b1_function *binarize_b1;
        bd_binarize_planes_b1_function *binarize_planes_b1;
        bd_binarize_within_b1_function *binarize_within_b1;
        bd_binarize_planes_within_b1_function *binarize_planes_within_b1;
        bd_affine_f32_function *affine_f32;
        bd_threshold_b1_function *threshold_b1;
        bd_peak_u64_function *peak_u64;
        bd_faffine_f32_function *faffine_f32;
        bd_fprelu_f32_function *fprelu_f32;
        bd_affine_prelu_f32_function *affine_prelu_f32;
        bd_fdepthwise_f32_function *fdepthwise_f32;
        bd_bdepthwise_i32_function *bdepthwise_i32;
        bd_fmax_f32_function *fmax_f32;
        bd_fmean_f32_function *fmean_f32;
        bd_map_f32_function *map_f32;
        bd_softmax_f32_function *softmax_f32;
        bd_layer_norm_f32_function *layer_norm_f32;
    } run;
};

/* Largest MR and NR of any row: the size of a driver's tile. */
enum { BD_MAX_MR = 32, BD_MAX_NR = 64 };

/* All rows compiled into this build, slowest first. */
const struct bd_kernel *bd_kernels(size_t *count);

/* Whether this CPU can run kernels of `isa`. */
int bd_cpu_has(const char *isa);

/* The last row of op and out that this CPU has; with `isa` not NULL, the last row no faster than that ISA's rows
 * (kernels of another op fall back to scalar). NULL if `isa` is unknown or the CPU lacks it. */
const struct bd_kernel *bd_choose(const char *op, const char *out, const char *isa);

#endif
