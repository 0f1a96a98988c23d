/* x86-64 with AVX-512 F, BW, VL, DQ and VPOPCNTDQ: eight filters a register. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx2,fma")
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx2,fma"))),   \
                             apply_to = function)
#endif

#include "../affine.h"
#include "tile.h"

#include <string.h>

enum { MR = 7, EDGE_MR = 4, REGISTERS = 2, LANES = 8, NR = REGISTERS * LANES };

/* depth - 2 * ones of 16 filters: the low halves of their 64-bit counts, in order. */
BD_INLINE __m512i dots(__m512i depth, __m512i ones_low, __m512i ones_high) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512i ones = _mm512_permutex2var_epi32(ones_low, even, ones_high);
    return _mm512_sub_epi32(depth, _mm512_add_epi32(ones, ones));
}

BD_INLINE void bgemm(size_t mr, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                     int32_t *out, size_t out_stride) {
    __m512i ones[MR][REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            ones[m][n] = _mm512_setzero_si512();
    }
    for (size_t k = 0; k < words; k++, weights += NR, tile += mr) {
        __m512i filters[REGISTERS];
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            filters[n] = _mm512_loadu_si512(weights + n * LANES);
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            __m512i pixel = _mm512_set1_epi64((long long)tile[m]);
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++)
                ones[m][n] = _mm512_add_epi64(ones[m][n], _mm512_popcnt_epi64(_mm512_xor_si512(pixel, filters[n])));
        }
    }
    __m512i depths = _mm512_set1_epi32(depth);
    BD_UNROLL
    for (size_t m = 0; m < mr; m++)
        _mm512_storeu_si512(out + m * out_stride, dots(depths, ones[m][0], ones[m][1]));
}

/* A tile of 7 x 16 is as fast as any that fits the registers, and divides the usual maps (7, 14, 28, 56 wide). */
void bd_bgemm_i32_7x16__avx512(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                               size_t out_stride) {
    bgemm(MR, words, depth, tile, weights, out, out_stride);
}

void bd_bgemv_i32_1x16__avx512(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                               size_t out_stride) {
    bgemm(1, words, depth, tile, weights, out, out_stride);
}

/* What falls between `before` and `first` or between `first` and `second`, never both: first ? ~second : before. */
BD_INLINE __m512i falling(__m512i before, __m512i first, __m512i second) {
    return _mm512_ternarylogic_epi64(before, first, second, 0x74);
}

BD_INLINE __m512i differing(const uint64_t *pixel, __m512i filters) {
    return _mm512_xor_si512(_mm512_set1_epi64((long long)*pixel), filters);
}

/* The ones of words that are accumulated: five operations for two words, where the plain kernel takes six. Of an odd
 * number the first word stands alone: before it all is 0, so nothing falls. Four pixels leave room for the last word of
 * each sum beside its count. */
BD_INLINE void count_edges(size_t words, const uint64_t *tile, const uint64_t *weights,
                           __m512i ones[EDGE_MR][REGISTERS]) {
    __m512i last[EDGE_MR][REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            ones[m][n] = last[m][n] = _mm512_setzero_si512();
    }
    if (words % 2 != 0) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++) {
            __m512i filters = _mm512_loadu_si512(weights + n * LANES);
            BD_UNROLL
            for (size_t m = 0; m < EDGE_MR; m++)
                last[m][n] = differing(tile + m, filters);
        }
        tile += EDGE_MR;
        weights += NR;
    }
    for (size_t pairs = words / 2; pairs > 0; pairs--, tile += 2 * EDGE_MR, weights += 2 * NR) {
        __m512i filters[2][REGISTERS];
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++) {
            filters[0][n] = _mm512_loadu_si512(weights + n * LANES);
            filters[1][n] = _mm512_loadu_si512(weights + NR + n * LANES);
        }
        BD_UNROLL
        for (size_t m = 0; m < EDGE_MR; m++) {
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++) {
                __m512i first = differing(tile + m, filters[0][n]);
                __m512i second = differing(tile + EDGE_MR + m, filters[1][n]);
                ones[m][n] = _mm512_add_epi64(ones[m][n], _mm512_popcnt_epi64(falling(last[m][n], first, second)));
                last[m][n] = second;
            }
        }
    }
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            ones[m][n] = _mm512_add_epi64(_mm512_add_epi64(ones[m][n], ones[m][n]), _mm512_popcnt_epi64(last[m][n]));
    }
}

