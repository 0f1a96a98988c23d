/* x86-64 with AVX-512 BITALG: 64 filters a register, whose sums are bytes that vpaddsb saturates. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512bitalg,avx2,fma")
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512bitalg,avx2,fma"))),               \
    apply_to = function)
#endif

#include "tile.h"

#include <string.h>

enum { MR = 4, NR = 64, TURNS = 4, LANES = 16 };

/* The word turned by `turn` bytes, in every lane: the exclusive or reads it from memory so. */
BD_INLINE __m512i turned(const uint64_t *word, size_t turn) {
    int32_t bytes;
    memcpy(&bytes, (const char *)word + turn, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

BD_INLINE __m512i ones_of(const uint64_t *word, const __m512i filters[TURNS]) {
    __m512i ones[TURNS];
    BD_UNROLL
    for (size_t turn = 0; turn < TURNS; turn++)
        ones[turn] = _mm512_popcnt_epi8(_mm512_xor_si512(turned(word, turn), filters[turn]));
    return _mm512_add_epi8(_mm512_add_epi8(ones[0], ones[1]), _mm512_add_epi8(ones[2], ones[3]));
}

BD_INLINE __m512i load_sums(const int32_t *start) {
    __m512i sums = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(_mm512_loadu_si512(start)));
    sums = _mm512_inserti32x4(sums, _mm512_cvtepi32_epi8(_mm512_loadu_si512(start + LANES)), 1);
    sums = _mm512_inserti32x4(sums, _mm512_cvtepi32_epi8(_mm512_loadu_si512(start + 2 * LANES)), 2);
    return _mm512_inserti32x4(sums, _mm512_cvtepi32_epi8(_mm512_loadu_si512(start + 3 * LANES)), 3);
}

BD_INLINE void store_sums(__m512i sums, int32_t *out) {
    _mm512_storeu_si512(out, _mm512_cvtepi8_epi32(_mm512_castsi512_si128(sums)));
    _mm512_storeu_si512(out + LANES, _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(sums, 1)));
    _mm512_storeu_si512(out + 2 * LANES, _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(sums, 2)));
    _mm512_storeu_si512(out + 3 * LANES, _mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(sums, 3)));
}

BD_INLINE void sgemm(size_t mr, size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                     const int32_t *start, int32_t *out, size_t out_stride) {
    __m512i sums[MR];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++)
        sums[m] = start == NULL ? _mm512_setzero_si512() : load_sums(start + m * out_stride);
    for (size_t k = 0; k < words; k++, tile += mr, weights += TURNS * NR) {
        __m512i depth = _mm512_set1_epi8(depths[k]), filters[TURNS];
        BD_UNROLL
        for (size_t turn = 0; turn < TURNS; turn++)
            filters[turn] = _mm512_loadu_si512(weights + turn * NR);
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            __m512i ones = ones_of(tile + m, filters);
            sums[m] = _mm512_adds_epi8(sums[m], _mm512_sub_epi8(_mm512_sub_epi8(depth, ones), ones));
        }
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++)
        store_sums(sums[m], out + m * out_stride);
}

void bd_sgemm_i32_4x64__avx512(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                               const int32_t *start, int32_t *out, size_t out_stride) {
    sgemm(MR, words, depths, tile, weights, start, out, out_stride);
}

void bd_sgemv_i32_1x64__avx512(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                               const int32_t *start, int32_t *out, size_t out_stride) {
    sgemm(1, words, depths, tile, weights, start, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
