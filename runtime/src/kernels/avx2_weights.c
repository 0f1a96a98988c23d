/* x86-64 with AVX2: sums of activations, found in tables by codes of packed weights. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("avx2,fma")
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif

#include "tile.h"

/* A table of floats is one register; a table of 16-bit sums two halves of one, for vpshufb reads 16 bytes: first the
 * low bytes of all sums, then the high ones. */
enum { FLOAT_BITS = 3, FLOATS = 8, FLOAT_CODES = 10, BYTE_BITS = 4, SHORTS = 16, FILTERS = 32, BYTE_CODES = 2 };

/* Codes whose sums fit in 16 bits whatever the activations are: one entry is at most 4 * 128. */
enum { SAFE_CODES = INT16_MAX / (BYTE_BITS * 128) };

/* Entry `code` is the sum of three products with the signs of its bits. */
BD_INLINE __m256 float_table(float first, float second, float third) {
    const __m256 signs = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 second_signs = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 third_signs = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    __m256 sum = _mm256_mul_ps(signs, _mm256_set1_ps(first));
    sum = _mm256_fmadd_ps(second_signs, _mm256_set1_ps(second), sum);
    return _mm256_fmadd_ps(third_signs, _mm256_set1_ps(third), sum);
}

void bd_tables_f32_3x8__avx2(size_t pixels, size_t channels, const float *x, float *tables) {
    for (size_t p = 0; p < pixels; p++, x += channels) {
        size_t c = 0;
        for (; c + FLOAT_BITS <= channels; c += FLOAT_BITS, tables += FLOATS)
            _mm256_storeu_ps(tables, float_table(x[c], x[c + 1], x[c + 2]));
        if (c < channels) {
            _mm256_storeu_ps(tables, float_table(x[c], c + 1 < channels ? x[c + 1] : 0, 0));
            tables += FLOATS;
        }
    }
}

/* vpermps reads the low three bits of an index: the codes of a word are shifted down one after the other. */
BD_INLINE void float_lookup(size_t mr, size_t registers, size_t taps, size_t groups, const float *const *rows,
                            const uint32_t *weights, float *out, size_t out_stride) {
    __m256 sums[4][4];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            sums[m][n] = _mm256_setzero_ps();
    }
    for (size_t t = 0; t < taps; t++, rows += mr)
        for (size_t g = 0; g < groups; weights += registers * FLOATS) {
            size_t end = groups - g < FLOAT_CODES ? groups : g + FLOAT_CODES;
            __m256i codes[4];
            BD_UNROLL
            for (size_t n = 0; n < registers; n++)
                codes[n] = _mm256_loadu_si256((const __m256i *)(const void *)(weights + n * FLOATS));
            for (; g < end; g++) {
                BD_UNROLL
                for (size_t m = 0; m < mr; m++) {
                    __m256 table = _mm256_loadu_ps(rows[m] + g * FLOATS);
                    BD_UNROLL
                    for (size_t n = 0; n < registers; n++)
                        sums[m][n] = _mm256_add_ps(sums[m][n], _mm256_permutevar8x32_ps(table, codes[n]));
                }
                BD_UNROLL
                for (size_t n = 0; n < registers; n++)
                    codes[n] = _mm256_srli_epi32(codes[n], FLOAT_BITS);
            }
        }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            _mm256_storeu_ps(out + m * out_stride + n * FLOATS, sums[m][n]);
    }
}

void bd_wgemm_f32_4x16__avx2(size_t taps, size_t groups, const void *const *rows, const void *weights, float *out,
                             size_t out_stride) {
    float_lookup(4, 2, taps, groups, (const float *const *)rows, weights, out, out_stride);
}

void bd_wgemv_f32_1x32__avx2(size_t taps, size_t groups, const void *const *rows, const void *weights, float *out,
                             size_t out_stride) {
    float_lookup(1, 4, taps, groups, (const float *const *)rows, weights, out, out_stride);
}

/* The sums of four bytes with the signs of each code's bits, low bytes first. */
BD_INLINE __m256i byte_table(const int8_t *x, size_t some) {
    const __m256i first = _mm256_set1_epi32((int)0xffff0001);
    const __m256i second = _mm256_set1_epi64x((int64_t)UINT64_C(0xffffffff00010001));
    const __m256i third = _mm256_setr_epi64x(0x0001000100010001, -1, 0x0001000100010001, -1);
    const __m256i fourth = _mm256_setr_epi64x(0x0001000100010001, 0x0001000100010001, -1, -1);
    const __m256i low_bytes = _mm256_set1_epi16(0x00ff);
    __m256i sum = _mm256_sign_epi16(_mm256_set1_epi16(x[0]), first);
    sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(some > 1 ? x[1] : 0), second));
    sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(some > 2 ? x[2] : 0), third));
    sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(some > 3 ? x[3] : 0), fourth));
    /* low bytes of both halves, high bytes of both: [l0 h0 | l1 h1] -> [l0 l1 | h0 h1] */
    __m256i planes = _mm256_packus_epi16(_mm256_and_si256(sum, low_bytes), _mm256_srli_epi16(sum, 8));
    return _mm256_permute4x64_epi64(planes, 0xd8);
}

