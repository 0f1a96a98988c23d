/* Kernels that treat every channel by itself, written once: an ISA file says what a vector is and includes this.
 *
 *   FAFFINE_NAME, FPRELU_NAME, AFFINE_PRELU_NAME, FDEPTHWISE_NAME, FMAX_NAME, FMEAN_NAME,
 *   BINARIZE_WITHIN_NAME, BINARIZE_PLANES_WITHIN_NAME     the functions
 *   LANES, vector            floats in a vector; a type with the operators of GCC's vector extension
 *   load_some(from, count), store_some(to, values, count)     count < LANES; no lane past them is read or written
 *   multiply_add(sum, a, b)  sum + a * b, fused or not
 *   larger(a, b)             a > b ? a : b, lane by lane
 *   smaller(a, b)            a < b ? a : b
 *   if_negative(test, a, b)  test < 0 ? a : b
 *   outside(x, low, high)    bit i is 1 where !(low <= x && x <= high) in lane i
 *   lanes_outside(x, low, high)     all ones in those lanes, 0 in the others
 *   ROUND_PRODUCT(product)   as BD_ROUND_PRODUCT does */
#include "tile.h"

#include <string.h>

/* A tile is 4 pixels by 2 vectors of channels, or one pixel by 4: enough sums that none waits for its last one, and few
 * enough for 16 registers. Its lines of the input lie side by side in pairs, for where a pixel's channels are a power
 * of two, all pixels share a few sets of the first-level cache. */
enum { PIXELS = 4, PAIR = 2, WIDE = 4, SUMS = 8 };

/* Pixels whose parameters are read together. */
enum { TOGETHER = 16 };

typedef int32_t integers __attribute__((vector_size(sizeof(vector))));

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

/* (s < 0 ? slope * s : s) + after */
BD_INLINE vector rectified(vector shifted, vector slope, vector after) {
    vector product = slope * shifted;
    ROUND_PRODUCT(product);
    return if_negative(shifted, product, shifted) + after;
}

/* `count` <= LANES channels of some pixels: their parameters stay in registers. */
BD_INLINE void rectify(size_t pixels, size_t count, const float *values, size_t values_stride, const float *residual,
                       vector slope, vector before, vector after, vector minimum, vector maximum, float *out,
                       size_t out_stride) {
    for (size_t m = 0; m < pixels; m++) {
        vector value = load(values + m * values_stride, count);
        if (residual != NULL)
            value = value + load(residual + m * out_stride, count);
        store(out + m * out_stride, clamp(rectified(value + before, slope, after), minimum, maximum), count);
    }
}

/* Whole vectors and none have loops of their own; so has a residual. */
BD_INLINE void rectify_pixels(size_t pixels, size_t filters, const float *values, size_t values_stride,
                              const float *residual, const float *slope, const float *before, const float *after,
                              vector minimum, vector maximum, float *out, size_t out_stride) {
    size_t n = 0;
    for (; n < filters; n += LANES) {
        size_t count = filters - n < LANES ? filters - n : LANES;
        vector factors = load(slope + n, count), shift = before == NULL ? -(vector){0} : load(before + n, count);
        vector terms = after == NULL ? (vector){0} : load(after + n, count);
        if (count == LANES)
            rectify(pixels, LANES, values + n, values_stride, residual == NULL ? NULL : residual + n, factors, shift,
                    terms, minimum, maximum, out + n, out_stride);
        else
            rectify(pixels, count, values + n, values_stride, residual == NULL ? NULL : residual + n, factors, shift,
                    terms, minimum, maximum, out + n, out_stride);
    }
}

/* Few pixels at a time, so that what their vectors share of a cache line is still there. */
void FPRELU_NAME(size_t pixels, size_t filters, const float *values, size_t values_stride, const float *residual,
                 const float *slope, const float *before, const float *after, float minimum, float maximum, float *out,
                 size_t out_stride) {
    const vector lowest = spread(minimum), highest = spread(maximum);
    size_t some;
    for (; pixels > 0; pixels -= some, values += some * values_stride, out += some * out_stride) {
        some = pixels < TOGETHER ? pixels : TOGETHER;
        if (residual == NULL) {
            rectify_pixels(some, filters, values, values_stride, NULL, slope, before, after, lowest, highest, out,
                           out_stride);
            continue;
        }
        rectify_pixels(some, filters, values, values_stride, residual, slope, before, after, lowest, highest, out,
                       out_stride);
        residual += some * out_stride;
    }
}

BD_INLINE vector floats_of(const int32_t *from, size_t count) {
    integers values = {0};
    memcpy(&values, from, count * sizeof *from);
    return __builtin_convertvector(values, vector);
}

/* `count` <= LANES filters of some pixels. */
BD_INLINE void map_and_rectify(size_t pixels, size_t count, const int32_t *dots, size_t dots_stride, const float *scale,
                               const float *bias, vector minimum, vector maximum, const float *residual,
                               const float *slope, const float *before, const float *after, float *out,
                               size_t out_stride) {
    const vector factors = load(scale, count), terms = load(bias, count), slopes = load(slope, count);
    const vector first_terms = load(before, count), last_terms = load(after, count);
    for (size_t m = 0; m < pixels; m++) {
        vector value = factors * floats_of(dots + m * dots_stride, count);
        ROUND_PRODUCT(value);
        value = clamp(value + terms, minimum, maximum);
        if (residual != NULL)
            value = value + load(residual + m * out_stride, count);
        store(out + m * out_stride, rectified(value + first_terms, slopes, last_terms), count);
    }
}

