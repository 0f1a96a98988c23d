/* Channel by channel, on every machine: four floats as GCC and clang spell them, in registers where there are any that
 * wide. */
#include "declarations.h"

#if defined(__x86_64__)
#define REGISTER "x"
#elif defined(__aarch64__)
#define REGISTER "w"
#else
#define REGISTER "m"
#endif

#include "../affine.h"
#include "tile.h"

#include <string.h>
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

#define FAFFINE_NAME bd_faffine_f32_1x1__scalar
#define FPRELU_NAME bd_fprelu_f32_1x1__scalar
#define AFFINE_PRELU_NAME bd_affine_prelu_f32_1x1__scalar
#define BINARIZE_WITHIN_NAME bd_binarize_within_b1_1x1__scalar
#define BINARIZE_PLANES_WITHIN_NAME bd_binarize_planes_within_b1_1x1__scalar
#define FDEPTHWISE_NAME bd_fdepthwise_f32_1x1__scalar
#define FMAX_NAME bd_fmax_f32_1x1__scalar
#define FMEAN_NAME bd_fmean_f32_1x1__scalar
#define ROUND_PRODUCT(product) BD_ROUND_PRODUCT(product, REGISTER)
#define KNOWN_WINDOWS 0
/* NEON of 32-bit ARM flushes denormals to zero, and clang would use it: there a vector is one float. */
#if defined(__arm__)
enum { LANES = 1 };
#else
enum { LANES = 4 };
#endif
typedef float vector __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t mask __attribute__((vector_size(LANES * sizeof(int32_t))));

BD_INLINE vector load_some(const float *from, size_t count) {
    vector values = {0};
    for (size_t i = 0; i < count; i++)
        values[i] = from[i];
    return values;
}

BD_INLINE void store_some(float *to, vector values, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = values[i];
}

BD_INLINE vector multiply_add(vector sum, vector a, vector b) {
    vector product = a * b;
    ROUND_PRODUCT(product);
    return sum + product;
}

BD_INLINE vector choose(mask which, vector a, vector b) {
    return (vector)((which & (mask)a) | (~which & (mask)b));
}

BD_INLINE vector larger(vector a, vector b) {
    return choose(a > b, a, b);
}

BD_INLINE vector smaller(vector a, vector b) {
    return choose(a < b, a, b);
}

BD_INLINE vector if_negative(vector test, vector a, vector b) {
    return choose(test < (vector){0}, a, b);
}

/* Integers in the order of the floats whose bits they are, both zeros 0: no comparison that NEON of 32-bit ARM would
 * do, which takes what is tiny for zero. NaN lies outside of all. */
BD_INLINE mask order_of(vector values) {
    mask bits = (mask)values, negative = bits >> 31;
    return ((bits & INT32_MAX) ^ negative) - negative;
}

BD_INLINE mask lanes_outside(vector values, vector lowest, vector highest) {
    mask order = order_of(values);
    return (order < order_of(lowest)) | (order > order_of(highest));
}

BD_INLINE uint64_t outside(vector values, vector lowest, vector highest) {
    mask out = lanes_outside(values, lowest, highest);
#if defined(__wasm_simd128__)
    return wasm_i32x4_bitmask((v128_t)out);
#else
    uint64_t bits = 0;
    for (size_t i = 0; i < LANES; i++)
        bits |= (uint64_t)(out[i] & 1) << i;
    return bits;
#endif
}

#include "channels.h"

/* 64 counters side by side: digit k of all of them is a word. */
enum { CHANNELS = 64, DIGITS = 32 };

/* Adds one to each counter whose bit is set. */
BD_INLINE void add_ones(uint64_t ones, uint64_t *digits) {
    for (; ones != 0; digits++) {
        uint64_t carry = *digits & ones;
        *digits ^= ones;
        ones = carry;
    }
}

/* Bit i of eight, as byte i: the product copies them to each byte, which keeps its own, and a sum carries that one to
 * its highest bit. */
BD_INLINE uint64_t spread_bits(uint64_t eight) {
    uint64_t own = eight * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
    return (own + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
}

/* sums[i] = taps - 2 * counter i, eight counters and eight digits at a time */
BD_INLINE void subtract_counts(uint64_t taps, const uint64_t *digits, int32_t *sums) {
    for (size_t i = 0; i < CHANNELS; i++)
        sums[i] = (int32_t)taps;
    for (int low = 0; taps >> low != 0; low += 8)
        for (size_t from = 0; from < CHANNELS; from += 8) {
            uint64_t counts = 0;
            for (int k = low; k < low + 8 && taps >> k != 0; k++)
                counts += spread_bits(digits[k] >> from & 0xff) << (k - low);
            for (size_t i = 0; i < 8; i++)
                sums[from + i] -= (int32_t)(counts >> (8 * i) & 0xff) << (low + 1);
        }
}

void bd_bdepthwise_i32_1x1__scalar(const struct bd_taps *taps, size_t pixels, const uint64_t *input,
                                   const uint64_t *weights, int32_t *out) {
    for (size_t m = 0; m < pixels; m++, input += taps->pixel)
        for (size_t word = 0; word < taps->channels; word++, out += CHANNELS) {
            uint64_t digits[DIGITS] = {0};
            for (size_t y = 0; y < taps->height; y++)
                for (size_t x = 0; x < taps->width; x++)
                    add_ones(input[y * taps->row + x * taps->column + word] ^
                                 weights[y * taps->weight_row + x * taps->channels + word],
                             digits);
            subtract_counts(taps->height * taps->width, digits, out);
        }
}
