/* Channel by channel, x86-64 with AVX2 and FMA: eight floats or 32 bytes a register. */
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

#define FAFFINE_NAME bd_faffine_f32_1x1__avx2
#define FPRELU_NAME bd_fprelu_f32_1x1__avx2
#define AFFINE_PRELU_NAME bd_affine_prelu_f32_1x1__avx2
#define BINARIZE_WITHIN_NAME bd_binarize_within_b1_1x1__avx2
#define BINARIZE_PLANES_WITHIN_NAME bd_binarize_planes_within_b1_1x1__avx2
#define FDEPTHWISE_NAME bd_fdepthwise_f32_1x1__avx2
#define FMAX_NAME bd_fmax_f32_1x1__avx2
#define FMEAN_NAME bd_fmean_f32_1x1__avx2
#define ROUND_PRODUCT(product) BD_ROUND_PRODUCT(product, "x")
#define KNOWN_WINDOWS 1
enum { LANES = 8 };
typedef float vector __attribute__((vector_size(32)));

/* All ones in the first `count` lanes. */
BD_INLINE __m256i first(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

BD_INLINE vector load_some(const float *from, size_t count) {
    return _mm256_maskload_ps(from, first(count));
}

BD_INLINE void store_some(float *to, vector values, size_t count) {
    _mm256_maskstore_ps(to, first(count), values);
}

BD_INLINE vector multiply_add(vector sum, vector a, vector b) {
    return _mm256_fmadd_ps(a, b, sum);
}

BD_INLINE vector larger(vector a, vector b) {
    return _mm256_max_ps(a, b);
}

BD_INLINE vector smaller(vector a, vector b) {
    return _mm256_min_ps(a, b);
}

BD_INLINE vector if_negative(vector test, vector a, vector b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_LT_OQ));
}

BD_INLINE __m256 lanes_outside(vector values, vector lowest, vector highest) {
    __m256 below = _mm256_cmp_ps(values, lowest, _CMP_NGE_UQ), above = _mm256_cmp_ps(values, highest, _CMP_NLE_UQ);
    return _mm256_or_ps(below, above);
}

BD_INLINE uint64_t outside(vector values, vector lowest, vector highest) {
    return (unsigned)_mm256_movemask_ps(lanes_outside(values, lowest, highest));
}

#include "channels.h"

/* A byte counts a channel, from -TAPS to TAPS: 32 channels a register. */
enum { TAPS = 127 };

/* All ones in byte i where bit i of 32 is set. */
BD_INLINE __m256i spread_bits(uint32_t bits) {
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, //
                                             2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i own = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte_of);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
}

/* 32 sums -> 32-bit integers */
BD_INLINE void store_sums(__m256i sums, int32_t *out) {
    __m128i low = _mm256_castsi256_si128(sums), high = _mm256_extracti128_si256(sums, 1);
    _mm256_storeu_si256((__m256i *)out, _mm256_cvtepi8_epi32(low));
    _mm256_storeu_si256((__m256i *)(out + 8), _mm256_cvtepi8_epi32(_mm_srli_si128(low, 8)));
    _mm256_storeu_si256((__m256i *)(out + 16), _mm256_cvtepi8_epi32(high));
    _mm256_storeu_si256((__m256i *)(out + 24), _mm256_cvtepi8_epi32(_mm_srli_si128(high, 8)));
}

BD_INLINE void count_word(const struct bd_taps *taps, const uint64_t *input, const uint64_t *weights, int32_t *out) {
    __m256i low = _mm256_set1_epi8((char)(taps->height * taps->width)), high = low;
    for (size_t y = 0; y < taps->height; y++)
        for (size_t x = 0; x < taps->width; x++) {
            uint64_t ones =
                input[y * taps->row + x * taps->column] ^ weights[y * taps->weight_row + x * taps->channels];
            __m256i minus_low = spread_bits((uint32_t)ones), minus_high = spread_bits((uint32_t)(ones >> 32));
            low = _mm256_add_epi8(low, _mm256_add_epi8(minus_low, minus_low));
            high = _mm256_add_epi8(high, _mm256_add_epi8(minus_high, minus_high));
        }
    store_sums(low, out);
    store_sums(high, out + 32);
}

void bd_bdepthwise_i32_1x1__avx2(const struct bd_taps *taps, size_t pixels, const uint64_t *input,
                                 const uint64_t *weights, int32_t *out) {
    if (taps->height * taps->width > TAPS) {
        bd_bdepthwise_i32_1x1__scalar(taps, pixels, input, weights, out);
        return;
    }
    for (size_t m = 0; m < pixels; m++, input += taps->pixel)
        for (size_t word = 0; word < taps->channels; word++, out += 64)
            count_word(taps, input + word, weights + word, out);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
