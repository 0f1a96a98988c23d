/* Kernels that treat every channel by itself: windows, and what is done to one value after the other. */
#include "check_kernels.h"

#define FLOAT_TOLERANCE 1e-6

/* ---- windows: fdepthwise, fmax, fmean ---- */

struct windows {
    struct bd_taps taps;
    size_t pixels;
    float *input, *weights;
    float divisor;
    float *scale, *bias, *residual; /* of products; scale and residual may be NULL */
    float minimum, maximum;
};

static float *random_line(size_t count, int whole) {
    float *line = allocate(count, sizeof *line);
    fill_floats((char *)line, count, whole);
    return line;
}

/* Windows side by side in an input that ends with the last tap of the last one; `whole` numbers make sums exact. */
static struct windows make_windows(size_t channels, size_t height, size_t width, size_t pixels, int whole) {
    struct windows made = {.taps = {.channels = channels, .height = height, .width = width}, .pixels = pixels};
    struct bd_taps *taps = &made.taps;
    taps->column = channels * (1 + random_bits() % 2);
    taps->pixel = channels * (random_bits() % 4);
    taps->row = pixels * taps->pixel + width * taps->column;
    taps->weight_row = channels * (width + random_bits() % 2);
    made.divisor = (float)(height * width);
    size_t last_row = height == 0 ? 0 : (height - 1), last_column = width == 0 ? 0 : (width - 1);
    size_t inputs = last_row * taps->row + last_column * taps->column + (pixels - 1) * taps->pixel + channels;
    size_t weights = last_row * taps->weight_row + width * channels;
    made.input = allocate(inputs, sizeof(float));
    made.weights = allocate(weights, sizeof(float));
    fill_floats((char *)made.input, inputs, whole);
    fill_floats((char *)made.weights, weights, whole);
    made.scale = random_bits() % 2 ? random_line(channels, whole) : NULL;
    made.bias = random_line(channels, whole);
    made.residual = random_bits() % 2 ? random_line(channels * pixels, whole) : NULL;
    int clamps = random_bits() % 2 == 0;
    made.minimum = clamps ? -0.5f : -INFINITY;
    made.maximum = clamps ? 1.5f : INFINITY;
    return made;
}

static void run_windows(const struct bd_kernel *kernel, const struct windows *windows, float *out) {
    if (!strcmp(kernel->op, "fdepthwise"))
        kernel->run.fdepthwise_f32(&windows->taps, windows->pixels, windows->input, windows->weights, windows->scale,
                                   windows->bias, windows->residual, windows->minimum, windows->maximum, out);
    else if (!strcmp(kernel->op, "fmax"))
        kernel->run.fmax_f32(&windows->taps, windows->pixels, windows->input, out);
    else
        kernel->run.fmean_f32(&windows->taps, windows->pixels, windows->input, windows->divisor, out);
}

/* Value i of the output in double, and how far a float may be from it. */
static double in_double(const char *op, const struct windows *windows, size_t i, double *allowed) {
    const struct bd_taps *taps = &windows->taps;
    size_t pixel = i / taps->channels, c = i % taps->channels;
    double sum = 0, magnitude = 0, highest = -INFINITY;
    for (size_t y = 0; y < taps->height; y++)
        for (size_t x = 0; x < taps->width; x++) {
            double value = windows->input[pixel * taps->pixel + y * taps->row + x * taps->column + c];
            double weight = windows->weights[y * taps->weight_row + x * taps->channels + c];
            double term = strcmp(op, "fdepthwise") ? value : value * weight;
            highest = value > highest ? value : highest;
            sum += term;
            magnitude += fabs(term);
        }
    if (!strcmp(op, "fmax"))
        return highest;
    if (!strcmp(op, "fdepthwise")) {
        double scale = windows->scale == NULL ? 1 : (double)windows->scale[c];
        double residual = windows->residual == NULL ? 0 : (double)windows->residual[i];
        sum = scale * sum + (double)windows->bias[c] + residual;
        magnitude = fabs(scale) * magnitude + fabs((double)windows->bias[c]) + fabs(residual);
        *allowed = FLOAT_TOLERANCE * magnitude;
        return fmin(fmax(sum, (double)windows->minimum), (double)windows->maximum);
    }
    *allowed = FLOAT_TOLERANCE * magnitude;
    *allowed /= (double)windows->divisor;
    return (double)((float)sum / windows->divisor);
}

