/* ARM with NEON, 64-bit and 32-bit: 16 filters a register, whose sums are bytes that vqadd saturates. */
#include "declarations.h"

#if defined(__ARM_NEON)

#include <arm_neon.h>

#include "tile.h"

#if defined(__aarch64__)
#define SGEMM_NAME bd_sgemm_i32_4x32__neon
#define SGEMV_NAME bd_sgemv_i32_1x32__neon
enum { REGISTERS = 2 };
#else
#define SGEMM_NAME bd_sgemm_i32_4x16__neon
#define SGEMV_NAME bd_sgemv_i32_1x16__neon
enum { REGISTERS = 1 };
#endif

enum { MR = 4, LANES = 16, NR = REGISTERS * LANES, TURNS = 4 };

BD_INLINE uint8x16_t count_differing(uint8x16_t pixel, uint8x16_t filters) {
    return vcntq_u8(veorq_u8(pixel, filters));
}

/* The ones of a word's four bytes: `pixel` has the word four times and is turned byte by byte. */
BD_INLINE uint8x16_t ones_of(const uint8x16_t pixel[TURNS], const uint8x16_t filters[TURNS]) {
    uint8x16_t first = vaddq_u8(count_differing(pixel[0], filters[0]), count_differing(pixel[1], filters[1]));
    uint8x16_t second = vaddq_u8(count_differing(pixel[2], filters[2]), count_differing(pixel[3], filters[3]));
    return vaddq_u8(first, second);
}

BD_INLINE int8x16_t load_sums(const int32_t *start) {
    int16x8_t low = vcombine_s16(vmovn_s32(vld1q_s32(start)), vmovn_s32(vld1q_s32(start + 4)));
    int16x8_t high = vcombine_s16(vmovn_s32(vld1q_s32(start + 8)), vmovn_s32(vld1q_s32(start + 12)));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

BD_INLINE void store_sums(int8x16_t sums, int32_t *out) {
    const int16x8_t halves[] = {vmovl_s8(vget_low_s8(sums)), vmovl_s8(vget_high_s8(sums))};
    BD_UNROLL
    for (size_t i = 0; i < 2; i++) {
        vst1q_s32(out + 8 * i, vmovl_s16(vget_low_s16(halves[i])));
        vst1q_s32(out + 8 * i + 4, vmovl_s16(vget_high_s16(halves[i])));
    }
}

BD_INLINE void sgemm(size_t mr, size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights,
                     const int32_t *start, int32_t *out, size_t out_stride) {
    int8x16_t sums[MR][REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            sums[m][n] = start == NULL ? vdupq_n_s8(0) : load_sums(start + m * out_stride + n * LANES);
    }
    for (size_t k = 0; k < words; k++, tile += mr, weights += TURNS * NR) {
        uint8x16_t depth = vreinterpretq_u8_s8(vld1q_dup_s8(depths + k)), filters[REGISTERS][TURNS];
        BD_UNROLL
        for (size_t i = 0; i < TURNS * REGISTERS; i++)
            filters[i % REGISTERS][i / REGISTERS] = vld1q_u8(weights + i * LANES);
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            uint8x16_t word = vreinterpretq_u8_u64(vld1q_dup_u64(tile + m));
            const uint8x16_t pixel[] = {word, vextq_u8(word, word, 1), vextq_u8(word, word, 2),
                                        vextq_u8(word, word, 3)};
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++) {
                uint8x16_t ones = ones_of(pixel, filters[n]);
                int8x16_t dot = vreinterpretq_s8_u8(vsubq_u8(vsubq_u8(depth, ones), ones));
                sums[m][n] = vqaddq_s8(sums[m][n], dot);
            }
        }
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++)
            store_sums(sums[m][n], out + m * out_stride + n * LANES);
    }
}

void SGEMM_NAME(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights, const int32_t *start,
                int32_t *out, size_t out_stride) {
    sgemm(MR, words, depths, tile, weights, start, out, out_stride);
}

void SGEMV_NAME(size_t words, const int8_t *depths, const uint64_t *tile, const uint8_t *weights, const int32_t *start,
                int32_t *out, size_t out_stride) {
    sgemm(1, words, depths, tile, weights, start, out, out_stride);
}

#endif
