/* x86-64 with AVX2 and FMA: four filters a register. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("avx2,fma")
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif

#include "../affine.h"
#include "tile.h"

/* A byte counts at most 8 ones a word: 31 words fit before it must be widened. Edges count twice: 15 pairs, and the
 * last word beside them. */
enum { MR = 4, EDGE_MR = 2, REGISTERS = 2, LANES = 4, NR = REGISTERS * LANES, BYTE_WORDS = 31, BYTE_PAIRS = 15 };

/* Bits set in each byte: a table of 16 counts, looked up for both nibbles. */
BD_INLINE __m256i popcount_bytes(__m256i x) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, //
                                            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(x, nibble);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(counts, low), _mm256_shuffle_epi8(counts, high));
}

/* out -= 2 * ones of the tile, and start the bytes anew: sums of eight bytes are a filter's count, in 64 bits. */
BD_INLINE void subtract_ones(size_t mr, __m256i bytes[][REGISTERS], int32_t *out, size_t out_stride) {
    const __m256i zero = _mm256_setzero_si256();
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        __m256 first = _mm256_castsi256_ps(_mm256_sad_epu8(bytes[m][0], zero));
        __m256 second = _mm256_castsi256_ps(_mm256_sad_epu8(bytes[m][1], zero));
        __m256i low_halves = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
        __m256i ones = _mm256_permute4x64_epi64(low_halves, 0xd8);
        __m256i *dots = (__m256i *)(out + m * out_stride);
        _mm256_storeu_si256(dots, _mm256_sub_epi32(_mm256_loadu_si256(dots), _mm256_add_epi32(ones, ones)));
        bytes[m][0] = bytes[m][1] = zero;
    }
}

/* The sums stand in `out`, so that the registers hold nothing but bytes, weights and the table. */
BD_INLINE void bgemm(size_t mr, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                     int32_t *out, size_t out_stride) {
    __m256i bytes[MR][REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        _mm256_storeu_si256((__m256i *)(out + m * out_stride), _mm256_set1_epi32(depth));
        bytes[m][0] = bytes[m][1] = _mm256_setzero_si256();
    }
    for (size_t first = 0; first < words; first += BYTE_WORDS) {
        size_t end = words - first < BYTE_WORDS ? words : first + BYTE_WORDS;
        if (first > 0)
            subtract_ones(mr, bytes, out, out_stride);
        for (size_t k = first; k < end; k++, weights += NR, tile += mr) {
            __m256i filters[REGISTERS];
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++)
                filters[n] = _mm256_loadu_si256((const __m256i *)(weights + n * LANES));
            BD_UNROLL
            for (size_t m = 0; m < mr; m++) {
                __m256i pixel = _mm256_set1_epi64x((long long)tile[m]);
                BD_UNROLL
                for (size_t n = 0; n < REGISTERS; n++)
                    bytes[m][n] = _mm256_add_epi8(bytes[m][n], popcount_bytes(_mm256_xor_si256(pixel, filters[n])));
            }
        }
    }
    subtract_ones(mr, bytes, out, out_stride);
}

void bd_bgemm_i32_4x8__avx2(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                            size_t out_stride) {
    bgemm(MR, words, depth, tile, weights, out, out_stride);
}

void bd_bgemv_i32_1x8__avx2(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                            size_t out_stride) {
    bgemm(1, words, depth, tile, weights, out, out_stride);
}

/* What falls between `before` and `first` or between `first` and `second`, never both: first ? ~second : before. */
BD_INLINE __m256i falling(__m256i before, __m256i first, __m256i second) {
    return _mm256_or_si256(_mm256_andnot_si256(first, before), _mm256_andnot_si256(second, first));
}

BD_INLINE __m256i differing(const uint64_t *pixel, const uint64_t *filters) {
    __m256i pixels = _mm256_set1_epi64x((long long)*pixel);
    return _mm256_xor_si256(pixels, _mm256_loadu_si256((const __m256i *)filters));
}

BD_INLINE void double_edges(__m256i bytes[][REGISTERS]) {
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            bytes[m][n] = _mm256_add_epi8(bytes[m][n], bytes[m][n]);
    }
}

/* The edges of so many pairs of words, at most BYTE_PAIRS. */
BD_INLINE void add_edges(size_t pairs, const uint64_t *tile, const uint64_t *weights, __m256i bytes[EDGE_MR][REGISTERS],
                         __m256i last[EDGE_MR][REGISTERS]) {
    for (; pairs > 0; pairs--, tile += 2 * EDGE_MR, weights += 2 * NR) {
        BD_UNROLL
        for (size_t m = 0; m < EDGE_MR; m++) {
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++) {
                __m256i first = differing(tile + m, weights + n * LANES);
                __m256i second = differing(tile + EDGE_MR + m, weights + NR + n * LANES);
                __m256i counts = popcount_bytes(falling(last[m][n], first, second));
                bytes[m][n] = _mm256_add_epi8(bytes[m][n], counts);
                last[m][n] = second;
            }
        }
    }
}

/* Half as many lookups as the plain kernel. Of an odd number the first word stands alone: before it all is 0, so
 * nothing falls. */
