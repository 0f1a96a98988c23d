/* Functions of floats with AVX2 and FMA: eight at once, what is left behind a mask. */
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

enum { LANES = 8 };
typedef __m256 vector;
#define MAP_NAME bd_map_f32_1x1__avx2
#define SOFTMAX_NAME bd_softmax_f32_1x1__avx2
#define LAYER_NORM_NAME bd_layer_norm_f32_1x1__avx2

BD_INLINE vector set(float value) {
    return _mm256_set1_ps(value);
}

BD_INLINE vector load(const float *from) {
    return _mm256_loadu_ps(from);
}

BD_INLINE void store(float *to, vector v) {
    _mm256_storeu_ps(to, v);
}

/* The first `count` lanes. */
BD_INLINE __m256i lanes(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

BD_INLINE vector load_some(const float *from, size_t count, float rest) {
    __m256i some = lanes(count);
    return _mm256_blendv_ps(set(rest), _mm256_maskload_ps(from, some), _mm256_castsi256_ps(some));
}

BD_INLINE void store_some(float *to, size_t count, vector v) {
    _mm256_maskstore_ps(to, lanes(count), v);
}

BD_INLINE vector add(vector a, vector b) {
    return _mm256_add_ps(a, b);
}

BD_INLINE vector subtract(vector a, vector b) {
    return _mm256_sub_ps(a, b);
}

BD_INLINE vector multiply(vector a, vector b) {
    return _mm256_mul_ps(a, b);
}

BD_INLINE vector divide(vector a, vector b) {
    return _mm256_div_ps(a, b);
}

BD_INLINE vector multiply_add(vector a, vector b, vector c) {
    return _mm256_fmadd_ps(a, b, c);
}

BD_INLINE vector least(vector a, vector b) {
    return _mm256_min_ps(a, b);
}

BD_INLINE vector greatest(vector a, vector b) {
    return _mm256_max_ps(a, b);
}

BD_INLINE vector nearest(vector v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

BD_INLINE vector times_power(vector v, vector n) {
    __m256i exponents = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponents, 23)));
}

BD_INLINE float sum(vector v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

BD_INLINE float largest(vector v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

BD_INLINE float inverse_root(float value) {
    return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value)));
}

#include "functions.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
