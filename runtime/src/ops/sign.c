/* Floats to bits and back. */
#include "parameters.h"

#include <math.h>
#include <string.h>

/* Bounds by channel, none of which is NaN: +1 is what lies between them, instead of what is no less than 0. */
static int check_bounds(const struct bd_step *step, char *error) {
    int channels = step->out->shape[3];
    if (step->in[1] == NULL && step->in[2] == NULL)
        return 0;
    if (step->in[1] == NULL || step->in[2] == NULL)
        return bd_fail_at(step, error, "it has one bound: two or none are possible");
    for (int i = 1; i <= 2; i++) {
        if (bd_check_vector(step, i, channels, error))
            return 1;
        const float *bounds = step->in[i]->data;
        for (int c = 0; c < channels; c++)
            if (isnan(bounds[c]))
                return bd_fail_at(step, error, "bound `%.60s` of channel %d is no number", step->in[i]->name, c);
    }
    return 0;
}

static int check_sign(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error);
}

static int check_binarize(struct bd_step *step, char *error) {
    return check_sign(step, error) || check_bounds(step, error);
}

static void run_binarize(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->in[0]));
    size_t channels = (size_t)step->in[0]->shape[3], words = bd_words(step->in[0]->shape[3]);
    const float *values = (const float *)step->in[0]->data + pixels.first * channels;
    uint64_t *bits = (uint64_t *)step->out->data + pixels.first * words;
    if (step->in[1] == NULL)
        step->kernel->run.binarize_b1(pixels.end - pixels.first, channels, values, bits);
    else
        step->kernel->run.binarize_within_b1(pixels.end - pixels.first, channels, values, step->in[1]->data,
                                             step->in[2]->data, bits);
}

static int check_sign_of_planes(struct bd_step *step, char *error) {
    const int *in = step->in[0]->shape, *out = step->out->shape;
    if (in[1] != out[3] || in[2] != out[1] || in[3] != out[2])
        return bd_fail_at(step, error, "input `%.60s` is [%d,%d,%d,%d], its output [%d,%d,%d,%d]", step->in[0]->name,
                          in[0], in[1], in[2], in[3], out[0], out[1], out[2], out[3]);
    return check_bounds(step, error);
}

static void run_binarize_planes(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_worker *worker) {
    (void)model;
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->out));
    size_t words = bd_words(step->out->shape[3]), channels = (size_t)step->out->shape[3], plane = bd_pixels(step->out);
    const float *values = (const float *)step->in[0]->data + pixels.first;
    uint64_t *bits = (uint64_t *)step->out->data + pixels.first * words;
    if (step->in[1] == NULL)
        step->kernel->run.binarize_planes_b1(pixels.end - pixels.first, channels, plane, values, bits);
    else
        step->kernel->run.binarize_planes_within_b1(pixels.end - pixels.first, channels, plane, values,
                                                    step->in[1]->data, step->in[2]->data, bits);
}

/* Up to eight channels: 1, with the sign that their bit is. */
static void unpack_byte(uint32_t bits, size_t count, float *y) {
    const uint32_t one = UINT32_C(0x3f800000);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t value = one | (bits << (31 - i) & UINT32_C(1) << 31);
        memcpy(y + i, &value, sizeof value);
    }
}

static void unpack_row(size_t channels, const uint64_t *bits, float *y) {
    size_t c = 0;
    for (; c + 8 <= channels; c += 8)
        unpack_byte((uint32_t)(bits[c / 64] >> c % 64), 8, y + c);
    if (c < channels)
        unpack_byte((uint32_t)(bits[c / 64] >> c % 64), channels - c, y + c);
}

static void run_unpack(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t channels = (size_t)step->in[0]->shape[3], words = bd_words(step->in[0]->shape[3]);
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->in[0]));
    for (size_t p = pixels.first; p < pixels.end; p++)
        unpack_row(channels, (const uint64_t *)step->in[0]->data + p * words, (float *)step->out->data + p * channels);
}

const struct bd_operator bd_operator_binarize = {.name = "binarize",
                                                 .in = {BD_F32, BD_F32, BD_F32},
                                                 .out = BD_BITS,
                                                 .constants_from = 1,
                                                 .optional_from = 1,
                                                 .kernel_op = "binarize",
                                                 .kernel_out = "b1",
                                                 .bounded_op = "binarize_within",
                                                 .check = check_binarize,
                                                 .run = run_binarize};

const struct bd_operator bd_operator_binarize_planes = {.name = "binarize_planes",
                                                        .in = {BD_F32, BD_F32, BD_F32},
                                                        .out = BD_BITS,
                                                        .constants_from = 1,
                                                        .optional_from = 1,
                                                        .kernel_op = "binarize_planes",
                                                        .kernel_out = "b1",
                                                        .bounded_op = "binarize_planes_within",
                                                        .check = check_sign_of_planes,
                                                        .run = run_binarize_planes};

const struct bd_operator bd_operator_unpack = {
    .name = "unpack", .in = {BD_BITS}, .out = BD_F32, .constants_from = 1, .check = check_sign, .run = run_unpack};
