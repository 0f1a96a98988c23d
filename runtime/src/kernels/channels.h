/* Kernels that treat every channel by itself, written once: an ISA file says what a vector is and includes this.
 *
 *   FAFFINE_NAME, FPRELU_NAME, FDEPTHWISE_NAME, FMAX_NAME, FMEAN_NAME     the functions
 *   LANES, vector            floats in a vector; a type with the operators of GCC's vector extension
 *   load_some(from, count), store_some(to, values, count)     count < LANES; no lane past them is read or written
 *   multiply_add(sum, a, b)  sum + a * b, fused or not
 *   larger(a, b)             a > b ? a : b, lane by lane
 *   smaller(a, b)            a < b ? a : b
 *   if_negative(test, a, b)  test < 0 ? a : b
 *   ROUND_PRODUCT(product)   as BD_ROUND_PRODUCT does
 *   KNOWN_WINDOWS            whether the windows of most networks are worth functions of their own */
#include "tile.h"

#include <string.h>

/* A tile is 4 pixels by 2 vectors of channels, or one pixel by 4: enough sums that none waits for its last one, and few
 * enough for 16 registers. Its lines of the input lie side by side in pairs, for where a pixel's channels are a power
 * of two, all pixels share a few sets of the first-level cache. Where columns serve several pixels, more of these
 * stand in a row. */
enum { PIXELS = 4, PAIR = 2, WIDE = 4, ROW = 6, SUMS = 12, MAX_WIDTH = 5 };

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

/* NULL is nothing: no factor, no term. */
BD_INLINE vector affine(vector value, const float *scale, const float *bias, const float *residual, size_t count) {
    if (scale != NULL) {
        value = load(scale, count) * value;
        ROUND_PRODUCT(value);
    }
    if (bias != NULL)
        value = value + load(bias, count);
    return residual == NULL ? value : value + load(residual, count);
}

/* What becomes of the sums; NULL is nothing. */
struct finish {
    const float *scale, *bias, *residual;
    float minimum, maximum, divisor;
};

BD_INLINE const float *behind(const float *from, size_t count) {
    return from == NULL ? NULL : from + count;
}

BD_INLINE struct finish finish_from(struct finish finish, size_t element) {
    finish.residual = behind(finish.residual, element);
    return finish;
}

/* Those of a tile from `channel` on; a product with 1 is exact. */
BD_INLINE void finish_tile(enum combination kind, size_t pixels, size_t vectors, size_t count, size_t channels,
                           size_t channel, struct finish finish, const vector *sums, float *out) {
    vector scale[WIDE], bias[WIDE];
    out += channel;
    BD_UNROLL
    for (size_t n = 0; kind == PRODUCTS && n < vectors; n++) {
        size_t c = channel + n * LANES;
        scale[n] = finish.scale == NULL ? spread(1) : load(finish.scale + c, count);
        bias[n] = load(finish.bias + c, count);
    }
    BD_UNROLL
    for (size_t i = 0; i < pixels * vectors; i++) {
        size_t at = i / vectors * channels + i % vectors * LANES;
        vector value = kind == MEAN ? sums[i] / spread(finish.divisor) : sums[i];
        if (kind == PRODUCTS) {
            value = scale[i % vectors] * value;
            ROUND_PRODUCT(value);
            value = value + bias[i % vectors];
            if (finish.residual != NULL)
                value = value + load(finish.residual + channel + at, count);
            value = clamp(value, spread(finish.minimum), spread(finish.maximum));
        }
        store(out + at, value, count);
    }
}

/* Taps of one row, one after the other. */
BD_INLINE void slide_row(enum combination kind, size_t pixels, size_t vectors, size_t count, struct bd_taps taps,
                         const float *input, const float *weights, vector *sums) {
    for (size_t k = 0; k < taps.width; k++, input += taps.column, weights += taps.channels) {
        BD_UNROLL
        for (size_t n = 0; n < vectors; n++) {
            vector factors = kind == PRODUCTS ? load(weights + n * LANES, count) : (vector){0};
            BD_UNROLL
            for (size_t m = 0; m < pixels; m++)
                sums[m * vectors + n] =
                    combine(kind, sums[m * vectors + n], factors, load(input + m * taps.pixel + n * LANES, count));
        }
    }
}

/* The same of `width` taps where windows are `stride` columns apart: a column is loaded once for all pixels that see
 * it, which add it to their sums in the same order. */
