/* Channel by channel, 64-bit ARM: four floats or 16 bytes a register. What scalar_channels.c makes of 32-bit ARM is all
 * that can be: NEON flushes denormals to zero there, and it has no division. */
#include "declarations.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "../affine.h"
#include "tile.h"

#define FAFFINE_NAME bd_faffine_f32_1x1__neon
#define FPRELU_NAME bd_fprelu_f32_1x1__neon
#define AFFINE_PRELU_NAME bd_affine_prelu_f32_1x1__neon
#define BINARIZE_WITHIN_NAME bd_binarize_within_b1_1x1__neon
#define BINARIZE_PLANES_WITHIN_NAME bd_binarize_planes_within_b1_1x1__neon
#define FDEPTHWISE_NAME bd_fdepthwise_f32_1x1__neon
#define FMAX_NAME bd_fmax_f32_1x1__neon
#define FMEAN_NAME bd_fmean_f32_1x1__neon
#define ROUND_PRODUCT(product) BD_ROUND_PRODUCT(product, "w")
#define KNOWN_WINDOWS 1
enum { LANES = 4 };
typedef float32x4_t vector;

BD_INLINE vector load_some(const float *from, size_t count) {
    vector values = vdupq_n_f32(0);
    for (size_t i = 0; i < count; i++)
        values[i] = from[i];
    return values;
}

BD_INLINE void store_some(float *to, vector values, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = values[i];
}

BD_INLINE vector multiply_add(vector sum, vector a, vector b) {
    return vfmaq_f32(sum, a, b);
}

/* vmaxq_f32 would take -0 for less than 0, and hand on NaN. */
BD_INLINE vector larger(vector a, vector b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

BD_INLINE vector smaller(vector a, vector b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

BD_INLINE vector if_negative(vector test, vector a, vector b) {
    return vbslq_f32(vcltq_f32(test, vdupq_n_f32(0)), a, b);
}

BD_INLINE uint32x4_t lanes_outside(vector values, vector lowest, vector highest) {
    return vmvnq_u32(vandq_u32(vcgeq_f32(values, lowest), vcleq_f32(values, highest)));
}

BD_INLINE uint64_t outside(vector values, vector lowest, vector highest) {
    const uint32x4_t own = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(own, lanes_outside(values, lowest, highest)));
}

#include "channels.h"

/* A byte counts a channel, from -TAPS to TAPS: 16 channels a register. */
enum { TAPS = 127, REGISTERS = 4 };

/* All ones in byte i where bit i of 16, those of bytes 2 * quarter and 2 * quarter + 1 of a word, is set. */
BD_INLINE int8x16_t spread_bits(uint8x8_t word, size_t quarter) {
    const uint8x16_t own = vreinterpretq_u8_u64(vdupq_n_u64(UINT64_C(0x8040201008040201)));
    uint8x8_t low = vdup_n_u8((uint8_t)(2 * quarter)), high = vdup_n_u8((uint8_t)(2 * quarter + 1));
    uint8x16_t bytes = vcombine_u8(vtbl1_u8(word, low), vtbl1_u8(word, high));
    return vreinterpretq_s8_u8(vtstq_u8(bytes, own));
}

BD_INLINE void store_sums(int8x16_t sums, int32_t *out) {
    int16x8_t low = vmovl_s8(vget_low_s8(sums)), high = vmovl_s8(vget_high_s8(sums));
    vst1q_s32(out, vmovl_s16(vget_low_s16(low)));
    vst1q_s32(out + 4, vmovl_s16(vget_high_s16(low)));
    vst1q_s32(out + 8, vmovl_s16(vget_low_s16(high)));
    vst1q_s32(out + 12, vmovl_s16(vget_high_s16(high)));
}

BD_INLINE void count_word(const struct bd_taps *taps, const uint64_t *input, const uint64_t *weights, int32_t *out) {
    int8x16_t sums[REGISTERS];
    BD_UNROLL
    for (size_t i = 0; i < REGISTERS; i++)
        sums[i] = vdupq_n_s8((int8_t)(taps->height * taps->width));
    for (size_t y = 0; y < taps->height; y++)
        for (size_t x = 0; x < taps->width; x++) {
            uint8x8_t ones = vcreate_u8(input[y * taps->row + x * taps->column] ^
                                        weights[y * taps->weight_row + x * taps->channels]);
            BD_UNROLL
            for (size_t i = 0; i < REGISTERS; i++) {
                int8x16_t minus = spread_bits(ones, i);
                sums[i] = vaddq_s8(sums[i], vaddq_s8(minus, minus));
            }
        }
    BD_UNROLL
    for (size_t i = 0; i < REGISTERS; i++)
        store_sums(sums[i], out + 16 * i);
}

void bd_bdepthwise_i32_1x1__neon(const struct bd_taps *taps, size_t pixels, const uint64_t *input,
                                 const uint64_t *weights, int32_t *out) {
    if (taps->height * taps->width > TAPS) {
        bd_bdepthwise_i32_1x1__scalar(taps, pixels, input, weights, out);
        return;
    }
    for (size_t m = 0; m < pixels; m++, input += taps->pixel)
        for (size_t word = 0; word < taps->channels; word++, out += 64)
            count_word(taps, input + word, weights + word, out);
}

#endif
