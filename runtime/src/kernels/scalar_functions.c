/* Functions of floats in plain C: a vector of one. */
#include <string.h>

#include "declarations.h"
#include "tile.h"

enum { LANES = 1 };
typedef float vector;
#define MAP_NAME bd_map_f32_1x1__scalar
#define SOFTMAX_NAME bd_softmax_f32_1x1__scalar
#define LAYER_NORM_NAME bd_layer_norm_f32_1x1__scalar

BD_INLINE vector set(float value) {
    return value;
}

BD_INLINE vector load(const float *from) {
    return *from;
}

BD_INLINE void store(float *to, vector v) {
    *to = v;
}

/* Never called: no count lies between 0 and 1. */
BD_INLINE vector load_some(const float *from, size_t count, float rest) {
    return count > 0 ? *from : rest;
}

BD_INLINE void store_some(float *to, size_t count, vector v) {
    if (count > 0)
        *to = v;
}

BD_INLINE vector add(vector a, vector b) {
    return a + b;
}

BD_INLINE vector subtract(vector a, vector b) {
    return a - b;
}

BD_INLINE vector multiply(vector a, vector b) {
    return a * b;
}

BD_INLINE vector divide(vector a, vector b) {
    return a / b;
}

BD_INLINE vector multiply_add(vector a, vector b, vector c) {
    return a * b + c;
}

BD_INLINE vector least(vector a, vector b) {
    return a < b ? a : b;
}

BD_INLINE vector greatest(vector a, vector b) {
    return a > b ? a : b;
}

/* A float beyond 2^23 has no fraction, so the sum is rounded to an integer. */
BD_INLINE vector nearest(vector v) {
    const float large = 12582912.0f;
    return (v + large) - large;
}

BD_INLINE vector times_power(vector v, vector n) {
    int32_t bits = (int32_t)(n == n ? n + 127.0f : 0.0f) * (1 << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return v * power;
}

BD_INLINE float sum(vector v) {
    return v;
}

BD_INLINE float largest(vector v) {
    return v;
}

/* Newton's method from a guess that halves the exponent. */
BD_INLINE float inverse_root(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = 0x5f3759df - (bits >> 1);
    float root;
    memcpy(&root, &bits, sizeof root);
    for (int i = 0; i < 4; i++)
        root *= 1.5f - 0.5f * value * root * root;
    return root;
}

#include "functions.h"
