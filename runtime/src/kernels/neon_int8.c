/* ARM with NEON: products of bytes are 16 bits wide, and two neighbours are added to a sum of 32: no two of them could
 * be added before, since 2 * 128 * 128 is beyond 16 bits. */
#include "declarations.h"

#if defined(__ARM_NEON)

#include <arm_neon.h>
#include <string.h>

#include "tile.h"

/* A register holds the weights of four filters; each has two sums. */
enum { LANES = 4 };

#if defined(__aarch64__)
#define IGEMM_NAME bd_igemm_i32_4x8__neon
#define IGEMV_NAME bd_igemv_i32_1x16__neon
enum { IGEMM_MR = 4, IGEMM_REGISTERS = 2, IGEMV_REGISTERS = 4 };
#else
#define IGEMM_NAME bd_igemm_i32_2x8__neon
#define IGEMV_NAME bd_igemv_i32_1x8__neon
enum { IGEMM_MR = 2, IGEMM_REGISTERS = 2, IGEMV_REGISTERS = 2 };
#endif

/* Four bytes of one pixel, for each of two filters. */
BD_INLINE int8x8_t four_of(const uint8_t *tile) {
    uint32_t four;
    memcpy(&four, tile, sizeof four);
    return vreinterpret_s8_u8(veor_u8(vreinterpret_u8_u32(vdup_n_u32(four)), vdup_n_u8(128)));
}

/* Neighbours are one filter's. */
BD_INLINE int32x4_t add_neighbours(int32x4_t first, int32x4_t second) {
    return vcombine_s32(vpadd_s32(vget_low_s32(first), vget_high_s32(first)),
                        vpadd_s32(vget_low_s32(second), vget_high_s32(second)));
}

BD_INLINE void igemm(size_t mr, size_t registers, size_t quads, const uint8_t *tile, const int8_t *weights,
                     int32_t *out, size_t out_stride) {
    int32x4_t sums[4][4][2];
    BD_UNROLL
    for (size_t i = 0; i < mr * registers * 2; i++)
        sums[i / 2 / registers][i / 2 % registers][i % 2] = vdupq_n_s32(0);
    for (size_t k = 0; k < quads; k++, tile += 4, weights += registers * LANES * 4) {
        int8x8_t pixels[4];
        BD_UNROLL
        for (size_t m = 0; m < mr; m++)
            pixels[m] = four_of(tile + m * quads * 4);
        BD_UNROLL
        for (size_t n = 0; n < registers; n++) {
            int8x16_t filters = vld1q_s8(weights + n * LANES * 4);
            BD_UNROLL
            for (size_t m = 0; m < mr; m++) {
                int32x4_t *pair = sums[m][n];
                pair[0] = vpadalq_s16(pair[0], vmull_s8(pixels[m], vget_low_s8(filters)));
                pair[1] = vpadalq_s16(pair[1], vmull_s8(pixels[m], vget_high_s8(filters)));
            }
        }
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            vst1q_s32(out + m * out_stride + n * LANES, add_neighbours(sums[m][n][0], sums[m][n][1]));
    }
}

/* Both factors have their sign, so nothing is to be taken off. */
void IGEMM_NAME(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets, int32_t *out,
                size_t out_stride) {
    (void)offsets;
    igemm(IGEMM_MR, IGEMM_REGISTERS, quads, tile, weights, out, out_stride);
}

void IGEMV_NAME(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets, int32_t *out,
                size_t out_stride) {
    (void)offsets;
    igemm(1, IGEMV_REGISTERS, quads, tile, weights, out, out_stride);
}

#endif