BD_INLINE void slide_columns(enum combination kind, size_t width, size_t stride, size_t pixels, size_t vectors,
                             size_t count, struct bd_taps taps, const float *input, const float *weights,
                             vector *sums) {
    BD_UNROLL
    for (size_t n = 0; n < vectors; n++) {
        const float *column = input + n * LANES;
        vector factors[MAX_WIDTH];
        BD_UNROLL
        for (size_t k = 0; k < width; k++)
            factors[k] = kind == PRODUCTS ? load(weights + k * taps.channels + n * LANES, count) : (vector){0};
        BD_UNROLL
        for (size_t x = 0; x < (pixels - 1) * stride + width; x++, column += taps.column) {
            vector values = load(column, count);
            BD_UNROLL
            for (size_t m = 0; m < pixels; m++)
                if (x >= m * stride && x - m * stride < width)
                    sums[m * vectors + n] = combine(kind, sums[m * vectors + n], factors[x - m * stride], values);
        }
    }
}

/* One tile, `count` channels of each vector, from `channel` on. */
BD_INLINE void slide_tile(enum combination kind, size_t width, size_t stride, size_t pixels, size_t vectors,
                          size_t count, struct bd_taps taps, size_t channel, const float *input, const float *weights,
                          struct finish finish, float *out) {
    vector sums[SUMS];
    input += channel;
    weights += channel;
    BD_UNROLL
    for (size_t i = 0; i < pixels * vectors; i++)
        sums[i] = kind == MAXIMUM ? load(input + i / vectors * taps.pixel + i % vectors * LANES, count) : (vector){0};
    for (size_t y = 0; y < taps.height; y++, input += taps.row, weights += taps.weight_row)
        if (width == 0)
            slide_row(kind, pixels, vectors, count, taps, input, weights, sums);
        else
            slide_columns(kind, width, stride, pixels, vectors, count, taps, input, weights, sums);
    finish_tile(kind, pixels, vectors, count, taps.channels, channel, finish, sums, out);
}

/* All channels of `pixels` pixels, `vectors` at a time as long as there are so many. */
BD_INLINE void slide_pixels(enum combination kind, size_t width, size_t stride, size_t pixels, size_t vectors,
                            struct bd_taps taps, const float *input, const float *weights, struct finish finish,
                            float *out) {
    size_t c = 0, channels = taps.channels;
    for (; c + vectors * LANES <= channels; c += vectors * LANES)
        slide_tile(kind, width, stride, pixels, vectors, LANES, taps, c, input, weights, finish, out);
    for (; vectors > 1 && c + LANES <= channels; c += LANES)
        slide_tile(kind, width, stride, pixels, 1, LANES, taps, c, input, weights, finish, out);
    if (c < channels)
        slide_tile(kind, width, stride, pixels, 1, channels - c, taps, c, input, weights, finish, out);
}

/* Pixels from `first` on; those that no tile is left for, one by one. */
BD_INLINE void slide(enum combination kind, size_t first, struct bd_taps taps, size_t pixels, const float *input,
                     const float *weights, struct finish finish, float *out) {
    for (size_t some; first < pixels; first += some) {
        struct finish then = finish_from(finish, first * taps.channels);
        const float *from = input + first * taps.pixel;
        float *to = out + first * taps.channels;
        if (pixels - first >= PIXELS)
            slide_pixels(kind, 0, 0, some = PIXELS, PAIR, taps, from, weights, then, to);
        else
            slide_pixels(kind, 0, 0, some = 1, WIDE, taps, from, weights, then, to);
    }
}

/* Products of windows whose width and stride are known, as long as there are pixels for a whole tile; returns how many
 * they were. Each is a function of its own, for a compiler that sees all at once runs out of registers. */
#define SLIDE(name, width, stride)                                                                                     \
    static __attribute__((noinline)) size_t name(const struct bd_taps *given, size_t pixels, const float *input,       \
                                                 const float *weights, struct finish finish, float *out) {             \
        const struct bd_taps taps = *given;                                                                            \
        size_t done = 0;                                                                                               \
        for (; done + ROW <= pixels; done += ROW)                                                                      \
            slide_pixels(PRODUCTS, width, stride, ROW, PAIR, taps, input + done * taps.pixel, weights,                 \
                         finish_from(finish, done * taps.channels), out + done * taps.channels);                       \
        return done;                                                                                                   \
    }
SLIDE(slide_3, 3, 1)
SLIDE(slide_3_by_2, 3, 2)
SLIDE(slide_5, 5, 1)
SLIDE(slide_5_by_2, 5, 2)

