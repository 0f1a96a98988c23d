/* x86-64 with AVX2: 32 filters a register, whose sums are bytes that vpaddsb saturates. */
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

enum { MR = 4, NR = 32, TURNS = 4, LANES = 8 };

/* The word turned by `turn` bytes, in every lane. */
BD_INLINE __m256i turned(const uint64_t *word, size_t turn) {
    int32_t bytes;
    memcpy(&bytes, (const char *)word + turn, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

/* What each nibble adds to a sum: -2 for a bit of weight 1. */
BD_INLINE __m256i minus_twice_ones(void) {
    return _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -2, -2, -4, -2, -4, -4, -6, -2, -4, -4, -6, -4, -6, -6, -8));
}

BD_INLINE __m256i look_up(__m256i low_table, __m256i high_table, __m256i bits) {
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    __m256i low = _mm256_shuffle_epi8(low_table, _mm256_and_si256(bits, nibble));
    __m256i high = _mm256_shuffle_epi8(high_table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble));
    return _mm256_add_epi8(low, high);
}

/* depth - 2 * ones of four bytes. Three of them are added bit by bit, into sums of weight 1 and carries of weight 2, so
 * that three counts do for four; the depth is in one of the tables. */
BD_INLINE __m256i dot(__m256i depth_table, const uint64_t *word, const uint8_t *weights) {
    __m256i x[TURNS], table = minus_twice_ones();
    BD_UNROLL
    for (size_t turn = 0; turn < TURNS; turn++)
        x[turn] = _mm256_xor_si256(turned(word, turn),
                                   _mm256_loadu_si256((const __m256i *)(const void *)(weights + turn * NR)));
    __m256i differ = _mm256_xor_si256(x[0], x[1]);
    __m256i carry = _mm256_or_si256(_mm256_and_si256(differ, x[2]), _mm256_andnot_si256(differ, x[0]));
    __m256i sum = _mm256_xor_si256(differ, x[2]), twice = _mm256_add_epi8(table, table);
    __m256i singles = _mm256_add_epi8(look_up(depth_table, table, sum), look_up(table, table, x[3]));
    return _mm256_add_epi8(singles, look_up(twice, twice, carry));
}

/* Sixteen sums that fit bytes, as bytes: the packs take halves of registers in turn. */
BD_INLINE __m256i load_sums(const int32_t *start) {
    const __m256i *from = (const __m256i *)(const void *)start;
    __m256i low = _mm256_packs_epi32(_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1));
    __m256i high = _mm256_packs_epi32(_mm256_loadu_si256(from + 2), _mm256_loadu_si256(from + 3));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

BD_INLINE void store_sums(__m256i sums, int32_t *out) {
    __m128i halves[] = {_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)};
    BD_UNROLL
    for (size_t i = 0; i < 2; i++) {
        __m256i *to = (__m256i *)(void *)(out + 2 * i * LANES);
        _mm256_storeu_si256(to, _mm256_cvtepi8_epi32(halves[i]));
        _mm256_storeu_si256(to + 1, _mm256_cvtepi8_epi32(_mm_srli_si128(halves[i], LANES)));
    }
}

BD_INLINE void sgemm(size_t mr, size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                     const int32_t *start, int32_t *out, size_t out_stride) {
    __m256i sums[MR];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++)
        sums[m] = start == NULL ? _mm256_setzero_si256() : load_sums(start + m * out_stride);
    for (size_t k = 0; k < words; k++, tile += mr, weights += TURNS * NR) {
        __m256i depth_table = _mm256_add_epi8(minus_twice_ones(), _mm256_set1_epi8(depths[k]));
        BD_UNROLL
        for (size_t m = 0; m < mr; m++)
            sums[m] = _mm256_adds_epi8(sums[m], dot(depth_table, tile + m, weights));
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++)
        store_sums(sums[m], out + m * out_stride);
}

void bd_sgemm_i32_4x32__avx2(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                             const int32_t *start, int32_t *out, size_t out_stride) {
    sgemm(MR, words, depths, tile, weights, start, out, out_stride);
}

void bd_sgemv_i32_1x32__avx2(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                             const int32_t *start, int32_t *out, size_t out_stride) {
    sgemm(1, words, depths, tile, weights, start, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
