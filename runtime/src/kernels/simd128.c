/* WebAssembly with vectors of 128 bits, which has an instruction that counts the bits of bytes: two filters a register.
 * Tiles are larger than the sixteen registers of some machines: alone, two pixels are faster than four by some percent,
 * but a tile's packing costs more than that. */
#include "declarations.h"

#if defined(__wasm_simd128__)

#include <wasm_simd128.h>

#include "tile.h"

/* A byte counts at most 8 ones a word: 31 words fit before it must be widened. */
enum { MR = 4, REGISTERS = 4, LANES = 2, NR = REGISTERS * LANES, BYTE_WORDS = 31 };

/* Sums of eight bytes, in two parts: [first, first, second, second]. */
BD_INLINE v128_t widened(v128_t bytes) {
    return wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(bytes));
}

/* out -= 2 * ones of the tile, and start the bytes anew. */
BD_INLINE void subtract_ones(size_t mr, v128_t bytes[MR][REGISTERS], int32_t *out, size_t out_stride) {
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n += 2) {
            v128_t a = widened(bytes[m][n]), b = widened(bytes[m][n + 1]);
            v128_t ones = wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
            int32_t *dots = out + m * out_stride + n * LANES;
            wasm_v128_store(dots, wasm_i32x4_sub(wasm_v128_load(dots), wasm_i32x4_add(ones, ones)));
            bytes[m][n] = bytes[m][n + 1] = wasm_i8x16_const_splat(0);
        }
    }
}

/* The sums stand in `out`, so that the registers hold nothing but bytes and weights. */
BD_INLINE void bgemm(size_t mr, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                     int32_t *out, size_t out_stride) {
    v128_t bytes[MR][REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            bytes[m][n] = wasm_i8x16_const_splat(0);
        BD_UNROLL
        for (size_t n = 0; n < NR; n += 4)
            wasm_v128_store(out + m * out_stride + n, wasm_i32x4_splat(depth));
    }
    for (size_t end; words > 0; words -= end) {
        end = words < BYTE_WORDS ? words : BYTE_WORDS;
        for (size_t k = 0; k < end; k++, tile += mr, weights += NR) {
            v128_t filters[REGISTERS];
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++)
                filters[n] = wasm_v128_load(weights + n * LANES);
            BD_UNROLL
            for (size_t m = 0; m < mr; m++) {
                v128_t pixel = wasm_v128_load64_splat(tile + m);
                BD_UNROLL
                for (size_t n = 0; n < REGISTERS; n++)
                    bytes[m][n] = wasm_i8x16_add(bytes[m][n], wasm_i8x16_popcnt(wasm_v128_xor(pixel, filters[n])));
            }
        }
        subtract_ones(mr, bytes, out, out_stride);
    }
}

void bd_bgemm_i32_4x8__simd128(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                               size_t out_stride) {
    bgemm(MR, words, depth, tile, weights, out, out_stride);
}

void bd_bgemv_i32_1x8__simd128(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                               size_t out_stride) {
    bgemm(1, words, depth, tile, weights, out, out_stride);
}

/* There is no fused multiply-add. */
BD_INLINE v128_t multiply_add(v128_t sum, v128_t weights, float value) {
    return wasm_f32x4_add(sum, wasm_f32x4_mul(weights, wasm_f32x4_splat(value)));
}

#define FGEMM_NAME bd_fgemm_f32_4x8__simd128
#define FGEMM_MR 4
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 4
#define FGEMM_VECTOR v128_t
#define FGEMM_ZERO() wasm_f32x4_const_splat(0)
#define FGEMM_LOAD wasm_v128_load
#define FGEMM_STORE wasm_v128_store
#define FGEMM_MULTIPLY_ADD multiply_add
#include "fgemm.h"

#define FGEMM_NAME bd_fgemv_f32_1x16__simd128
#define FGEMM_MR 1
#define FGEMM_REGISTERS 4
#define FGEMM_LANES 4
#define FGEMM_VECTOR v128_t
#define FGEMM_ZERO() wasm_f32x4_const_splat(0)
#define FGEMM_LOAD wasm_v128_load
#define FGEMM_STORE wasm_v128_store
#define FGEMM_MULTIPLY_ADD multiply_add
#include "fgemm.h"

