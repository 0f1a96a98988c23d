/* Functions of floats with NEON of 64-bit ARM, which divides: four at once. */
#include "declarations.h"

#if defined(__aarch64__) && defined(__ARM_NEON)

#include <arm_neon.h>

#include "tile.h"

enum { LANES = 4 };
typedef float32x4_t vector;
#define MAP_NAME bd_map_f32_1x1__neon
#define SOFTMAX_NAME bd_softmax_f32_1x1__neon
#define LAYER_NORM_NAME bd_layer_norm_f32_1x1__neon

BD_INLINE vector set(float value) {
    return vdupq_n_f32(value);
}

BD_INLINE vector load(const float *from) {
    return vld1q_f32(from);
}

BD_INLINE void store(float *to, vector v) {
    vst1q_f32(to, v);
}

BD_INLINE vector load_some(const float *from, size_t count, float rest) {
    float four[LANES] = {rest, rest, rest, rest};
    for (size_t i = 0; i < count; i++)
        four[i] = from[i];
    return load(four);
}

BD_INLINE void store_some(float *to, size_t count, vector v) {
    float four[LANES];
    store(four, v);
    for (size_t i = 0; i < count; i++)
        to[i] = four[i];
}

BD_INLINE vector add(vector a, vector b) {
    return vaddq_f32(a, b);
}

BD_INLINE vector subtract(vector a, vector b) {
    return vsubq_f32(a, b);
}

BD_INLINE vector multiply(vector a, vector b) {
    return vmulq_f32(a, b);
}

BD_INLINE vector divide(vector a, vector b) {
    return vdivq_f32(a, b);
}

BD_INLINE vector multiply_add(vector a, vector b, vector c) {
    return vfmaq_f32(c, a, b);
}

BD_INLINE vector least(vector a, vector b) {
    return vminq_f32(a, b);
}

BD_INLINE vector greatest(vector a, vector b) {
    return vmaxq_f32(a, b);
}

BD_INLINE vector nearest(vector v) {
    return vrndnq_f32(v);
}

BD_INLINE vector times_power(vector v, vector n) {
    int32x4_t exponents = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(v, vreinterpretq_f32_s32(vshlq_n_s32(exponents, 23)));
}

BD_INLINE float sum(vector v) {
    return vaddvq_f32(v);
}

BD_INLINE float largest(vector v) {
    return vmaxvq_f32(v);
}

BD_INLINE float inverse_root(float value) {
    return 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(value)), 0);
}

#include "functions.h"

#endif
