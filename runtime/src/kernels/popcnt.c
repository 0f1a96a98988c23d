/* x86-64 with POPCNT: one filter a register. */
#include "declarations.h"

#if defined(__x86_64__)

#if !defined(__clang__)
#pragma GCC target("popcnt")
#endif
#include "tile.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("popcnt"))), apply_to = function)
#endif

enum { NR = 8 };

/* Eight sums fill the registers of one pixel. They stay there: a compiler that gathers them into vectors takes longer
 * to move the counts than to count. */
BD_INLINE void bgemm(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out) {
    uint64_t ones[NR] = {0};
    for (size_t k = 0; k < words; k++, weights += NR) {
        BD_UNROLL
        for (size_t n = 0; n < NR; n++) {
            ones[n] += (uint64_t)__builtin_popcountll(tile[k] ^ weights[n]);
            BD_FORGET(ones[n], "r");
        }
    }
    BD_UNROLL
    for (size_t n = 0; n < NR; n++)
        out[n] = depth - 2 * (int32_t)ones[n];
}

void bd_bgemm_i32_1x8__popcnt(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                              size_t out_stride) {
    (void)out_stride;
    bgemm(words, depth, tile, weights, out);
}

void bd_bgemv_i32_1x8__popcnt(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                              size_t out_stride) {
    (void)out_stride;
    bgemm(words, depth, tile, weights, out);
}

uint64_t bd_peak_u64_1x1__popcnt(size_t rounds) {
    enum { CHAINS = 8 };
    uint64_t ones[CHAINS] = {0}, pixel = 1;
    for (size_t i = 0; i < rounds; i++) {
        BD_UNROLL
        for (size_t n = 0; n < CHAINS; n++) {
            BD_FORGET(pixel, "r");
            ones[n] += (uint64_t)__builtin_popcountll(pixel ^ rounds);
            BD_FORGET(ones[n], "r");
        }
    }
    return (uint64_t)rounds * CHAINS * 64;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