void bd_bgemm_edge_i32_4x16__avx512(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                    int32_t *out, size_t out_stride) {
    __m512i ones[EDGE_MR][REGISTERS], depths = _mm512_set1_epi32(depth);
    count_edges(words, tile, weights, ones);
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++)
        _mm512_storeu_si512(out + m * out_stride, dots(depths, ones[m][0], ones[m][1]));
}

/* Puts the fields of sixteen filters at bit `at`, whose lowest one clears what is above it. */
BD_INLINE void put_sixteen(uint64_t *word, size_t at, __mmask16 bits) {
    uint16_t field = (uint16_t)bits;
    if (at == 0 || at % 16 != 0)
        bd_put_field(word, at, field);
    else
        memcpy((unsigned char *)word + at / 8, &field, sizeof field);
}

/* depth - 2 ones < threshold where ones > (depth - threshold) / 2, rounded down: in 64 bits, as ones are. */
BD_INLINE __m512i most_ones(int32_t depth, __m256i thresholds) {
    __m512i twice = _mm512_sub_epi64(_mm512_set1_epi64(depth), _mm512_cvtepi32_epi64(thresholds));
    return _mm512_srai_epi64(twice, 1);
}

BD_INLINE void bgemm_bits(size_t pixels, size_t filters, size_t words, int32_t depth, const uint64_t *tile,
                          const uint64_t *weights, const int32_t *thresholds, uint64_t flips, size_t first,
                          uint64_t *bits, size_t bits_stride) {
    __mmask16 lanes = (__mmask16)((UINT32_C(1) << filters) - 1), flipped = (__mmask16)flips;
    __m512i limits = _mm512_maskz_loadu_epi32(lanes, thresholds);
    __m512i low = most_ones(depth, _mm512_castsi512_si256(limits));
    __m512i high = most_ones(depth, _mm512_extracti64x4_epi64(limits, 1));
    for (size_t pixel = 0; pixel < pixels; pixel += EDGE_MR, tile += words * EDGE_MR) {
        __m512i ones[EDGE_MR][REGISTERS];
        count_edges(words, tile, weights, ones);
        BD_UNROLL
        for (size_t m = 0; m < EDGE_MR; m++) {
            __mmask16 below =
                _mm512_kunpackb(_mm512_cmpgt_epi64_mask(ones[m][1], high), _mm512_cmpgt_epi64_mask(ones[m][0], low));
            if (pixel + m < pixels)
                put_sixteen(bits + (pixel + m) * bits_stride, first, (__mmask16)((below & lanes) ^ flipped));
        }
    }
}

/* With a constant few words are as fast as many: their weights stay in registers, and of one word, which has no edges,
 * most is gone. */
void bd_bgemm_threshold_b1_4x16__avx512(size_t pixels, size_t filters, size_t words, int32_t depth,
                                        const uint64_t *tile, const uint64_t *weights, const int32_t *thresholds,
                                        uint64_t flips, size_t first, uint64_t *bits, size_t bits_stride) {
    if (words == 1)
        bgemm_bits(pixels, filters, 1, depth, tile, weights, thresholds, flips, first, bits, bits_stride);
    else if (words == 2)
        bgemm_bits(pixels, filters, 2, depth, tile, weights, thresholds, flips, first, bits, bits_stride);
    else
        bgemm_bits(pixels, filters, words, depth, tile, weights, thresholds, flips, first, bits, bits_stride);
}

/* The bits of `count` <= 64 values; lanes past them are neither read nor set. */
BD_INLINE uint64_t binarize_word(const float *values, size_t count) {
    uint64_t present = count == 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
    uint64_t word = 0;
    for (size_t c = 0; c < count; c += 16) {
        __mmask16 lanes = (__mmask16)(present >> c);
        __m512 group = _mm512_maskz_loadu_ps(lanes, values + c);
        word |= (uint64_t)_mm512_mask_cmp_ps_mask(lanes, group, _mm512_setzero_ps(), _CMP_NGE_UQ) << c;
    }
    return word;
}

