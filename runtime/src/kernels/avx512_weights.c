/* x86-64 with AVX-512: sums of activations, found in tables by codes of packed weights. A register is a table. */
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

#include "tile.h"

#include <string.h>

enum { FLOAT_BITS = 4, FLOATS = 16, FLOAT_CODES = 8, SHORT_BITS = 5, SHORTS = 32, SHORT_CODES = 3 };

/* Sums of 16-bit integers that fit whatever the activations are: one entry is at most 5 * 128. */
enum { SAFE_CODES = INT16_MAX / (SHORT_BITS * 128) };

/* Entry `code` is the sum of four products with the signs of its bits: two pairs, so that no chain is long. */
BD_INLINE __m512 float_table(__m128 four) {
    const __m512 one = _mm512_set1_ps(1), minus = _mm512_set1_ps(-1);
    const __m512 first = _mm512_mask_blend_ps(0xaaaa, one, minus), second = _mm512_mask_blend_ps(0xcccc, one, minus);
    const __m512 third = _mm512_mask_blend_ps(0xf0f0, one, minus), fourth = _mm512_mask_blend_ps(0xff00, one, minus);
    __m512 all = _mm512_broadcast_f32x4(four);
    __m512 low = _mm512_mul_ps(first, _mm512_permute_ps(all, 0x00));
    __m512 high = _mm512_mul_ps(third, _mm512_permute_ps(all, 0xaa));
    low = _mm512_fmadd_ps(second, _mm512_permute_ps(all, 0x55), low);
    return _mm512_add_ps(low, _mm512_fmadd_ps(fourth, _mm512_permute_ps(all, 0xff), high));
}

void bd_tables_f32_4x16__avx512(size_t pixels, size_t channels, const float *x, float *tables) {
    for (size_t p = 0; p < pixels; p++, x += channels) {
        size_t c = 0;
        for (; c + FLOAT_BITS <= channels; c += FLOAT_BITS, tables += FLOATS)
            _mm512_storeu_ps(tables, float_table(_mm_loadu_ps(x + c)));
        if (c < channels) {
            __mmask8 present = (__mmask8)((1u << (channels - c)) - 1);
            _mm512_storeu_ps(tables, float_table(_mm_maskz_loadu_ps(present, x + c)));
            tables += FLOATS;
        }
    }
}

/* vpermps reads the low four bits of an index: the codes of a word are shifted down one after the other. */
BD_INLINE void float_lookup(size_t mr, size_t registers, size_t taps, size_t groups, const float *const *rows,
                            const uint32_t *weights, float *out, size_t out_stride) {
    __m512 sums[8][4];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            sums[m][n] = _mm512_setzero_ps();
    }
    for (size_t t = 0; t < taps; t++, rows += mr)
        for (size_t g = 0; g < groups; weights += registers * FLOATS) {
            size_t end = groups - g < FLOAT_CODES ? groups : g + FLOAT_CODES;
            __m512i codes[4];
            BD_UNROLL
            for (size_t n = 0; n < registers; n++)
                codes[n] = _mm512_loadu_si512(weights + n * FLOATS);
            for (; g < end; g++) {
                BD_UNROLL
                for (size_t m = 0; m < mr; m++) {
                    __m512 table = _mm512_loadu_ps(rows[m] + g * FLOATS);
                    BD_UNROLL
                    for (size_t n = 0; n < registers; n++)
                        sums[m][n] = _mm512_add_ps(sums[m][n], _mm512_permutexvar_ps(codes[n], table));
                }
                BD_UNROLL
                for (size_t n = 0; n < registers; n++)
                    codes[n] = _mm512_srli_epi32(codes[n], FLOAT_BITS);
            }
        }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            _mm512_storeu_ps(out + m * out_stride + n * FLOATS, sums[m][n]);
    }
}

void bd_wgemm_f32_8x32__avx512(size_t taps, size_t groups, const void *const *rows, const void *weights, float *out,
                               size_t out_stride) {
    float_lookup(8, 2, taps, groups, (const float *const *)rows, weights, out, out_stride);
}

void bd_wgemv_f32_1x64__avx512(size_t taps, size_t groups, const void *const *rows, const void *weights, float *out,
                               size_t out_stride) {
    float_lookup(1, 4, taps, groups, (const float *const *)rows, weights, out, out_stride);
}

/* Word `code` is the sum of five bytes with the signs of its bits. vpmaddubsw sums the products of pairs, and its first
 * factor has no sign: it reads x + 128, and 128 times the sum of the signs is taken off again. */
BD_INLINE __m512i short_table(const uint8_t *five) {
    const __m512i one = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1), offset = _mm512_set1_epi8(-128);
    const __m512i first = _mm512_mask_blend_epi8(UINT64_C(0xe4e4e4e4e4e4e4e4), one, minus);
    const __m512i second = _mm512_mask_blend_epi8(UINT64_C(0xffaa5500ffaa5500), one, minus);
    const __m512i third = _mm512_mask_blend_epi8(UINT64_C(0xffffffff00000000), one, minus);
    const __m512i last = _mm512_set1_epi16(0x0080);
    const __m512i surplus =
        _mm512_add_epi16(_mm512_maddubs_epi16(last, third),
                         _mm512_add_epi16(_mm512_maddubs_epi16(offset, first), _mm512_maddubs_epi16(offset, second)));
    long long bytes;
    memcpy(&bytes, five, sizeof bytes);
    __m512i all = _mm512_set1_epi64(bytes);
    __m512i low = _mm512_maddubs_epi16(_mm512_shuffle_epi8(all, _mm512_set1_epi16(0x0100)), first);
    __m512i high = _mm512_maddubs_epi16(_mm512_shuffle_epi8(all, _mm512_set1_epi16(0x0302)), second);
    __m512i fifth = _mm512_maddubs_epi16(_mm512_shuffle_epi8(all, _mm512_set1_epi16((short)0x8004)), third);
    return _mm512_add_epi16(_mm512_add_epi16(low, high), _mm512_sub_epi16(fifth, surplus));
}