static int windows_agree(const struct bd_kernel *kernel, const struct bd_kernel *scalar, struct windows windows,
                         int whole) {
    size_t count = windows.pixels * windows.taps.channels;
    unsigned char *out = guarded(count * sizeof(float));
    float *expected = allocate(count, sizeof *expected), *found = (float *)(void *)out;
    run_windows(kernel, &windows, found);
    run_windows(scalar, &windows, expected);
    int agrees = guards_hold(out, 1, count * sizeof(float), count * sizeof(float));
    for (size_t i = 0; i < count; i++) {
        double allowed = 0, wanted = in_double(kernel->op, &windows, i, &allowed);
        agrees &= fabs((double)found[i] - wanted) <= (whole ? 0 : allowed);
    }
    if (strcmp(kernel->op, "fdepthwise"))
        agrees &= !memcmp(found, expected, count * sizeof *expected);
    free(out - GUARD);
    free(expected);
    free(windows.input);
    free(windows.weights);
    free(windows.scale);
    free(windows.bias);
    free(windows.residual);
    return agrees;
}

struct tally check_windows(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t channels[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 48, 63, 64, 65, 100, 130};
    static const size_t sizes[][2] = {{1, 1}, {1, 3}, {2, 2}, {3, 3}, {3, 1}, {5, 5}, {7, 2}};
    struct tally tally = {0, 0};
    for (size_t i = 0; i < LENGTH(channels); i++)
        for (size_t k = 0; k < LENGTH(sizes); k++)
            for (size_t pixels = 1; pixels <= 21; pixels += 1 + pixels / 10)
                for (int whole = 0; whole <= 1; whole++) {
                    struct windows windows = make_windows(channels[i], sizes[k][0], sizes[k][1], pixels, whole);
                    tally.failed += !windows_agree(kernel, scalar, windows, whole);
                    tally.cases++;
                }
    if (!strcmp(kernel->op, "fdepthwise")) {
        tally.failed += !windows_agree(kernel, scalar, make_windows(17, 0, 3, 5, 1), 1);
        tally.failed += !windows_agree(kernel, scalar, make_windows(17, 3, 0, 5, 1), 1);
        tally.cases += 2;
    }
    return tally;
}

/* ---- bits: bdepthwise ---- */

/* Sums bit by bit; taps of one row, or of as many as a byte cannot count. */
static int bits_agree(const struct bd_kernel *kernel, size_t words, size_t height, size_t width, size_t pixels) {
    struct bd_taps taps = {.channels = words, .height = height, .width = width};
    taps.column = words * (1 + random_bits() % 2);
    taps.pixel = words * (random_bits() % 4);
    taps.row = pixels * taps.pixel + width * taps.column;
    taps.weight_row = words * (width + random_bits() % 2);
    size_t inputs = (height - 1) * taps.row + (width - 1) * taps.column + (pixels - 1) * taps.pixel + words;
    size_t weights = (height - 1) * taps.weight_row + width * words, count = pixels * words * 64;
    uint64_t *input = allocate(inputs, sizeof *input), *weight = allocate(weights, sizeof *weight);
    for (size_t i = 0; i < inputs; i++)
        input[i] = random_bits() % 8 == 0 ? ~UINT64_C(0) : random_bits();
    for (size_t i = 0; i < weights; i++)
        weight[i] = random_bits() % 8 == 0 ? 0 : random_bits();
    unsigned char *out = guarded(count * sizeof(int32_t));
    int32_t *found = (int32_t *)(void *)out;
    kernel->run.bdepthwise_i32(&taps, pixels, input, weight, found);
    int agrees = guards_hold(out, 1, count * sizeof(int32_t), count * sizeof(int32_t));
    for (size_t i = 0; i < count; i++) {
        size_t pixel = i / (words * 64), c = i % (words * 64);
        int32_t sum = 0;
        for (size_t y = 0; y < height; y++)
            for (size_t x = 0; x < width; x++) {
                uint64_t a = input[pixel * taps.pixel + y * taps.row + x * taps.column + c / 64];
                uint64_t w = weight[y * taps.weight_row + x * words + c / 64];
                sum += ((a ^ w) >> c % 64 & 1) == 0 ? 1 : -1;
            }
        agrees &= found[i] == sum;
    }
    free(out - GUARD);
    free(input);
    free(weight);
    return agrees;
}

