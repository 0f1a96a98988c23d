/* map, softmax and layer_norm: every row against the same function in double, each result within FUNCTION_TOLERANCE of
 * the largest one near it, or of the terms whose sum it is. Operands end where their allocation ends, and nothing
 * beside the output is written. */
#include "check_kernels.h"

static const double FUNCTION_TOLERANCE = 1e-6;

/* ---- map ---- */

static double sigmoid(double x) {
    return 1.0 / (1.0 + exp(-x));
}

static double function_of(enum bd_function function, double x) {
    switch (function) {
    case BD_GELU:
        return x * (1.0 + erf(x / sqrt(2.0))) / 2.0;
    case BD_GELU_TANH:
        return x * sigmoid(2.0 * sqrt(2.0 / 3.14159265358979) * (x + 0.044715 * x * x * x));
    case BD_SILU:
        return x * sigmoid(x);
    case BD_HARD_SWISH:
        return x * fmin(fmax(x / 6.0 + 0.5, 0.0), 1.0);
    case BD_SIGMOID:
        return sigmoid(x);
    case BD_TANH:
        return tanh(x);
    case BD_ERF:
        return erf(x);
    }
    return NAN;
}

/* Arguments of all sizes that matter, both signs, and the ends of what a float holds. */
static void fill_arguments(float *x, size_t count) {
    static const float special[] = {0.0f, -0.0f, FLT_MIN, -FLT_MIN, 1e30f, -1e30f, 100.0f, -100.0f, 88.5f, -88.5f};
    for (size_t i = 0; i < count; i++) {
        float scale = (float)(1 << random_bits() % 6) * 0.5f;
        fill_floats((char *)(x + i), 1, 0);
        x[i] = random_bits() % 8 ? scale * x[i] : special[random_bits() % LENGTH(special)];
    }
}

static int map_agrees(const struct bd_kernel *kernel, enum bd_function function, size_t count) {
    float *x = allocate(count, sizeof *x);
    fill_arguments(x, count);
    unsigned char *out = guarded(count * sizeof *x);
    float *y = (float *)(void *)out;
    kernel->run.map_f32(function, count, x, y);
    int agrees = guards_hold(out, 1, count * sizeof *x, count * sizeof *x);
    for (size_t i = 0; i < count; i++) {
        double expected = function_of(function, (double)x[i]);
        agrees &= fabs((double)y[i] - expected) <= FUNCTION_TOLERANCE * fmax(1.0, fabs((double)x[i]));
    }
    float nan = NAN;
    kernel->run.map_f32(function, 1, &nan, x);
    agrees &= x[0] != x[0];
    free(out - GUARD);
    free(x);
    return agrees;
}

struct tally check_map(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (enum bd_function function = BD_GELU; function <= BD_ERF; function++)
        for (size_t count = 1; count <= 70; count++) {
            tally.failed += !map_agrees(kernel, function, count <= 69 ? count : 5000);
            tally.cases++;
        }
    return tally;
}

/* ---- softmax and layer_norm: rows ---- */

struct rows {
    size_t rows, channels;
    float *x, *scale, *bias, *y;
    double *expected, terms; /* results, and the largest of the terms that they are sums of */
};

static struct rows make_rows(size_t count, size_t channels) {
    struct rows rows = {.rows = count, .channels = channels};
    rows.x = allocate(count * channels, sizeof *rows.x);
    rows.scale = allocate(channels, sizeof *rows.scale);
    rows.bias = allocate(channels, sizeof *rows.bias);
    fill_floats((char *)rows.x, count * channels, 0);
    fill_floats((char *)rows.scale, channels, 0);
    fill_floats((char *)rows.bias, channels, 0);
    for (size_t i = 0; i < count * channels; i++)
        rows.x[i] = 8.0f * rows.x[i] + 3.0f;
    rows.y = (float *)(void *)guarded(count * channels * sizeof *rows.y);
    rows.expected = allocate(count * channels, sizeof *rows.expected);
    return rows;
}

static int rows_agree(const struct rows *rows) {
    size_t count = rows->rows * rows->channels, bytes = count * sizeof *rows->y;
    int agrees = guards_hold((const unsigned char *)rows->y, 1, bytes, bytes);
    double most = rows->terms;
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs(rows->expected[i]));
    for (size_t i = 0; i < count; i++)
        agrees &= fabs((double)rows->y[i] - rows->expected[i]) <= FUNCTION_TOLERANCE * most;
    return agrees;
}

static void free_rows(struct rows *rows) {
    free(rows->x);
    free(rows->scale);
    free(rows->bias);
    free((unsigned char *)rows->y - GUARD);
    free(rows->expected);
}

static void softmax_in_double(const struct rows *rows, double factor, int logarithmic) {
    for (size_t r = 0; r < rows->rows; r++) {
        const float *x = rows->x + r * rows->channels;
        double *y = rows->expected + r * rows->channels, most = -INFINITY, total = 0;
        for (size_t c = 0; c < rows->channels; c++)
            most = fmax(most, factor * (double)x[c]);
        for (size_t c = 0; c < rows->channels; c++)
            total += exp(factor * (double)x[c] - most);
        for (size_t c = 0; c < rows->channels; c++) {
            double shifted = factor * (double)x[c] - most;
            y[c] = logarithmic ? shifted - log(total) : exp(shifted) / total;
        }
    }
}

static int softmax_agrees(const struct bd_kernel *kernel, size_t channels, int logarithmic) {
    const float factor = logarithmic ? 1.0f : 0.375f;
    struct rows rows = make_rows(3, channels);
    softmax_in_double(&rows, (double)factor, logarithmic);
    kernel->run.softmax_f32(rows.rows, channels, factor, logarithmic, rows.x, rows.y);
    int agrees = rows_agree(&rows) || (channels == 1 && logarithmic && fabsf(rows.y[0]) < 1e-6f);
    free_rows(&rows);
    return agrees;
}

struct tally check_softmax(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t channels = 1; channels <= 100; channels++)
        for (int logarithmic = 0; logarithmic <= 1; logarithmic++) {
            tally.failed += !softmax_agrees(kernel, channels <= 99 ? channels : 1000, logarithmic);
            tally.cases++;
        }
    return tally;
}

/* x / deviation - mean / deviation: terms that are large where all x are nearly the same. */
static void layer_norm_in_double(struct rows *rows, double epsilon) {
    double channels = (double)rows->channels;
    for (size_t r = 0; r < rows->rows; r++) {
        const float *x = rows->x + r * rows->channels;
        double *y = rows->expected + r * rows->channels, mean = 0, variance = 0;
        for (size_t c = 0; c < rows->channels; c++)
            mean += (double)x[c] / channels;
        for (size_t c = 0; c < rows->channels; c++)
            variance += ((double)x[c] - mean) * ((double)x[c] - mean) / channels;
        for (size_t c = 0; c < rows->channels; c++) {
            double factor = (double)rows->scale[c] / sqrt(variance + epsilon);
            y[c] = ((double)x[c] - mean) * factor + (double)rows->bias[c];
            rows->terms = fmax(rows->terms, fabs(mean * factor));
        }
    }
}

struct tally check_layer_norm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t channels = 1; channels <= 100; channels++) {
        struct rows rows = make_rows(3, channels <= 99 ? channels : 1000);
        layer_norm_in_double(&rows, 1e-5);
        kernel->run.layer_norm_f32(rows.rows, rows.channels, rows.x, rows.scale, rows.bias, 1e-5f, rows.y);
        tally.failed += !rows_agree(&rows);
        tally.cases++;
        free_rows(&rows);
    }
    return tally;
}
