/* Float products, x86-64 with AVX-512: sixteen filters a register. */
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

BD_INLINE __mmask16 first(size_t count) {
    return (__mmask16)((1u << count) - 1);
}

#define FGEMM_NAME bd_fgemm_f32_7x16__avx512
#define FGEMM_AFFINE_NAME bd_fgemm_affine_f32_7x16__avx512
#define FGEMM_MR 7
#define FGEMM_REGISTERS 1
#define FGEMM_LANES 16
#define FGEMM_VECTOR __m512
#define FGEMM_ZERO _mm512_setzero_ps
#define FGEMM_LOAD _mm512_loadu_ps
#define FGEMM_STORE _mm512_storeu_ps
#define FGEMM_MULTIPLY_ADD(sum, weights, value) _mm512_fmadd_ps(weights, _mm512_set1_ps(value), sum)
#define FGEMM_SPREAD _mm512_set1_ps
#define FGEMM_ADD _mm512_add_ps
#define FGEMM_LARGER _mm512_max_ps
#define FGEMM_SMALLER _mm512_min_ps
#define FGEMM_LOAD_SOME(from, count) _mm512_maskz_loadu_ps(first(count), from)
#define FGEMM_STORE_SOME(to, vector, count) _mm512_mask_storeu_ps(to, first(count), vector)
#include "fgemm.h"

#define FGEMM_NAME bd_fgemv_f32_1x16__avx512
#define FGEMM_REGISTERS 1
#define FGEMM_LANES 16
#define FGEMM_VECTOR __m512
#define FGEMM_ZERO _mm512_setzero_ps
#define FGEMM_LOAD _mm512_loadu_ps
#define FGEMM_STORE _mm512_storeu_ps
#define FGEMM_MULTIPLY_ADD(sum, weights, value) _mm512_fmadd_ps(weights, _mm512_set1_ps(value), sum)
#define FGEMM_ADD _mm512_add_ps
#include "fgemv.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