void bd_bgemm_edge_i32_2x8__avx2(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                 int32_t *out, size_t out_stride) {
    __m256i bytes[EDGE_MR][REGISTERS], last[EDGE_MR][REGISTERS];
    size_t odd = words % 2, pairs = words / 2;
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++) {
        _mm256_storeu_si256((__m256i *)(out + m * out_stride), _mm256_set1_epi32(depth));
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++) {
            bytes[m][n] = _mm256_setzero_si256();
            last[m][n] = odd ? differing(tile + m, weights + n * LANES) : bytes[m][n];
        }
    }
    tile += odd * EDGE_MR;
    weights += odd * NR;
    for (; pairs > BYTE_PAIRS; pairs -= BYTE_PAIRS) {
        add_edges(BYTE_PAIRS, tile, weights, bytes, last);
        tile += BYTE_PAIRS * 2 * EDGE_MR;
        weights += BYTE_PAIRS * 2 * NR;
        double_edges(bytes);
        subtract_ones(EDGE_MR, bytes, out, out_stride);
    }
    add_edges(pairs, tile, weights, bytes, last);
    double_edges(bytes);
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            bytes[m][n] = _mm256_add_epi8(bytes[m][n], popcount_bytes(last[m][n]));
    }
    subtract_ones(EDGE_MR, bytes, out, out_stride);
}

/* The bits of `count` <= 64 values: eight at a time, then one by one, so that nothing past them is read. */
BD_INLINE uint64_t binarize_word(const float *values, size_t count) {
    uint64_t word = 0;
    size_t c = 0;
    for (; c + 8 <= count; c += 8) {
        __m256 negative = _mm256_cmp_ps(_mm256_loadu_ps(values + c), _mm256_setzero_ps(), _CMP_NGE_UQ);
        word |= (uint64_t)(unsigned)_mm256_movemask_ps(negative) << c;
    }
    for (; c < count; c++)
        word |= (uint64_t)!(values[c] >= 0) << c;
    return word;
}

void bd_binarize_b1_1x1__avx2(size_t pixels, size_t channels, const float *values, uint64_t *bits) {
    for (size_t p = 0; p < pixels; p++, values += channels) {
        size_t c = 0;
        for (; c + 64 <= channels; c += 64)
            *bits++ = binarize_word(values + c, 64);
        if (c < channels)
            *bits++ = binarize_word(values + c, channels - c);
    }
}

void bd_affine_f32_1x1__avx2(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride, const float *scale,
                             const float *bias, const float *residual, float minimum, float maximum, float *out,
                             size_t out_stride) {
    const __m256 lowest = _mm256_set1_ps(minimum), highest = _mm256_set1_ps(maximum);
    size_t n = 0;
    for (; n + 8 <= filters; n += 8) {
        __m256 factors = _mm256_loadu_ps(scale + n), terms = _mm256_loadu_ps(bias + n);
        for (size_t m = 0; m < pixels; m++) {
            __m256i integers = _mm256_loadu_si256((const __m256i *)(dots + m * dots_stride + n));
            __m256 product = _mm256_mul_ps(factors, _mm256_cvtepi32_ps(integers));
            BD_ROUND_PRODUCT(product, "x");
            __m256 value = _mm256_add_ps(product, terms);
            if (residual != NULL)
                value = _mm256_add_ps(value, _mm256_loadu_ps(residual + m * out_stride + n));
            value = _mm256_min_ps(highest, _mm256_max_ps(lowest, value));
            _mm256_storeu_ps(out + m * out_stride + n, value);
        }
    }
    if (n < filters)
        bd_affine_f32_1x1__scalar(pixels, filters - n, dots + n, dots_stride, scale + n, bias + n,
                                  residual == NULL ? NULL : residual + n, minimum, maximum, out + n, out_stride);
}

void bd_threshold_b1_1x1__avx2(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                               const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,
                               size_t bits_stride) {
    size_t n = 0;
    for (; n + 8 <= filters; n += 8) {
        __m256i limits = _mm256_loadu_si256((const __m256i *)(thresholds + n));
        for (size_t m = 0; m < pixels; m++) {
            __m256i integers = _mm256_loadu_si256((const __m256i *)(dots + m * dots_stride + n));
            __m256 below = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limits, integers));
            uint64_t field = (unsigned)_mm256_movemask_ps(below);
            bd_put_field(bits + m * bits_stride, first + n, field ^ (flips >> n & 0xff));
        }
    }
    if (n < filters)
        bd_threshold_b1_1x1__scalar(pixels, filters - n, dots + n, dots_stride, thresholds + n, flips >> n, first + n,
                                    bits, bits_stride);
}

uint64_t bd_peak_u64_1x1__avx2(size_t rounds) {
    enum { CHAINS = 4 };
    __m256i ones[CHAINS], pixel = _mm256_set1_epi8(1), filters = _mm256_setzero_si256();
    BD_FORGET(filters, "x");
    BD_UNROLL
    for (size_t n = 0; n < CHAINS; n++)
        ones[n] = _mm256_setzero_si256();
    for (size_t i = 0; i < rounds; i++) {
        BD_UNROLL
        for (size_t n = 0; n < CHAINS; n++) {
            BD_FORGET(pixel, "x");
            ones[n] = _mm256_add_epi8(ones[n], popcount_bytes(_mm256_xor_si256(pixel, filters)));
            BD_FORGET(ones[n], "x");
        }
    }
    return (uint64_t)rounds * CHAINS * LANES * 64;
}

#define BINARIZE_PLANES_NAME bd_binarize_planes_b1_1x1__avx2
#include "planes.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
