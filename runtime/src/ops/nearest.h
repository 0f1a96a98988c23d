/* Rounding to integers without a call. */
#ifndef BD_OPS_NEAREST_H
#define BD_OPS_NEAREST_H

/* The nearest integer, halves to the even one. From 2^23 to 2^24 the floats are the integers, and a sum is rounded to
 * one of them as every sum is. Exact for magnitudes up to 2^22; beyond, a float that is as large, since each step is
 * monotone. rintf says the same, but is a call for each value where the instruction set has no such instruction, and it
 * gives -0, which no integer is. */
static inline float bd_nearest(float value) {
    const float shift = 0x1.8p23f;
    return (value + shift) - shift;
}

/* clamp(round(x / scale), -128, 127); NaN gives -128. A quotient, no product with 1 / scale: their last bits differ,
 * and every engine divides. */
static inline float bd_quantized(float x, float scale) {
    float value = bd_nearest(x / scale);
    value = value >= -128 ? value : -128;
    return value <= 127 ? value : 127;
}

#endif