void AFFINE_PRELU_NAME(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride, const float *scale,
                       const float *bias, float minimum, float maximum, const float *residual, const float *slope,
                       const float *before, const float *after, float *out, size_t out_stride) {
    const vector lowest = spread(minimum), highest = spread(maximum);
    for (size_t n = 0; n < filters; n += LANES) {
        size_t count = filters - n < LANES ? filters - n : LANES;
        if (count < LANES)
            map_and_rectify(pixels, count, dots + n, dots_stride, scale + n, bias + n, lowest, highest,
                            residual == NULL ? NULL : residual + n, slope + n, before + n, after + n, out + n,
                            out_stride);
        else if (residual == NULL)
            map_and_rectify(pixels, LANES, dots + n, dots_stride, scale + n, bias + n, lowest, highest, NULL, slope + n,
                            before + n, after + n, out + n, out_stride);
        else
            map_and_rectify(pixels, LANES, dots + n, dots_stride, scale + n, bias + n, lowest, highest, residual + n,
                            slope + n, before + n, after + n, out + n, out_stride);
    }
}

/* `count` <= 64 channels of one pixel; lanes past them are not read, and their bits are 0. */
BD_INLINE uint64_t word_within(size_t count, const float *values, const float *lowest, const float *highest) {
    uint64_t word = 0;
    size_t c = 0;
    for (; c + LANES <= count; c += LANES)
        word |= outside(load(values + c, LANES), load(lowest + c, LANES), load(highest + c, LANES)) << c;
    if (c < count)
        word |= (outside(load(values + c, count - c), load(lowest + c, count - c), load(highest + c, count - c)) &
                 ((UINT64_C(1) << (count - c)) - 1))
                << c;
    return word;
}

/* One word of each of some pixels. */
BD_INLINE void words_within(size_t pixels, size_t count, size_t channels, const float *values, const float *lowest,
                            const float *highest, uint64_t *bits) {
    for (size_t p = 0; p < pixels; p++)
        bits[p * ((channels + 63) / 64)] = word_within(count, values + p * channels, lowest, highest);
}

/* Few pixels at a time, whose bounds stay in registers where those are many. */
void BINARIZE_WITHIN_NAME(size_t pixels, size_t channels, const float *values, const float *lowest,
                          const float *highest, uint64_t *bits) {
    size_t words = (channels + 63) / 64, some;
    for (; pixels > 0; pixels -= some, values += some * channels, bits += some * words) {
        some = pixels < TOGETHER ? pixels : TOGETHER;
        for (size_t c = 0; c < channels; c += 64)
            if (channels - c >= 64)
                words_within(some, 64, channels, values + c, lowest + c, highest + c, bits + c / 64);
            else if (channels - c == 32)
                words_within(some, 32, channels, values + c, lowest + c, highest + c, bits + c / 64);
            else
                words_within(some, channels - c, channels, values + c, lowest + c, highest + c, bits + c / 64);
    }
}

/* Lanes are pixels, and bit i that of channel i <= 32; those past `count` are 0. */
BD_INLINE integers half_words_within(size_t count, size_t channels, size_t plane, const float *values,
                                     const float *lowest, const float *highest) {
    integers words = {0};
    for (size_t i = 0; i < channels; i++) {
        vector low = spread(lowest[i]), high = spread(highest[i]);
        words |= (integers)lanes_outside(load(values + i * plane, count), low, high) & (int32_t)(UINT32_C(1) << i);
    }
    return words;
}

/* One word of each of `count` <= LANES pixels. */
BD_INLINE void plane_words_within(size_t count, size_t channels, size_t plane, const float *values, const float *lowest,
                                  const float *highest, size_t words, uint64_t *bits) {
    enum { HALF = 32 };
    integers low = half_words_within(count, channels < HALF ? channels : HALF, plane, values, lowest, highest);
    integers high = {0};
    if (channels > HALF)
        high = half_words_within(count, channels - HALF, plane, values + HALF * plane, lowest + HALF, highest + HALF);
    for (size_t p = 0; p < count; p++)
        bits[p * words] = (uint64_t)(uint32_t)high[p] << HALF | (uint32_t)low[p];
}

void BINARIZE_PLANES_WITHIN_NAME(size_t pixels, size_t channels, size_t plane, const float *values, const float *lowest,
                                 const float *highest, uint64_t *bits) {
    size_t words = (channels + 63) / 64;
    for (size_t first = 0; first < pixels; first += LANES, values += LANES, bits += LANES * words)
        for (size_t c = 0; c < channels; c += 64) {
            size_t left = pixels - first, some = channels - c < 64 ? channels - c : 64;
            if (left >= LANES)
                plane_words_within(LANES, some, plane, values + c * plane, lowest + c, highest + c, words,
                                   bits + c / 64);
            else
                plane_words_within(left, some, plane, values + c * plane, lowest + c, highest + c, words,
                                   bits + c / 64);
        }
}