/* Bit i of four is 1 where !(values[i] >= 0). */
BD_INLINE uint64_t negative_four(const float *values) {
    return ~(uint64_t)wasm_i32x4_bitmask(wasm_f32x4_ge(wasm_v128_load(values), wasm_f32x4_const_splat(0))) & 15;
}

/* The same of sixteen: four comparisons become the bytes of one vector. */
BD_INLINE uint64_t negative_sixteen(const float *values) {
    v128_t at_least[4];
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        at_least[i] = wasm_f32x4_ge(wasm_v128_load(values + 4 * i), wasm_f32x4_const_splat(0));
    v128_t bytes = wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(at_least[0], at_least[1]),
                                           wasm_i16x8_narrow_i32x4(at_least[2], at_least[3]));
    return ~(uint64_t)wasm_i8x16_bitmask(bytes) & 0xffff;
}

/* Up to 64 values as the bits of one word. */
BD_INLINE uint64_t negative(const float *values, size_t count) {
    uint64_t word = 0;
    size_t c = 0;
    for (; c + 16 <= count; c += 16)
        word |= negative_sixteen(values + c) << c;
    for (; c + 4 <= count; c += 4)
        word |= negative_four(values + c) << c;
    for (; c < count; c++)
        word |= (uint64_t)!(values[c] >= 0) << c;
    return word;
}

void bd_binarize_b1_1x1__simd128(size_t pixels, size_t channels, const float *values, uint64_t *bits) {
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c += 64, bits++) {
            size_t count = channels - c < 64 ? channels - c : 64;
            *bits = negative(values, count);
            values += count;
        }
}

/* No product is contracted with a sum, since nothing fuses them. */
void bd_affine_f32_1x1__simd128(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                const float *scale, const float *bias, const float *residual, float minimum,
                                float maximum, float *out, size_t out_stride) {
    const v128_t lowest = wasm_f32x4_splat(minimum), highest = wasm_f32x4_splat(maximum);
    size_t n = 0;
    for (; n + 4 <= filters; n += 4) {
        v128_t factors = wasm_v128_load(scale + n), terms = wasm_v128_load(bias + n);
        for (size_t m = 0; m < pixels; m++) {
            v128_t sums = wasm_f32x4_convert_i32x4(wasm_v128_load(dots + m * dots_stride + n));
            v128_t value = wasm_f32x4_add(wasm_f32x4_mul(factors, sums), terms);
            if (residual != NULL)
                value = wasm_f32x4_add(value, wasm_v128_load(residual + m * out_stride + n));
            value = wasm_f32x4_pmin(wasm_f32x4_pmax(value, lowest), highest);
            wasm_v128_store(out + m * out_stride + n, value);
        }
    }
    if (n < filters)
        bd_affine_f32_1x1__scalar(pixels, filters - n, dots + n, dots_stride, scale + n, bias + n,
                                  residual == NULL ? NULL : residual + n, minimum, maximum, out + n, out_stride);
}

/* Bit i of four is 1 where dots[i] < thresholds[i]. */
BD_INLINE uint64_t below_four(const int32_t *dots, const int32_t *thresholds) {
    return (uint64_t)wasm_i32x4_bitmask(wasm_i32x4_lt(wasm_v128_load(dots), wasm_v128_load(thresholds)));
}

void bd_threshold_b1_1x1__simd128(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                  const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,
                                  size_t bits_stride) {
    for (size_t m = 0; m < pixels; m++, dots += dots_stride, bits += bits_stride) {
        uint64_t field = 0;
        size_t n = 0;
        for (; n + 4 <= filters; n += 4)
            field |= below_four(dots + n, thresholds + n) << n;
        for (; n < filters; n++)
            field |= (uint64_t)(dots[n] < thresholds[n]) << n;
        bd_put_field(bits, first, field ^ flips);
    }
}

#define BINARIZE_PLANES_NAME bd_binarize_planes_b1_1x1__simd128
#include "planes.h"

#endif
