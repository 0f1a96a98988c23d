/* Kernels that treat every channel by itself, written once: an ISA file says what a vector is and includes this.
 *
 *   FAFFINE_NAME, FPRELU_NAME, FDEPTHWISE_NAME, FMAX_NAME, FMEAN_NAME     the functions
 *   LANES, vector            floats in a vector; a type with the operators of GCC's vector extension
 *   load_some(from, count), store_some(to, values, count)     count < LANES; no lane past them is read or written
 *   multiply_add(sum, a, b)  sum + a * b, fused or not
 *   larger(a, b)             a > b ? a : b, lane by lane
 *   smaller(a, b)            a < b ? a : b
 *   if_negative(test, a, b)  test < 0 ? a : b
 *   ROUND_PRODUCT(product)   as BD_ROUND_PRODUCT does */
#include "tile.h"

#include <string.h>

/* A tile is 4 pixels by 2 vectors of channels, or one pixel by 4: enough sums that none waits for its last one, and few
 * enough for 16 registers. Its lines of the input lie side by side in pairs, for where a pixel's channels are a power
 * of two, all pixels share a few sets of the first-level cache. */
enum { PIXELS = 4, PAIR = 2, WIDE = 4, SUMS = 8 };

enum combination { PRODUCTS, MAXIMUM, MEAN };

BD_INLINE vector spread(float value) {
    return (vector){0} + value;
}

/* `count` <= LANES */
BD_INLINE vector load(const float *from, size_t count) {
    vector values;
    if (count < LANES)
        return load_some(from, count);
    memcpy(&values, from, sizeof values);
    return values;
}

BD_INLINE void store(float *to, vector values, size_t count) {
    if (count < LANES)
        store_some(to, values, count);
    else
        memcpy(to, &values, sizeof values);
}

/* What min and max instructions give where both are zeros, or one is NaN, is what bd_clamp gives. */
BD_INLINE vector clamp(vector value, vector minimum, vector maximum) {
    return smaller(maximum, larger(minimum, value));
}

BD_INLINE vector combine(enum combination kind, vector sum, vector factors, vector values) {
    if (kind == PRODUCTS)
        return multiply_add(sum, factors, values);
    return kind == MAXIMUM ? larger(values, sum) : sum + values;
}

/* One tile, `count` channels of each vector. */
BD_INLINE void slide_tile(enum combination kind, size_t pixels, size_t vectors, size_t count, size_t width,
                          struct bd_taps taps, const float *input, const float *weights, float divisor, float *out) {
    vector sums[SUMS];
    BD_UNROLL
    for (size_t i = 0; i < pixels * vectors; i++)
        sums[i] = kind == MAXIMUM ? load(input + i / vectors * taps.pixel + i % vectors * LANES, count) : (vector){0};
    for (size_t y = 0; y < taps.height; y++, input += taps.row, weights += taps.weight_row) {
        const float *x = input, *w = weights;
        for (size_t k = 0; k < width; k++, x += taps.column, w += taps.channels) {
            BD_UNROLL
            for (size_t n = 0; n < vectors; n++) {
                vector factors = kind == PRODUCTS ? load(w + n * LANES, count) : (vector){0};
                BD_UNROLL
                for (size_t m = 0; m < pixels; m++)
                    sums[m * vectors + n] =
                        combine(kind, sums[m * vectors + n], factors, load(x + m * taps.pixel + n * LANES, count));
            }
        }
    }
    BD_UNROLL
    for (size_t i = 0; i < pixels * vectors; i++)
        store(out + i / vectors * taps.channels + i % vectors * LANES,
              kind == MEAN ? sums[i] / spread(divisor) : sums[i], count);
}

/* All channels of `pixels` pixels, `vectors` at a time as long as there are so many. */
BD_INLINE void slide_pixels(enum combination kind, size_t pixels, size_t vectors, size_t width, struct bd_taps taps,
                            const float *input, const float *weights, float divisor, float *out) {
    size_t c = 0, channels = taps.channels;
    for (; c + vectors * LANES <= channels; c += vectors * LANES)
        slide_tile(kind, pixels, vectors, LANES, width, taps, input + c, weights + c, divisor, out + c);
    for (; c + LANES <= channels; c += LANES)
        slide_tile(kind, pixels, 1, LANES, width, taps, input + c, weights + c, divisor, out + c);
    if (c < channels)
        slide_tile(kind, pixels, 1, channels - c, width, taps, input + c, weights + c, divisor, out + c);
}

