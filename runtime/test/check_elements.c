/* binarize, affine and threshold: values one by one. */
#include "check_kernels.h"

/* ---- binarize ---- */

/* Values with the bit each becomes, known as they are made: to compare floats here could be as wrong as a kernel. */
static void make_values(size_t pixels, size_t channels, float *values, uint64_t *bits) {
    static const struct {
        float value;
        uint64_t bit;
    } special[] = {{0.0f, 0},    {-0.0f, 0},    {NAN, 1},       {-NAN, 1},       {INFINITY, 0}, {-INFINITY, 1},
                   {FLT_MIN, 0}, {-FLT_MIN, 1}, {0x1p-149f, 0}, {-0x1p-149f, 1}, {FLT_MAX, 0},  {-FLT_MAX, 1}};
    size_t words = (channels + 63) / 64;
    memset(bits, 0, pixels * words * sizeof *bits);
    for (size_t i = 0; i < pixels * channels; i++) {
        int32_t number = (int32_t)(uint32_t)random_bits();
        uint64_t bit = number < 0;
        values[i] = (float)number;
        if (number % 4 == 0) {
            size_t which = random_bits() % LENGTH(special);
            values[i] = special[which].value;
            bit = special[which].bit;
        }
        bits[i / channels * words + i % channels / 64] |= bit << i % channels % 64;
    }
}

static int binarize_agrees(const struct bd_kernel *kernel, size_t pixels, size_t channels) {
    size_t words = pixels * ((channels + 63) / 64);
    float *values = allocate(pixels * channels, sizeof *values);
    uint64_t *expected = allocate(words, sizeof *expected);
    make_values(pixels, channels, values, expected);

    unsigned char *out = guarded(words * sizeof *expected);
    kernel->run.binarize_b1(pixels, channels, values, (uint64_t *)(void *)out);
    int agrees = guards_hold(out, 1, words * sizeof *expected, words * sizeof *expected);
    agrees &= !memcmp(out, expected, words * sizeof *expected);

    free(out - GUARD);
    free(expected);
    free(values);
    return agrees;
}

/* The same of planes that lie further apart than they are long. */
static int binarize_planes_agrees(const struct bd_kernel *kernel, size_t pixels, size_t channels) {
    size_t words = pixels * ((channels + 63) / 64), plane = pixels + random_bits() % 4;
    float *values = allocate(pixels * channels, sizeof *values);
    float *planes = allocate((channels - 1) * plane + pixels, sizeof *planes);
    uint64_t *expected = allocate(words, sizeof *expected);
    make_values(pixels, channels, values, expected);
    for (size_t i = 0; i < pixels * channels; i++)
        planes[i % channels * plane + i / channels] = values[i];

    unsigned char *out = guarded(words * sizeof *expected);
    kernel->run.binarize_planes_b1(pixels, channels, plane, planes, (uint64_t *)(void *)out);
    int agrees = guards_hold(out, 1, words * sizeof *expected, words * sizeof *expected);
    agrees &= !memcmp(out, expected, words * sizeof *expected);

    free(out - GUARD);
    free(expected);
    free(planes);
    free(values);
    return agrees;
}

struct tally check_binarize_planes(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t pixels[] = {1, 5, 63, 64, 65, 130};
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t channels = 1; channels <= 131; channels++)
        for (size_t i = 0; i < LENGTH(pixels); i++) {
            tally.failed += !binarize_planes_agrees(kernel, pixels[i], channels <= 130 ? channels : 520);
            tally.cases++;
        }
    return tally;
}

struct tally check_binarize(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t channels = 1; channels <= 131; channels++)
        for (size_t pixels = 1; pixels <= 7; pixels += 3) {
            tally.failed += !binarize_agrees(kernel, pixels, channels <= 130 ? channels : 520);
            tally.cases++;
        }
    return tally;
}

/* All floats that matter in their order, NaN at both ends; both zeros are one place. */
static const struct {
    float value;
    int place;
} places[] = {{-NAN, -99},      {-INFINITY, -6}, {-FLT_MAX, -5}, {-1.5f, -4},    {-1, -3},     {-FLT_MIN, -2},
              {-0x1p-149f, -1}, {-0.0f, 0},      {0.0f, 0},      {0x1p-149f, 1}, {FLT_MIN, 2}, {1, 3},
              {1.5f, 4},        {FLT_MAX, 5},    {INFINITY, 6},  {NAN, 99}};

