/* Floats to bits and back. */
#include "parameters.h"

static int check_sign(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error);
}

static void run_binarize(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->in[0]));
    size_t channels = (size_t)step->in[0]->shape[3], words = bd_words(step->in[0]->shape[3]);
    step->kernel->run.binarize_b1(pixels.end - pixels.first, channels,
                                  (const float *)step->in[0]->data + pixels.first * channels,
                                  (uint64_t *)step->out->data + pixels.first * words);
}

static int check_sign_of_planes(struct bd_step *step, char *error) {
    const int *in = step->in[0]->shape, *out = step->out->shape;
    if (in[1] != out[3] || in[2] != out[1] || in[3] != out[2])
        return bd_fail_at(step, error, "input `%.60s` is [%d,%d,%d,%d], its output [%d,%d,%d,%d]", step->in[0]->name,
                          in[0], in[1], in[2], in[3], out[0], out[1], out[2], out[3]);
    return 0;
}

static void run_binarize_planes(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_worker *worker) {
    (void)model;
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->out));
    size_t words = bd_words(step->out->shape[3]);
    step->kernel->run.binarize_planes_b1(pixels.end - pixels.first, (size_t)step->out->shape[3], bd_pixels(step->out),
                                         (const float *)step->in[0]->data + pixels.first,
                                         (uint64_t *)step->out->data + pixels.first * words);
}

static void run_unpack(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t channels = (size_t)step->in[0]->shape[3], words = bd_words(step->in[0]->shape[3]);
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->in[0]));
    const uint64_t *bits = (const uint64_t *)step->in[0]->data + pixels.first * words;
    float *y = (float *)step->out->data + pixels.first * channels;
    for (size_t p = pixels.first; p < pixels.end; p++, bits += words, y += channels)
        for (size_t c = 0; c < channels; c++)
            y[c] = (float)(1 - 2 * (int)((bits[c / 64] >> (c % 64)) & 1));
}

const struct bd_operator bd_operator_binarize = {.name = "binarize",
                                                 .in = {BD_F32},
                                                 .out = BD_BITS,
                                                 .constants_from = 1,
                                                 .kernel_op = "binarize",
                                                 .kernel_out = "b1",
                                                 .check = check_sign,
                                                 .run = run_binarize};

const struct bd_operator bd_operator_binarize_planes = {.name = "binarize_planes",
                                                        .in = {BD_F32},
                                                        .out = BD_BITS,
                                                        .constants_from = 1,
                                                        .kernel_op = "binarize_planes",
                                                        .kernel_out = "b1",
                                                        .check = check_sign_of_planes,
                                                        .run = run_binarize_planes};

const struct bd_operator bd_operator_unpack = {
    .name = "unpack", .in = {BD_BITS}, .out = BD_F32, .constants_from = 1, .check = check_sign, .run = run_unpack};
