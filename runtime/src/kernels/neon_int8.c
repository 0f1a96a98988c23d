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

/* Bytes q + 128 as q. */
BD_INLINE int8x16_t signed_bytes(uint8x16_t bytes) {
    return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
}

/* Two sums of each of two filters. */
BD_INLINE int32x4_t add_low(int32x4_t sums, int8x16_t pixel, int8x16_t filters) {
    return vpadalq_s16(sums, vmull_s8(vget_low_s8(pixel), vget_low_s8(filters)));
}

BD_INLINE int32x4_t add_high(int32x4_t sums, int8x16_t pixel, int8x16_t filters) {
#if defined(__aarch64__)
    return vpadalq_s16(sums, vmull_high_s8(pixel, filters));
#else
    return vpadalq_s16(sums, vmull_s8(vget_high_s8(pixel), vget_high_s8(filters)));
#endif
}

/* Neighbours are one filter's. */
BD_INLINE int32x4_t add_neighbours(int32x4_t first, int32x4_t second) {
    return vcombine_s32(vpadd_s32(vget_low_s32(first), vget_high_s32(first)),
                        vpadd_s32(vget_low_s32(second), vget_high_s32(second)));
}

/* Four bytes of each pixel, as often as there are filters in a register. */
struct pixels {
    int8x16_t of[4];
};

#if defined(__aarch64__)
#define SPREAD(pixel, quad) vdupq_laneq_s32(pixel, quad)
#else
#define SPREAD(pixel, quad) vdupq_lane_s32(quad < 2 ? vget_low_s32(pixel) : vget_high_s32(pixel), quad % 2)
#endif

BD_INLINE struct pixels spread(size_t mr, const int8x16_t *pixels, int quad) {
    struct pixels spread;
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        int32x4_t quads = vreinterpretq_s32_s8(pixels[m]);
        quads = quad == 0   ? SPREAD(quads, 0)
                : quad == 1 ? SPREAD(quads, 1)
                : quad == 2 ? SPREAD(quads, 2)
                            : SPREAD(quads, 3);
        spread.of[m] = vreinterpretq_s8_s32(quads);
    }
    return spread;
}

BD_INLINE void add_quad(size_t mr, size_t registers, struct pixels pixels, const int8_t *weights,
                        int32x4_t sums[4][4][2]) {
    BD_UNROLL
    for (size_t n = 0; n < registers; n++) {
        int8x16_t filters = vld1q_s8(weights + n * LANES * 4);
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            sums[m][n][0] = add_low(sums[m][n][0], pixels.of[m], filters);
            sums[m][n][1] = add_high(sums[m][n][1], pixels.of[m], filters);
        }
        if (mr > 1) /* lest products of all filters are made at once, for which there are no registers */
            BD_FORGET(weights, "r");
    }
}

BD_INLINE void igemm(size_t mr, size_t registers, size_t quads, const uint8_t *tile, const int8_t *weights,
                     int32_t *out, size_t out_stride) {
    int32x4_t sums[4][4][2];
    BD_UNROLL
    for (size_t i = 0; i < mr * registers * 2; i++)
        sums[i / 2 / registers][i / 2 % registers][i % 2] = vdupq_n_s32(0);
    const size_t quad_bytes = registers * LANES * 4, rest = quads % 4;
    for (size_t k = 0; k + 4 <= quads; k += 4, weights += 4 * quad_bytes) {
        int8x16_t four[4];
        BD_UNROLL
        for (size_t m = 0; m < mr; m++)
            four[m] = signed_bytes(vld1q_u8(tile + (m * quads + k) * 4));
        add_quad(mr, registers, spread(mr, four, 0), weights, sums);
        add_quad(mr, registers, spread(mr, four, 1), weights + quad_bytes, sums);
        add_quad(mr, registers, spread(mr, four, 2), weights + 2 * quad_bytes, sums);
        add_quad(mr, registers, spread(mr, four, 3), weights + 3 * quad_bytes, sums);
    }
    for (size_t k = quads - rest; k < quads; k++, weights += quad_bytes) {
        struct pixels pixels;
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            uint32_t four;
            memcpy(&four, tile + (m * quads + k) * 4, sizeof four);
            pixels.of[m] = signed_bytes(vreinterpretq_u8_u32(vdupq_n_u32(four)));
        }
        add_quad(mr, registers, pixels, weights, sums);
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
