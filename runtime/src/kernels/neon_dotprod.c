/* 64-bit ARM with dot products: sdot adds four products of bytes to each of four sums. */
#include "declarations.h"

#if defined(__aarch64__)

#if !defined(__clang__)
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#include <arm_neon.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#endif

#include <string.h>

#include "tile.h"

/* Filters of a register. */
enum { LANES = 4 };

/* Bytes q + 128 as q. */
BD_INLINE int8x16_t signed_bytes(uint8x16_t bytes) {
    return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
}

/* Four bytes of all pixels, those of pixel m at `i` of pixels[m], by all filters. */
BD_INLINE void add_quad(size_t mr, size_t registers, size_t i, const int8x16_t *pixels, const int8_t *weights,
                        int32x4_t sums[4][8]) {
    BD_UNROLL
    for (size_t n = 0; n < registers; n++) {
        int8x16_t filters = vld1q_s8(weights + n * LANES * 4);
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            if (i == 0)
                sums[m][n] = vdotq_laneq_s32(sums[m][n], filters, pixels[m], 0);
            else if (i == 1)
                sums[m][n] = vdotq_laneq_s32(sums[m][n], filters, pixels[m], 1);
            else if (i == 2)
                sums[m][n] = vdotq_laneq_s32(sums[m][n], filters, pixels[m], 2);
            else
                sums[m][n] = vdotq_laneq_s32(sums[m][n], filters, pixels[m], 3);
        }
    }
}

/* Both factors have their sign, so nothing is to be taken off. */
BD_INLINE void igemm(size_t mr, size_t registers, size_t quads, const uint8_t *tile, const int8_t *weights,
                     int32_t *out, size_t out_stride) {
    const size_t quad_bytes = registers * LANES * 4;
    int32x4_t sums[4][8];
    int8x16_t pixels[4];
    size_t k = 0;
    BD_UNROLL
    for (size_t i = 0; i < mr * registers; i++)
        sums[i / registers][i % registers] = vdupq_n_s32(0);
    for (; k + 4 <= quads; k += 4, weights += 4 * quad_bytes) {
        BD_UNROLL
        for (size_t m = 0; m < mr; m++)
            pixels[m] = signed_bytes(vld1q_u8(tile + (m * quads + k) * 4));
        BD_UNROLL
        for (size_t i = 0; i < 4; i++) {
            add_quad(mr, registers, i, pixels, weights + i * quad_bytes, sums);
            if (mr > 1) /* lest weights of all four are loaded at once, for which there are no registers */
                BD_FORGET(weights, "r");
        }
    }
    for (; k < quads; k++, weights += quad_bytes) {
        BD_UNROLL
        for (size_t m = 0; m < mr; m++) {
            uint32_t four;
            memcpy(&four, tile + (m * quads + k) * 4, sizeof four);
            pixels[m] = signed_bytes(vreinterpretq_u8_u32(vdupq_n_u32(four)));
        }
        add_quad(mr, registers, 0, pixels, weights, sums);
    }
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < registers; n++)
            vst1q_s32(out + m * out_stride + n * LANES, sums[m][n]);
    }
}

void bd_igemm_i32_4x16__neon_dotprod(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                                     int32_t *out, size_t out_stride) {
    (void)offsets;
    igemm(4, 4, quads, tile, weights, out, out_stride);
}

void bd_igemv_i32_1x32__neon_dotprod(size_t quads, const uint8_t *tile, const int8_t *weights, const int32_t *offsets,
                                     int32_t *out, size_t out_stride) {
    (void)offsets;
    igemm(1, 8, quads, tile, weights, out, out_stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