void FDEPTHWISE_NAME(const struct bd_taps *taps, size_t pixels, const float *input, const float *weights,
                     const float *scale, const float *bias, const float *residual, float minimum, float maximum,
                     float *out) {
    const struct finish finish = {
        .scale = scale, .bias = bias, .residual = residual, .minimum = minimum, .maximum = maximum};
    size_t done = 0, stride = taps->pixel == taps->column ? 1 : taps->pixel == 2 * taps->column ? 2 : 0;
    if (KNOWN_WINDOWS && taps->width == 3 && stride == 1)
        done = slide_3(taps, pixels, input, weights, finish, out);
    else if (KNOWN_WINDOWS && taps->width == 3 && stride == 2)
        done = slide_3_by_2(taps, pixels, input, weights, finish, out);
    else if (KNOWN_WINDOWS && taps->width == 5 && stride == 1)
        done = slide_5(taps, pixels, input, weights, finish, out);
    else if (KNOWN_WINDOWS && taps->width == 5 && stride == 2)
        done = slide_5_by_2(taps, pixels, input, weights, finish, out);
    slide(PRODUCTS, done, *taps, pixels, input, weights, finish, out);
}

void FMAX_NAME(const struct bd_taps *taps, size_t pixels, const float *input, float *out) {
    slide(MAXIMUM, 0, *taps, pixels, input, input, (struct finish){0}, out);
}

void FMEAN_NAME(const struct bd_taps *taps, size_t pixels, const float *input, float divisor, float *out) {
    slide(MEAN, 0, *taps, pixels, input, input, (struct finish){.divisor = divisor}, out);
}

BD_INLINE void affine_some(size_t count, const float *values, const float *scale, const float *bias,
                           const float *residual, vector minimum, vector maximum, float *out) {
    store(out, clamp(affine(load(values, count), scale, bias, residual, count), minimum, maximum), count);
}

BD_INLINE void affine_line(size_t filters, const float *values, const float *scale, const float *bias,
                           const float *residual, vector minimum, vector maximum, float *out) {
    size_t n = 0;
    for (; n + LANES <= filters; n += LANES)
        affine_some(LANES, values + n, behind(scale, n), behind(bias, n), behind(residual, n), minimum, maximum,
                    out + n);
    if (n < filters)
        affine_some(filters - n, values + n, behind(scale, n), behind(bias, n), behind(residual, n), minimum, maximum,
                    out + n);
}

/* Five loops without a question in them. */
void FAFFINE_NAME(size_t pixels, size_t filters, const float *values, size_t values_stride, const float *scale,
                  const float *bias, const float *residual, float minimum, float maximum, float *out,
                  size_t out_stride) {
    const vector lowest = spread(minimum), highest = spread(maximum);
    for (size_t m = 0; m < pixels; m++, values += values_stride, out += out_stride) {
        if (bias == NULL)
            affine_line(filters, values, NULL, NULL, NULL, lowest, highest, out);
        else if (scale == NULL && residual == NULL)
            affine_line(filters, values, NULL, bias, NULL, lowest, highest, out);
        else if (scale == NULL)
            affine_line(filters, values, NULL, bias, residual, lowest, highest, out);
        else if (residual == NULL)
            affine_line(filters, values, scale, bias, NULL, lowest, highest, out);
        else
            affine_line(filters, values, scale, bias, residual, lowest, highest, out);
        residual = behind(residual, out_stride);
    }
}

BD_INLINE void prelu_some(size_t count, const float *values, const float *slope, const float *before,
                          const float *after, vector minimum, vector maximum, float *out) {
    vector shifted = load(values, count);
    if (before != NULL)
        shifted = shifted + load(before, count);
    vector product = load(slope, count) * shifted;
    ROUND_PRODUCT(product);
    vector rectified = if_negative(shifted, product, shifted);
    rectified = rectified + (after == NULL ? (vector){0} : load(after, count));
    store(out, clamp(rectified, minimum, maximum), count);
}

void FPRELU_NAME(size_t pixels, size_t filters, const float *values, const float *slope, const float *before,
                 const float *after, float minimum, float maximum, float *out) {
    const vector lowest = spread(minimum), highest = spread(maximum);
    for (size_t m = 0; m < pixels; m++, values += filters, out += filters) {
        size_t n = 0;
        for (; n + LANES <= filters; n += LANES)
            prelu_some(LANES, values + n, slope + n, behind(before, n), behind(after, n), lowest, highest, out + n);
        if (n < filters)
            prelu_some(filters - n, values + n, slope + n, behind(before, n), behind(after, n), lowest, highest,
                       out + n);
    }
}
