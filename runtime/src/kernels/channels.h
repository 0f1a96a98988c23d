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
 *   ROUND_PRODUCT(product)   as BD_ROUND_PRODUCT does
 *   KNOWN_WINDOWS            whether the windows of most networks are worth functions of their own */
#include "tile.h"

#include <string.h>

/* A tile is 4 pixels by 2 vectors of channels, or one pixel by 4: enough sums that none waits for its last one, and few
 * enough for 16 registers. Its lines of the input lie side by side in pairs, for where a pixel's channels are a power
 * of two, all pixels share a few sets of the first-level cache. Where columns serve several pixels, more of these
 * stand in a row. */
enum { PIXELS = 4, PAIR = 2, WIDE = 4, ROW = 6, SUMS = 12, MAX_WIDTH = 5 };

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