struct tally check_bit_windows(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t sizes[][2] = {{1, 1}, {2, 2}, {3, 3}, {3, 1}, {5, 5}, {7, 7}, {127, 1}, {16, 8}, {17, 16}};
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t words = 1; words <= 3; words++)
        for (size_t k = 0; k < LENGTH(sizes); k++)
            for (size_t pixels = 1; pixels <= 9; pixels += 2) {
                tally.failed += !bits_agree(kernel, words, sizes[k][0], sizes[k][1], pixels);
                tally.cases++;
            }
    return tally;
}

/* ---- lines: faffine, fprelu ---- */

/* Ordinary numbers, and among them zeros of both signs, denormals, and an infinity. */
static float *make_line(size_t count) {
    static const float special[] = {0.0f, -0.0f, 0x1p-149f, -0x1.8p-140f, INFINITY};
    float *line = allocate(count, sizeof *line);
    fill_floats((char *)line, count, 0);
    for (size_t i = 0; i < count; i++)
        if (random_bits() % 8 == 0)
            line[i] = special[random_bits() % LENGTH(special)];
    return line;
}

/* One rounding an operation: volatile, so that nothing is fused. NULL is no factor and no term. */
static float rounded(float value, const float *scale, const float *bias, const float *residual) {
    volatile float result = value;
    if (scale != NULL)
        result = *scale * result;
    if (bias != NULL)
        result = result + *bias;
    if (residual != NULL)
        result = result + *residual;
    return result;
}

static float clamped(float value, float minimum, float maximum) {
    return value < minimum ? minimum : value > maximum ? maximum : value;
}

static int same(float a, float b) {
    return !memcmp(&a, &b, sizeof a) || (isnan(a) && isnan(b));
}

/* Which of their parameters are there is in the bits of `given`; 4 without the others is a map of limits alone. */
enum { CLAMP_ONLY = 4 };

static int line_agrees(const struct bd_kernel *kernel, size_t pixels, size_t filters, unsigned given, float minimum,
                       float maximum) {
    int rectifies = !strcmp(kernel->op, "fprelu");
    size_t stride = filters + random_bits() % 4;
    size_t count = (pixels - 1) * stride + filters;
    float *values = make_line(count), *first = make_line(filters), *second = make_line(filters),
          *after = make_line(filters);
    float *third = make_line(count);
    const float *scale = rectifies || given & 1 ? first : NULL, *residual = given & 2 ? third : NULL;
    const float *before = given & 1 ? second : NULL, *bias = given == CLAMP_ONLY ? NULL : second;
    unsigned char *out = guarded(pixels * stride * sizeof(float));
    float *found = (float *)(void *)out;
    if (rectifies)
        kernel->run.fprelu_f32(pixels, filters, values, stride, given & 4 ? third : NULL, scale, before,
                               given & 2 ? after : NULL, minimum, maximum, found, stride);
    else
        kernel->run.faffine_f32(pixels, filters, values, stride, scale, bias, residual, minimum, maximum, found,
                                stride);
    int agrees = guards_hold(out, pixels, filters * sizeof(float), stride * sizeof(float));
    for (size_t i = 0; i < pixels * filters; i++) {
        size_t n = i % filters, at = i / filters * stride + n;
        float wanted;
        if (rectifies) {
            float zero = 0, shifted = rounded(values[at], NULL, given & 4 ? third + at : NULL,
                                              before == NULL ? NULL : before + n);
            wanted = rounded(shifted, shifted < 0 ? scale + n : NULL, given & 2 ? after + n : &zero, NULL);
        } else {
            wanted = rounded(values[at], scale == NULL ? NULL : scale + n, bias == NULL ? NULL : bias + n,
                             residual == NULL ? NULL : residual + at);
        }
        agrees &= same(found[at], clamped(wanted, minimum, maximum));
    }
    free(out - GUARD);
    free(values);
    free(first);
    free(second);
    free(third);
    free(after);
    return agrees;
}