/* Bounds, which may be in any order, are none of the two NaN. */
static int binarize_within_agrees(const struct bd_kernel *kernel, size_t pixels, size_t channels) {
    size_t words = (channels + 63) / 64;
    float *values = allocate(pixels * channels, sizeof *values);
    size_t plane = pixels + random_bits() % 4;
    float *planes = allocate((channels - 1) * plane + pixels, sizeof *planes);
    float *lowest = allocate(channels, sizeof *lowest), *highest = allocate(channels, sizeof *highest);
    int *low = allocate(channels, sizeof *low), *high = allocate(channels, sizeof *high);
    uint64_t *expected = allocate(pixels * words, sizeof *expected);
    memset(expected, 0, pixels * words * sizeof *expected);
    for (size_t c = 0; c < channels; c++) {
        size_t first = 1 + random_bits() % (LENGTH(places) - 2), last = 1 + random_bits() % (LENGTH(places) - 2);
        lowest[c] = places[first].value;
        highest[c] = places[last].value;
        low[c] = places[first].place;
        high[c] = places[last].place;
    }
    for (size_t i = 0; i < pixels * channels; i++) {
        size_t which = random_bits() % LENGTH(places), c = i % channels;
        uint64_t outside = places[which].place < low[c] || places[which].place > high[c];
        values[i] = planes[c * plane + i / channels] = places[which].value;
        expected[i / channels * words + c / 64] |= outside << c % 64;
    }
    unsigned char *out = guarded(pixels * words * sizeof *expected);
    if (!strcmp(kernel->op, "binarize_within"))
        kernel->run.binarize_within_b1(pixels, channels, values, lowest, highest, (uint64_t *)(void *)out);
    else
        kernel->run.binarize_planes_within_b1(pixels, channels, plane, planes, lowest, highest,
                                              (uint64_t *)(void *)out);
    int agrees = guards_hold(out, 1, pixels * words * sizeof *expected, pixels * words * sizeof *expected);
    agrees &= !memcmp(out, expected, pixels * words * sizeof *expected);
    free(out - GUARD);
    free(expected);
    free(high);
    free(low);
    free(highest);
    free(lowest);
    free(planes);
    free(values);
    return agrees;
}

struct tally check_binarize_within(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t channels = 1; channels <= 131; channels++)
        for (size_t pixels = 1; pixels <= 37; pixels += pixels < 7 ? 3 : 15) {
            tally.failed += !binarize_within_agrees(kernel, pixels, channels <= 130 ? channels : 520);
            tally.cases++;
        }
    return tally;
}

/* ---- affine and threshold: a strip of integers, each line longer than its filters ---- */

struct strip {
    size_t pixels, filters, dots_stride, out_stride;
    int32_t *dots; /* [pixels][dots_stride], the last line without its end */
};

static struct strip make_strip(size_t pixels, size_t filters) {
    struct strip strip = {pixels, filters, filters + random_bits() % 4, filters + random_bits() % 4, NULL};
    size_t count = (pixels - 1) * strip.dots_stride + filters;
    strip.dots = allocate(count, sizeof *strip.dots);
    for (size_t i = 0; i < count; i++)
        strip.dots[i] = (int32_t)(random_bits() % 9217) - 4608;
    strip.dots[random_bits() % count] = (1 << 24) + 1;
    strip.dots[random_bits() % count] = 0;
    return strip;
}

/* Two or three roundings and a clamp. In double the product is exact, and a sum rounded to double and then to float is
 * the sum rounded to float, since a double has more than twice a float's bits. Volatile, so that nothing is fused here
 * either.
 */
static float affine_in_double(int32_t dot, float scale, float bias, const float *residual, float minimum,
                              float maximum) {
    volatile float product = (float)((double)scale * (double)(float)dot);
    volatile float value = (float)((double)product + (double)bias);
    if (residual != NULL)
        value = (float)((double)value + (double)*residual);
    return value < minimum ? minimum : value > maximum ? maximum : value;
}

/* Scales and biases of ordinary size; sums that cancel, which a fused product would not; a scale of 0 and the smallest,
 * whose products are denormal; a bias of -0. */
static void make_affine(const struct strip *strip, float *scale, float *bias) {
    for (size_t n = 0; n < strip->filters; n++) {
        fill_floats((char *)&scale[n], 1, 0);
        fill_floats((char *)&bias[n], 1, 0);
        int32_t dot = strip->dots[random_bits() % strip->pixels * strip->dots_stride + n];
        switch (random_bits() % 4) {
        case 0:
            bias[n] = -(float)((double)scale[n] * (double)(float)dot);
            break;
        case 1:
            scale[n] = random_bits() % 2 ? 0x1.8p-140f : -0.0f;
            bias[n] = random_bits() % 2 ? -0.0f : 0x1p-149f;
            break;
        default:
            break;
        }
    }
}

