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

#endif
