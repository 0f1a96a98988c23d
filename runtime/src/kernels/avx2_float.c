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

#define FGEMM_NAME bd_fgemm_f32_6x16__avx2
#define FGEMM_MR 6
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 8
#define FGEMM_VECTOR __m256
#define FGEMM_ZERO _mm256_setzero_ps
#define FGEMM_LOAD _mm256_loadu_ps
#define FGEMM_STORE _mm256_storeu_ps
#define FGEMM_MULTIPLY_ADD(sum, weights, value) _mm256_fmadd_ps(weights, _mm256_set1_ps(value), sum)
#include "fgemm.h"

#define FGEMM_NAME bd_fgemv_f32_1x16__avx2
#define FGEMM_MR 1
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 8
#define FGEMM_VECTOR __m256
#define FGEMM_ZERO _mm256_setzero_ps
#define FGEMM_LOAD _mm256_loadu_ps
#define FGEMM_STORE _mm256_storeu_ps
#define FGEMM_MULTIPLY_ADD(sum, weights, value) _mm256_fmadd_ps(weights, _mm256_set1_ps(value), sum)
#include "fgemm.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
