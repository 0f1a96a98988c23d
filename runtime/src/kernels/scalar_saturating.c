/* Sums of 8 bits in plain C, in loops over filters of which a compiler makes vectors of bytes where it has them. */
#include "declarations.h"
#include "tile.h"

#include <string.h>

enum { MR = 4, NR = 16, TURNS = 4, LOWEST = -128, HIGHEST = 127 };

/* ones[n] += bits set in byte n of the weights ^ the turned word, whose four bytes stand in for all. */
BD_INLINE void add_ones(const unsigned char *word, const uint8_t *weights, uint8_t *ones) {
    for (size_t n = 0; n < NR; n++) {
        uint8_t x = word[n % TURNS] ^ weights[n];
        x = (uint8_t)(x - (x >> 1 & 0x55));
        x = (uint8_t)((x & 0x33) + (x >> 2 & 0x33));
        ones[n] = (uint8_t)(ones[n] + ((x + (x >> 4)) & 0x0f));
    }
}

BD_INLINE void add_word(int depth, const uint64_t *word, const uint8_t *weights, int32_t *sums) {
    unsigned char bytes[2 * TURNS];
    uint8_t ones[NR] = {0};
    memcpy(bytes, word, sizeof bytes);
    for (size_t turn = 0; turn < TURNS; turn++)
        add_ones(bytes + turn, weights + turn * NR, ones);
    for (size_t n = 0; n < NR; n++) {
        int32_t sum = sums[n] + depth - 2 * ones[n];
        sum = sum < LOWEST ? LOWEST : sum;
        sums[n] = sum > HIGHEST ? HIGHEST : sum;
    }
}

BD_INLINE void sgemm(size_t mr, size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                     const int32_t *start, int32_t *out, size_t out_stride) {
    int32_t sums[MR][NR] = {{0}};
    for (size_t m = 0; m < mr && start != NULL; m++)
        memcpy(sums[m], start + m * out_stride, sizeof sums[m]);
    for (size_t k = 0; k < words; k++)
        for (size_t m = 0; m < mr; m++)
            add_word(depths[k], tile + k * mr + m, weights + k * TURNS * NR, sums[m]);
    for (size_t m = 0; m < mr; m++)
        memcpy(out + m * out_stride, sums[m], sizeof sums[m]);
}

void bd_sgemm_i32_4x16__scalar(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                               const int32_t *start, int32_t *out, size_t out_stride) {
    sgemm(MR, words, depths, tile, weights, start, out, out_stride);
}

void bd_sgemv_i32_1x16__scalar(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                               const int32_t *start, int32_t *out, size_t out_stride) {
    sgemm(1, words, depths, tile, weights, start, out, out_stride);
}
