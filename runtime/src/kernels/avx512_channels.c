/* Channel by channel, x86-64 with AVX-512: sixteen floats or 64 bytes a register. */
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

#define FAFFINE_NAME bd_faffine_f32_1x1__avx512
#define FPRELU_NAME bd_fprelu_f32_1x1__avx512
#define AFFINE_PRELU_NAME bd_affine_prelu_f32_1x1__avx512
#define BINARIZE_WITHIN_NAME bd_binarize_within_b1_1x1__avx512
#define BINARIZE_PLANES_WITHIN_NAME bd_binarize_planes_within_b1_1x1__avx512
#define FDEPTHWISE_NAME bd_fdepthwise_f32_1x1__avx512
#define FMAX_NAME bd_fmax_f32_1x1__avx512
#define FMEAN_NAME bd_fmean_f32_1x1__avx512
#define ROUND_PRODUCT(product) BD_ROUND_PRODUCT(product, "v")
#define KNOWN_WINDOWS 1
enum { LANES = 16 };
typedef float vector __attribute__((vector_size(64)));

BD_INLINE __mmask16 first(size_t count) {
    return (__mmask16)((1u << count) - 1);
}

BD_INLINE vector load_some(const float *from, size_t count) {
    return _mm512_maskz_loadu_ps(first(count), from);
}

BD_INLINE void store_some(float *to, vector values, size_t count) {
    _mm512_mask_storeu_ps(to, first(count), values);
}

BD_INLINE vector multiply_add(vector sum, vector a, vector b) {
    return _mm512_fmadd_ps(a, b, sum);
}

BD_INLINE vector larger(vector a, vector b) {
    return _mm512_max_ps(a, b);
}

BD_INLINE vector smaller(vector a, vector b) {
    return _mm512_min_ps(a, b);
}

BD_INLINE vector if_negative(vector test, vector a, vector b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}

BD_INLINE uint64_t outside(vector values, vector lowest, vector highest) {
    __mmask16 inside = _mm512_cmp_ps_mask(values, lowest, _CMP_GE_OQ);
    return (uint16_t)~_mm512_mask_cmp_ps_mask(inside, values, highest, _CMP_LE_OQ);
}

BD_INLINE __m512i lanes_outside(vector values, vector lowest, vector highest) {
    return _mm512_maskz_set1_epi32((__mmask16)outside(values, lowest, highest), -1);
}

#include "channels.h"

/* A byte counts a channel, from -TAPS to TAPS: 64 channels a register. */
enum { TAPS = 127 };

BD_INLINE __m512i count_word(const struct bd_taps *taps, const uint64_t *input, const uint64_t *weights) {
    const __m512i two = _mm512_set1_epi8(2);
    __m512i sums = _mm512_set1_epi8((char)(taps->height * taps->width));
    for (size_t y = 0; y < taps->height; y++)
        for (size_t x = 0; x < taps->width; x++) {
            uint64_t ones =
                input[y * taps->row + x * taps->column] ^ weights[y * taps->weight_row + x * taps->channels];
            sums = _mm512_mask_sub_epi8(sums, (__mmask64)ones, sums, two);
        }
    return sums;
}

void bd_bdepthwise_i32_1x1__avx512(const struct bd_taps *taps, size_t pixels, const uint64_t *input,
                                   const uint64_t *weights, int32_t *out) {
    if (taps->height * taps->width > TAPS) {
        bd_bdepthwise_i32_1x1__scalar(taps, pixels, input, weights, out);
        return;
    }
    for (size_t m = 0; m < pixels; m++, input += taps->pixel)
        for (size_t word = 0; word < taps->channels; word++, out += 64) {
            __m512i sums = count_word(taps, input + word, weights + word);
            _mm512_storeu_si512(out, _mm512_cvtepi8_epi32(_mm512_castsi512_si128(sums)));
            _mm512_storeu_si512(out + 16, _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(sums, 1)));
            _mm512_storeu_si512(out + 32, _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(sums, 2)));
            _mm512_storeu_si512(out + 48, _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(sums, 3)));
        }
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