/* Eight floats as integers of 16 bits. NaN is the lowest: max gives its second operand then. */
BD_INLINE void quantize(__m256 x, __m256 scale, int8_t *integers) {
    __m256 value = _mm256_div_ps(x, scale);
    value = _mm256_min_ps(_mm256_max_ps(value, _mm256_set1_ps(-128)), _mm256_set1_ps(127));
    __m256i words = _mm256_cvtps_epi32(value);
    __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storel_epi64((__m128i *)(void *)integers, _mm_packs_epi16(halves, halves));
}

/* Integers of one pixel that are made at once. */
enum { SOME_CHANNELS = 64 };

void bd_tables_i16_4x16__avx2(size_t pixels, size_t channels, const float *x, float scale, int16_t *tables) {
    const __m256 scales = _mm256_set1_ps(scale);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int8_t integers[SOME_CHANNELS];
    for (size_t p = 0; p < pixels; p++, x += channels)
        for (size_t first = 0; first < channels; first += SOME_CHANNELS) {
            size_t some = channels - first < SOME_CHANNELS ? channels - first : SOME_CHANNELS;
            for (size_t c = 0; c < some; c += 8) {
                __m256i present = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(some - c)), lanes);
                quantize(_mm256_maskload_ps(x + first + c, present), scales, integers + c);
            }
            for (size_t c = 0; c < some; c += BYTE_BITS, tables += SHORTS)
                _mm256_storeu_si256((__m256i *)(void *)tables, byte_table(integers + c, some - c));
        }
}

/* Adds 8 sums of 16 bits to those of 32. */
BD_INLINE void widen(__m128i sums, int32_t *out) {
    __m256i *to = (__m256i *)(void *)out;
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_cvtepi16_epi32(sums)));
}

/* Sums of filters 0..7 and 16..23, and of the other ones: as vpunpck puts bytes together. */
BD_INLINE void widen_all(__m256i even, __m256i odd, int32_t *out) {
    widen(_mm256_castsi256_si128(even), out);
    widen(_mm256_castsi256_si128(odd), out + 8);
    widen(_mm256_extracti128_si256(even, 1), out + 16);
    widen(_mm256_extracti128_si256(odd, 1), out + 24);
}

BD_INLINE void byte_lookup(size_t mr, size_t taps, size_t groups, const int16_t *const *rows, const uint8_t *weights,
                           int32_t *out, size_t out_stride) {
    const __m256i low_bits = _mm256_set1_epi8(15);
    __m256i even[4], odd[4];
    size_t pending = 0;
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        even[m] = odd[m] = _mm256_setzero_si256();
        for (size_t n = 0; n < FILTERS; n++)
            out[m * out_stride + n] = 0;
    }
    for (size_t t = 0; t < taps; t++, rows += mr)
        for (size_t g = 0; g < groups; weights += FILTERS) {
            size_t end = groups - g < BYTE_CODES ? groups : g + BYTE_CODES;
            __m256i codes = _mm256_loadu_si256((const __m256i *)(const void *)weights);
            for (pending += BYTE_CODES; g < end; g++) {
                __m256i code = _mm256_and_si256(codes, low_bits);
                BD_UNROLL
                for (size_t m = 0; m < mr; m++) {
                    const __m128i *table = (const __m128i *)(const void *)(rows[m] + g * SHORTS);
                    __m256i low = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table)), code);
                    __m256i high = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table + 1)), code);
                    even[m] = _mm256_add_epi16(even[m], _mm256_unpacklo_epi8(low, high));
                    odd[m] = _mm256_add_epi16(odd[m], _mm256_unpackhi_epi8(low, high));
                }
                codes = _mm256_srli_epi16(codes, BYTE_BITS);
            }
            if (pending + BYTE_CODES <= SAFE_CODES && (g < groups || t + 1 < taps))
                continue;
            pending = 0;
            BD_UNROLL
            for (size_t m = 0; m < mr; m++) {
                widen_all(even[m], odd[m], out + m * out_stride);
                even[m] = odd[m] = _mm256_setzero_si256();
            }
        }
}

void bd_wgemm_i32_4x32__avx2(size_t taps, size_t groups, const void *const *rows, const void *weights, int32_t *out,
                             size_t out_stride) {
    byte_lookup(4, taps, groups, (const int16_t *const *)rows, weights, out, out_stride);
}

void bd_wgemv_i32_1x32__avx2(size_t taps, size_t groups, const void *const *rows, const void *weights, int32_t *out,
                             size_t out_stride) {
    byte_lookup(1, taps, groups, (const int16_t *const *)rows, weights, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
