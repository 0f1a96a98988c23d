/* x86-64 with AVX-512 VNNI: vpdpbusd adds four products of bytes to each of 16 sums, exact and without saturation. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512vnni,avx2,fma")
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512vnni,avx2,fma"))),                 \
    apply_to = function)
#endif

#include "tile.h"

#include <string.h>

enum { LANES = 16 };

/* Four bytes of one pixel in every lane. */
BD_INLINE __m512i four_of(const uint8_t *tile) {
    int32_t four;
    memcpy(&four, tile, sizeof four);
    return _mm512_set1_epi32(four);
}

/* The first factor has no sign: it is the tile as it stands, and the offsets take 128 times the weights off. */
BD_INLINE void igemm(size_t mr, size_t registers, size_t quads, const uint8_t *tile, const int8_t *weights,
                     const int32_t *offsets, int32_t *out, size_t out_stride) {
    __m512i sums[8][4];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            sums[m][n] = _mm512_loadu_si512(offsets + n * LANES);
    }
    for (size_t k = 0; k < quads; k++, weights += registers * LANES * 4) {
        __m512i filters[4];
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            filters[n] = _mm512_loadu_si512(weights + n * LANES * 4);
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            __m512i pixel = four_of(tile + (m * quads + k) * 4);
            BD_UNROLL
            for (size_t n = 0; n < registers; n++)
                sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], pixel, filters[n]);
        }
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            _mm512_storeu_si512(out + m * out_stride + n * LANES, sums[m][n]);
    }
}

void bd_igemm_i32_8x32__avx512(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                               int32_t *out, size_t out_stride) {
    igemm(8, 2, quads, tile, weights, offsets, out, out_stride);
}

void bd_igemv_i32_1x64__avx512(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                               int32_t *out, size_t out_stride) {
    igemm(1, 4, quads, tile, weights, offsets, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