static int affine_agrees(const struct bd_kernel *kernel, size_t pixels, size_t filters, int adds, float minimum,
                         float maximum) {
    struct strip strip = make_strip(pixels, filters);
    size_t added = (pixels - 1) * strip.out_stride + filters;
    float *residual = adds ? allocate(added, sizeof *residual) : NULL;
    if (adds)
        fill_floats((char *)residual, added, 0);
    float *scale = allocate(filters, sizeof *scale), *bias = allocate(filters, sizeof *bias);
    make_affine(&strip, scale, bias);
    unsigned char *out = guarded(pixels * strip.out_stride * 4);
    kernel->run.affine_f32(pixels, filters, strip.dots, strip.dots_stride, scale, bias, residual, minimum, maximum,
                           (float *)(void *)out, strip.out_stride);
    int agrees = guards_hold(out, pixels, filters * 4, strip.out_stride * 4);
    for (size_t i = 0; i < pixels * filters; i++) {
        size_t m = i / filters, n = i % filters;
        const float *other = adds ? residual + m * strip.out_stride + n : NULL;
        float expected =
            affine_in_double(strip.dots[m * strip.dots_stride + n], scale[n], bias[n], other, minimum, maximum);
        agrees &= !memcmp(out + (m * strip.out_stride + n) * 4, &expected, sizeof expected);
    }
    free(residual);
    free(out - GUARD);
    free(bias);
    free(scale);
    free(strip.dots);
    return agrees;
}

struct tally check_affine(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const float limits[][2] = {{-INFINITY, INFINITY}, {0, INFINITY}, {-0.75f, 1.25f}, {-INFINITY, -0.0f}};
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t filters = 1; filters <= BD_MAX_NR; filters++)
        for (size_t pixels = 1; pixels <= 16; pixels += 3)
            for (size_t i = 0; i < LENGTH(limits); i++)
                for (int adds = 0; adds < 2; adds++) {
                    tally.failed += !affine_agrees(kernel, pixels, filters, adds, limits[i][0], limits[i][1]);
                    tally.cases++;
                }
    return tally;
}

/* A field of each word, at bit `first` of a word that is full below and empty above; at 0, of one that is full. */
static int threshold_agrees(const struct bd_kernel *kernel, size_t pixels, size_t filters, size_t first) {
    struct strip strip = make_strip(pixels, filters);
    size_t stride = 1 + random_bits() % 3;
    uint64_t flips = random_bits() & (~UINT64_C(0) >> (64 - filters));
    uint64_t below_first = first ? ~UINT64_C(0) >> (64 - first) : 0;
    int32_t *thresholds = allocate(filters, sizeof *thresholds);
    for (size_t n = 0; n < filters; n++) {
        int32_t dot = strip.dots[random_bits() % pixels * strip.dots_stride + n];
        const int32_t near[] = {dot - 1, dot, dot + 1, INT32_MIN, INT32_MAX};
        thresholds[n] = near[random_bits() % LENGTH(near)];
    }
    unsigned char *out = guarded(pixels * stride * sizeof(uint64_t));
    uint64_t *words = (uint64_t *)(void *)out;
    for (size_t m = 0; m < pixels; m++)
        words[m * stride] = first ? below_first : ~UINT64_C(0);
    kernel->run.threshold_b1(pixels, filters, strip.dots, strip.dots_stride, thresholds, flips, first, words, stride);
    int agrees = guards_hold(out, pixels, sizeof *words, stride * sizeof *words);
    for (size_t m = 0; m < pixels; m++) {
        uint64_t expected = flips << first ^ below_first;
        for (size_t n = 0; n < filters; n++)
            expected ^= (uint64_t)(strip.dots[m * strip.dots_stride + n] < thresholds[n]) << (first + n);
        agrees &= words[m * stride] == expected;
    }
    free(out - GUARD);
    free(thresholds);
    free(strip.dots);
    return agrees;
}

struct tally check_threshold(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t filters = 1; filters <= 64; filters++)
        for (size_t first = 0; first + filters <= 64; first += 4)
            for (size_t pixels = 1; pixels <= 16; pixels += 5) {
                tally.failed += !threshold_agrees(kernel, pixels, filters, first);
                tally.cases++;
            }
    return tally;
}
