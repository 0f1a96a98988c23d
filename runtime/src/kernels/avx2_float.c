/* Float products, x86-64 with AVX2 and FMA: eight filters a register. */
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

/* All ones in the first `count` lanes. */
BD_INLINE __m256i first(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

#define FGEMM_NAME bd_fgemm_f32_6x16__avx2
#define FGEMM_AFFINE_NAME bd_fgemm_affine_f32_6x16__avx2
#define FGEMM_MR 6
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 8
#define FGEMM_VECTOR __m256
#define FGEMM_ZERO _mm256_setzero_ps
#define FGEMM_LOAD _mm256_loadu_ps
#define FGEMM_STORE _mm256_storeu_ps
#define FGEMM_MULTIPLY_ADD(sum, weights, value) _mm256_fmadd_ps(weights, _mm256_set1_ps(value), sum)
#define FGEMM_SPREAD _mm256_set1_ps
#define FGEMM_ADD _mm256_add_ps
#define FGEMM_LARGER _mm256_max_ps
#define FGEMM_SMALLER _mm256_min_ps
#define FGEMM_LOAD_SOME(from, count) _mm256_maskload_ps(from, first(count))
#define FGEMM_STORE_SOME(to, vector, count) _mm256_maskstore_ps(to, first(count), vector)
#include "fgemm.h"

#define FGEMM_NAME bd_fgemv_f32_1x16__avx2
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 8
#define FGEMM_VECTOR __m256
#define FGEMM_ZERO _mm256_setzero_ps
#define FGEMM_LOAD _mm256_loadu_ps
#define FGEMM_STORE _mm256_storeu_ps
#define FGEMM_MULTIPLY_ADD(sum, weights, value) _mm256_fmadd_ps(weights, _mm256_set1_ps(value), sum)
#define FGEMM_ADD _mm256_add_ps
#include "fgemv.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