BD_INLINE void slide(enum combination kind, size_t width, struct bd_taps taps, size_t pixels, const float *input,
                     const float *weights, float divisor, float *out) {
    for (; pixels >= PIXELS; pixels -= PIXELS, input += PIXELS * taps.pixel, out += PIXELS * taps.channels)
        slide_pixels(kind, PIXELS, PAIR, width, taps, input, weights, divisor, out);
    for (; pixels > 0; pixels--, input += taps.pixel, out += taps.channels)
        slide_pixels(kind, 1, WIDE, width, taps, input, weights, divisor, out);
}

/* Taps that are known to be three beside each other need no loop. */
void FDEPTHWISE_NAME(const struct bd_taps *taps, size_t pixels, const float *input, const float *weights, float *out) {
    if (taps->width == 3)
        slide(PRODUCTS, 3, *taps, pixels, input, weights, 1, out);
    else
        slide(PRODUCTS, taps->width, *taps, pixels, input, weights, 1, out);
}

void FMAX_NAME(const struct bd_taps *taps, size_t pixels, const float *input, float *out) {
    slide(MAXIMUM, taps->width, *taps, pixels, input, input, 1, out);
}

void FMEAN_NAME(const struct bd_taps *taps, size_t pixels, const float *input, float divisor, float *out) {
    slide(MEAN, taps->width, *taps, pixels, input, input, divisor, out);
}

/* NULL is nothing: no factor, no term. */
BD_INLINE vector affine(vector value, const float *scale, const float *bias, const float *residual, size_t count) {
    if (scale != NULL) {
        value = load(scale, count) * value;
        ROUND_PRODUCT(value);
    }
    value = value + load(bias, count);
    return residual == NULL ? value : value + load(residual, count);
}

BD_INLINE void affine_line(size_t filters, const float *values, const float *scale, const float *bias,
                           const float *residual, vector minimum, vector maximum, float *out) {
    size_t n = 0, some;
    for (; n < filters; n += some) {
        some = filters - n < LANES ? filters - n : LANES;
        vector value = affine(load(values + n, some), scale == NULL ? NULL : scale + n, bias + n,
                              residual == NULL ? NULL : residual + n, some);
        store(out + n, clamp(value, minimum, maximum), some);
    }
}

/* Four loops without a question in them. */
void FAFFINE_NAME(size_t pixels, size_t filters, const float *values, size_t values_stride, const float *scale,
                  const float *bias, const float *residual, float minimum, float maximum, float *out,
                  size_t out_stride) {
    const vector lowest = spread(minimum), highest = spread(maximum);
    for (size_t m = 0; m < pixels; m++, values += values_stride, out += out_stride) {
        if (scale == NULL && residual == NULL)
            affine_line(filters, values, NULL, bias, NULL, lowest, highest, out);
        else if (scale == NULL)
            affine_line(filters, values, NULL, bias, residual, lowest, highest, out);
        else if (residual == NULL)
            affine_line(filters, values, scale, bias, NULL, lowest, highest, out);
        else
            affine_line(filters, values, scale, bias, residual, lowest, highest, out);
        residual = residual == NULL ? NULL : residual + out_stride;
    }
}

void FPRELU_NAME(size_t pixels, size_t filters, const float *values, const float *slope, const float *before,
                 const float *after, float minimum, float maximum, float *out) {
    const vector lowest = spread(minimum), highest = spread(maximum);
    size_t some;
    for (size_t m = 0; m < pixels; m++, values += filters, out += filters)
        for (size_t n = 0; n < filters; n += some) {
            some = filters - n < LANES ? filters - n : LANES;
            vector shifted = load(values + n, some);
            if (before != NULL)
                shifted = shifted + load(before + n, some);
            vector product = load(slope + n, some) * shifted;
            ROUND_PRODUCT(product);
            vector rectified = if_negative(shifted, product, shifted);
            rectified = rectified + (after == NULL ? (vector){0} : load(after + n, some));
            store(out + n, clamp(rectified, lowest, highest), some);
        }
}