void bd_binarize_b1_1x1__avx512(size_t pixels, size_t channels, const float *values, uint64_t *bits) {
    for (size_t p = 0; p < pixels; p++, values += channels) {
        size_t c = 0;
        for (; c + 64 <= channels; c += 64)
            *bits++ = binarize_word(values + c, 64);
        if (c < channels)
            *bits++ = binarize_word(values + c, channels - c);
    }
}

BD_INLINE __m512 affine(__m512i integers, __m512 scale, __m512 bias) {
    __m512 product = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(integers));
    BD_ROUND_PRODUCT(product, "v");
    return _mm512_add_ps(product, bias);
}

/* max and min give their second operand where the first is no greater or no less: what bd_clamp does, -0 included. */
BD_INLINE __m512 clamp(__m512 value, __m512 minimum, __m512 maximum) {
    return _mm512_min_ps(maximum, _mm512_max_ps(minimum, value));
}

/* Whole vectors first, without a mask; then the filters that are left, of which no lane past the last is touched. */
void bd_affine_f32_1x1__avx512(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                               const float *scale, const float *bias, const float *residual, float minimum,
                               float maximum, float *out, size_t out_stride) {
    const __m512 lowest = _mm512_set1_ps(minimum), highest = _mm512_set1_ps(maximum);
    for (; filters >= 16; filters -= 16, dots += 16, scale += 16, bias += 16, out += 16) {
        __m512 factors = _mm512_loadu_ps(scale), terms = _mm512_loadu_ps(bias);
        for (size_t m = 0; m < pixels; m++) {
            __m512 values = affine(_mm512_loadu_si512(dots + m * dots_stride), factors, terms);
            if (residual != NULL)
                values = _mm512_add_ps(values, _mm512_loadu_ps(residual + m * out_stride));
            _mm512_storeu_ps(out + m * out_stride, clamp(values, lowest, highest));
        }
        residual = residual == NULL ? NULL : residual + 16;
    }
    __mmask16 lanes = (__mmask16)((1u << filters) - 1);
    __m512 factors = _mm512_maskz_loadu_ps(lanes, scale), terms = _mm512_maskz_loadu_ps(lanes, bias);
    for (size_t m = 0; m < pixels && filters > 0; m++) {
        __m512 values = affine(_mm512_maskz_loadu_epi32(lanes, dots + m * dots_stride), factors, terms);
        if (residual != NULL)
            values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(lanes, residual + m * out_stride));
        _mm512_mask_storeu_ps(out + m * out_stride, lanes, clamp(values, lowest, highest));
    }
}

/* Sixteen filters a turn, so that their thresholds are read once. */
void bd_threshold_b1_1x1__avx512(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                 const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,
                                 size_t bits_stride) {
    for (size_t n = 0; n < filters; n += 16) {
        __mmask16 lanes = (__mmask16)(filters - n < 16 ? (1u << (filters - n)) - 1 : 0xffff);
        __mmask16 flipped = (__mmask16)(flips >> n & 0xffff);
        __m512i limits = _mm512_maskz_loadu_epi32(lanes, thresholds + n);
        for (size_t m = 0; m < pixels; m++) {
            __m512i integers = _mm512_maskz_loadu_epi32(lanes, dots + m * dots_stride + n);
            __mmask16 below = _mm512_mask_cmplt_epi32_mask(lanes, integers, limits);
            put_sixteen(bits + m * bits_stride, first + n, (__mmask16)(below ^ flipped));
        }
    }
}

uint64_t bd_peak_u64_1x1__avx512(size_t rounds) {
    enum { CHAINS = 8 };
    __m512i ones[CHAINS], pixel = _mm512_set1_epi8(1), filters = _mm512_setzero_si512();
    BD_FORGET(filters, "v");
    BD_UNROLL
    for (size_t n = 0; n < CHAINS; n++)
        ones[n] = _mm512_setzero_si512();
    for (size_t i = 0; i < rounds; i++) {
        BD_UNROLL
        for (size_t n = 0; n < CHAINS; n++) {
            BD_FORGET(pixel, "v");
            ones[n] = _mm512_add_epi64(ones[n], _mm512_popcnt_epi64(_mm512_xor_si512(pixel, filters)));
            BD_FORGET(ones[n], "v");
        }
    }
    return (uint64_t)rounds * CHAINS * LANES * 64;
}

#define BINARIZE_PLANES_NAME bd_binarize_planes_b1_1x1__avx512
#include "planes.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
