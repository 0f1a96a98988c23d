/* Functions of floats with AVX-512: sixteen at once, what is left behind a mask. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))),                   \
                             apply_to = function)
#endif

#include "tile.h"

enum { LANES = 16 };
typedef __m512 vector;
#define MAP_NAME bd_map_f32_1x1__avx512
#define SOFTMAX_NAME bd_softmax_f32_1x1__avx512
#define LAYER_NORM_NAME bd_layer_norm_f32_1x1__avx512

BD_INLINE vector set(float value) {
    return _mm512_set1_ps(value);
}

BD_INLINE vector load(const float *from) {
    return _mm512_loadu_ps(from);
}

BD_INLINE void store(float *to, vector v) {
    _mm512_storeu_ps(to, v);
}

BD_INLINE vector load_some(const float *from, size_t count, float rest) {
    return _mm512_mask_loadu_ps(set(rest), (__mmask16)((1u << count) - 1), from);
}

BD_INLINE void store_some(float *to, size_t count, vector v) {
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), v);
}

BD_INLINE vector add(vector a, vector b) {
    return _mm512_add_ps(a, b);
}

BD_INLINE vector subtract(vector a, vector b) {
    return _mm512_sub_ps(a, b);
}

BD_INLINE vector multiply(vector a, vector b) {
    return _mm512_mul_ps(a, b);
}

BD_INLINE vector divide(vector a, vector b) {
    return _mm512_div_ps(a, b);
}

BD_INLINE vector multiply_add(vector a, vector b, vector c) {
    return _mm512_fmadd_ps(a, b, c);
}

BD_INLINE vector least(vector a, vector b) {
    return _mm512_min_ps(a, b);
}

BD_INLINE vector greatest(vector a, vector b) {
    return _mm512_max_ps(a, b);
}

BD_INLINE vector nearest(vector v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

BD_INLINE vector times_power(vector v, vector n) {
    return _mm512_scalef_ps(v, n);
}

BD_INLINE float sum(vector v) {
    return _mm512_reduce_add_ps(v);
}

BD_INLINE float largest(vector v) {
    return _mm512_reduce_max_ps(v);
}

BD_INLINE float inverse_root(float value) {
    return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(value)));
}

#include "functions.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