struct tally check_lines(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t filters = 1; filters <= 70; filters++)
        for (size_t pixels = 1; pixels <= 37; pixels += pixels < 4 ? 1 : 11)
            for (unsigned given = 0; given < 8; given++) {
                tally.failed += !line_agrees(kernel, pixels, filters, given, -INFINITY, INFINITY);
                tally.failed += !line_agrees(kernel, pixels, filters, given, 0, 0.5f);
                tally.cases += 2;
            }
    return tally;
}

/* ---- integers: affine_prelu ---- */

static int rectified_agrees(const struct bd_kernel *kernel, size_t pixels, size_t filters, int adds, float minimum,
                            float maximum) {
    size_t dots_stride = filters + random_bits() % 4, stride = filters + random_bits() % 4;
    size_t count = (pixels - 1) * stride + filters, integers = (pixels - 1) * dots_stride + filters;
    int32_t *dots = allocate(integers, sizeof *dots);
    for (size_t i = 0; i < integers; i++)
        dots[i] = random_bits() % 16 == 0 ? (1 << 24) + 1 : (int32_t)(random_bits() % 9217) - 4608;
    float *parameters[5], *residual = make_line(count);
    for (size_t i = 0; i < LENGTH(parameters); i++)
        parameters[i] = make_line(filters);
    const float *scale = parameters[0], *bias = parameters[1], *slope = parameters[2], *before = parameters[3];
    unsigned char *out = guarded(pixels * stride * sizeof(float));
    const float *found = (const float *)(void *)out;
    kernel->run.affine_prelu_f32(pixels, filters, dots, dots_stride, scale, bias, minimum, maximum,
                                 adds ? residual : NULL, slope, before, parameters[4], (float *)(void *)out, stride);
    int agrees = guards_hold(out, pixels, filters * sizeof(float), stride * sizeof(float));
    for (size_t i = 0; i < pixels * filters; i++) {
        size_t n = i % filters, at = i / filters * stride + n;
        float mapped = rounded((float)dots[i / filters * dots_stride + n], scale + n, bias + n, NULL);
        float shifted = rounded(clamped(mapped, minimum, maximum), NULL, adds ? residual + at : NULL, before + n);
        agrees &= same(found[at], rounded(shifted, shifted < 0 ? slope + n : NULL, parameters[4] + n, NULL));
    }
    free(out - GUARD);
    free(dots);
    free(residual);
    for (size_t i = 0; i < LENGTH(parameters); i++)
        free(parameters[i]);
    return agrees;
}

struct tally check_affine_prelu(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t filters = 1; filters <= 70; filters++)
        for (size_t pixels = 1; pixels <= 16; pixels += 3)
            for (int adds = 0; adds <= 1; adds++) {
                tally.failed += !rectified_agrees(kernel, pixels, filters, adds, -INFINITY, INFINITY);
                tally.failed += !rectified_agrees(kernel, pixels, filters, adds, -0.25f, 0.5f);
                tally.cases += 2;
            }
    return tally;
}
