/* x86-64 with AVX2: products of 16-bit integers, since vpmaddubsw saturates sums of bytes. */
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

#include <string.h>

/* A register holds the 16 weights of four filters, and two sums for each of them. */
enum { LANES = 4 };

/* Four bytes of one pixel, for each of four filters. */
BD_INLINE __m256i four_of(const uint8_t *tile) {
    int32_t four;
    memcpy(&four, tile, sizeof four);
    return _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
}

/* Neighbours are one filter's: four sums of each half, put in order. */
BD_INLINE __m256i add_neighbours(__m256i first, __m256i second) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8);
}

BD_INLINE void igemm(size_t mr, size_t registers, size_t quads, const uint8_t *tile, const int8_t *weights,
                     const int32_t *offsets, int32_t *out, size_t out_stride) {
    __m256i sums[4][8];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            sums[m][n] = _mm256_setzero_si256();
    }
    for (size_t k = 0; k < quads; k++, weights += registers * LANES * 4) {
        __m256i pixels[4];
        BD_UNROLL
        for (size_t m = 0; m < mr; m++)
            pixels[m] = four_of(tile + (m * quads + k) * 4);
        BD_UNROLL
        for (size_t n = 0; n < registers; n++) {
            const __m128i *bytes = (const __m128i *)(const void *)(weights + n * LANES * 4);
            __m256i filters = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
            BD_UNROLL
            for (size_t m = 0; m < mr; m++)
                sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(pixels[m], filters));
        }
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n += 2) {
            __m256i start = _mm256_loadu_si256((const __m256i *)(const void *)(offsets + n * LANES));
            __m256i total = _mm256_add_epi32(start, add_neighbours(sums[m][n], sums[m][n + 1]));
            _mm256_storeu_si256((__m256i *)(void *)(out + m * out_stride + n * LANES), total);
        }
    }
}

void bd_igemm_i32_4x8__avx2(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                            int32_t *out, size_t out_stride) {
    igemm(4, 2, quads, tile, weights, offsets, out, out_stride);
}

void bd_igemv_i32_1x32__avx2(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                             int32_t *out, size_t out_stride) {
    igemm(1, 8, quads, tile, weights, offsets, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