/* Sixteen floats as integers + 128, lanes that are not present as 128. NaN is the lowest: max gives its second operand
 * then. */
BD_INLINE __m128i quantize(__mmask16 present, const float *x, __m512 scale) {
    __m512 value = _mm512_div_ps(_mm512_maskz_loadu_ps(present, x), scale);
    value = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(-128)), _mm512_set1_ps(127));
    return _mm_xor_si128(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)), _mm_set1_epi8(-128));
}

/* Integers of one pixel that are made at once: a multiple of 16 and of the channels of a table. */
enum { SOME_CHANNELS = 16 * SHORT_BITS };

void bd_tables_i16_5x32__avx512(size_t pixels, size_t channels, const float *x, float scale, int16_t *tables) {
    const __m512 scales = _mm512_set1_ps(scale);
    uint8_t integers[SOME_CHANNELS + 16];
    for (size_t p = 0; p < pixels; p++, x += channels)
        for (size_t first = 0; first < channels; first += SOME_CHANNELS) {
            size_t some = channels - first < SOME_CHANNELS ? channels - first : SOME_CHANNELS;
            for (size_t c = 0; c < some; c += 16) {
                __mmask16 present = (__mmask16)(some - c < 16 ? (1u << (some - c)) - 1 : 0xffff);
                _mm_storeu_si128((__m128i *)(void *)(integers + c), quantize(present, x + first + c, scales));
            }
            memset(integers + some, 128, SHORT_BITS);
            for (size_t c = 0; c < some; c += SHORT_BITS, tables += SHORTS)
                _mm512_storeu_si512(tables, short_table(integers + c));
        }
}

/* Adds 32 sums of 16 bits to those of 32. */
BD_INLINE void widen(__m512i sums, int32_t *out) {
    __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sums));
    __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sums, 1));
    _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_loadu_si512(out), low));
    _mm512_storeu_si512(out + FLOATS, _mm512_add_epi32(_mm512_loadu_si512(out + FLOATS), high));
}

/* The same with vpermw, which reads five bits; before 16 bits could overflow, they are widened into the output. */
BD_INLINE void short_lookup(size_t mr, size_t registers, size_t taps, size_t groups, const int16_t *const *rows,
                            const uint16_t *weights, int32_t *out, size_t out_stride) {
    __m512i sums[8][2];
    size_t pending = 0;
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++) {
            sums[m][n] = _mm512_setzero_si512();
            _mm512_storeu_si512(out + m * out_stride + n * SHORTS, sums[m][n]);
            _mm512_storeu_si512(out + m * out_stride + n * SHORTS + FLOATS, sums[m][n]);
        }
    }
    for (size_t t = 0; t < taps; t++, rows += mr)
        for (size_t g = 0; g < groups; weights += registers * SHORTS) {
            size_t end = groups - g < SHORT_CODES ? groups : g + SHORT_CODES;
            __m512i codes[2];
            BD_UNROLL
            for (size_t n = 0; n < registers; n++)
                codes[n] = _mm512_loadu_si512(weights + n * SHORTS);
            for (pending += SHORT_CODES; g < end; g++) {
                BD_UNROLL
                for (size_t m = 0; m < mr; m++) {
                    __m512i table = _mm512_loadu_si512(rows[m] + g * SHORTS);
                    BD_UNROLL
                    for (size_t n = 0; n < registers; n++)
                        sums[m][n] = _mm512_add_epi16(sums[m][n], _mm512_permutexvar_epi16(codes[n], table));
                }
                BD_UNROLL
                for (size_t n = 0; n < registers; n++)
                    codes[n] = _mm512_srli_epi16(codes[n], SHORT_BITS);
            }
            if (pending + SHORT_CODES <= SAFE_CODES && (g < groups || t + 1 < taps))
                continue;
            pending = 0;
            BD_UNROLL
            for (size_t m = 0; m < mr; m++) {
                BD_UNROLL
                for (size_t n = 0; n < registers; n++) {
                    widen(sums[m][n], out + m * out_stride + n * SHORTS);
                    sums[m][n] = _mm512_setzero_si512();
                }
            }
        }
}

void bd_wgemm_i32_8x64__avx512(size_t taps, size_t groups, const void *const *rows, const void *weights, int32_t *out,
                               size_t out_stride) {
    short_lookup(8, 2, taps, groups, (const int16_t *const *)rows, weights, out, out_stride);
}

void bd_wgemv_i32_1x64__avx512(size_t taps, size_t groups, const void *const *rows, const void *weights, int32_t *out,
                               size_t out_stride) {
    short_lookup(1, 2, taps, groups, (const int16_t *const *)rows, weights, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
