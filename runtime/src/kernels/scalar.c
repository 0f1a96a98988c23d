/* The kernels in plain C: what every other row is compared with. */
#include <string.h>

#include "../affine.h"
#include "declarations.h"
#include "tile.h"

enum { MR = 4, NR = 8 };

/* Bits set in x: sums of 2, then 4, then 8 bits side by side; the product adds the eight bytes into the highest. */
static int32_t popcount(uint64_t x) {
    x -= (x >> 1) & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333)) + ((x >> 2) & UINT64_C(0x3333333333333333));
    x = (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int32_t)((x * UINT64_C(0x0101010101010101)) >> 56);
}

BD_INLINE void bgemm(size_t mr, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                     int32_t *out, size_t out_stride) {
    int32_t ones[MR][NR] = {{0}};
    for (size_t k = 0; k < words; k++)
        for (size_t m = 0; m < mr; m++)
            for (size_t n = 0; n < NR; n++)
                ones[m][n] += popcount(tile[k * mr + m] ^ weights[k * NR + n]);
    for (size_t m = 0; m < mr; m++)
        for (size_t n = 0; n < NR; n++)
            out[m * out_stride + n] = depth - 2 * ones[m][n];
}

void bd_bgemm_i32_4x8__scalar(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                              size_t out_stride) {
    bgemm(MR, words, depth, tile, weights, out, out_stride);
}

void bd_bgemv_i32_1x8__scalar(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                              size_t out_stride) {
    bgemm(1, words, depth, tile, weights, out, out_stride);
}

BD_INLINE void fgemm(size_t mr, size_t taps, size_t channels, const float *const *rows, const float *weights,
                     float *out, size_t out_stride) {
    float sums[MR][NR] = {{0}};
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < channels; c++)
            for (size_t m = 0; m < mr; m++)
                for (size_t n = 0; n < NR; n++)
                    sums[m][n] += rows[t * mr + m][c] * weights[(t * channels + c) * NR + n];
    for (size_t m = 0; m < mr; m++)
        for (size_t n = 0; n < NR; n++)
            out[m * out_stride + n] = sums[m][n];
}

void bd_fgemm_f32_4x8__scalar(size_t taps, size_t channels, const float *const *rows, const float *weights, float *out,
                              size_t out_stride) {
    fgemm(MR, taps, channels, rows, weights, out, out_stride);
}

void bd_fgemv_f32_1x8__scalar(size_t taps, size_t channels, const float *const *rows, const float *weights, float *out,
                              size_t out_stride) {
    fgemm(1, taps, channels, rows, weights, out, out_stride);
}

/* !(value >= 0), asked of the float's bits: beyond +infinity as an unsigned integer (a NaN or a negative), and not -0.
 * A compiler may move float comparisons of 32-bit ARM to NEON, which takes a tiny negative for zero. */
static uint64_t is_negative(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits > UINT32_C(0x7f800000) && bits != UINT32_C(0x80000000);
}

void bd_binarize_b1_1x1__scalar(size_t pixels, size_t channels, const float *values, uint64_t *bits) {
    size_t words = (channels + 63) / 64;
    for (size_t p = 0; p < pixels; p++)
        for (size_t k = 0; k < words; k++) {
            uint64_t word = 0;
            for (size_t c = k * 64; c < channels && c < (k + 1) * 64; c++)
                word |= is_negative(values[p * channels + c]) << (c % 64);
            bits[p * words + k] = word;
        }
}

void bd_affine_f32_1x1__scalar(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                               const float *scale, const float *bias, const float *residual, float minimum,
                               float maximum, float *out, size_t out_stride) {
    float products[BD_MAX_NR];
    for (size_t m = 0; m < pixels; m++, dots += dots_stride, out += out_stride) {
        for (size_t n = 0; n < filters; n++)
            products[n] = scale[n] * (float)dots[n];
        bd_round_products(products);
        bd_add_both(filters, products, bias, residual == NULL ? NULL : residual + m * out_stride, minimum, maximum,
                    out);
    }
}

/* Eight bytes of 0 and 1 times the constant put byte i at bit 56 + i, and nothing carries into the highest byte. */
static uint64_t pack_bytes(const unsigned char bytes[BD_MAX_NR], size_t count) {
    uint64_t bits = 0, eight;
    for (size_t n = 0; n < count; n += 8) {
        memcpy(&eight, bytes + n, sizeof eight);
        bits |= (eight * UINT64_C(0x0102040810204080)) >> 56 << n;
    }
    return bits;
}

void bd_threshold_b1_1x1__scalar(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                                 const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,
                                 size_t bits_stride) {
    unsigned char below[BD_MAX_NR] = {0};
    for (size_t m = 0; m < pixels; m++, dots += dots_stride, bits += bits_stride) {
        for (size_t n = 0; n < filters; n++)
            below[n] = dots[n] < thresholds[n];
        bd_put_field(bits, first, pack_bytes(below, filters) ^ flips);
    }
}

uint64_t bd_peak_u64_1x1__scalar(size_t rounds) {
    enum { CHAINS = 4 };
    uint64_t ones[CHAINS] = {0}, pixel = 1;
    for (size_t i = 0; i < rounds; i++) {
        BD_UNROLL
        for (size_t n = 0; n < CHAINS; n++) {
            BD_FORGET(pixel, "r");
            ones[n] += (uint64_t)popcount(pixel ^ rounds);
            BD_FORGET(ones[n], "r");
        }
    }
    return (uint64_t)rounds * CHAINS * 64;
}

#define BINARIZE_PLANES_NAME bd_binarize_planes_b1_1x1__scalar
#include "planes.h"
