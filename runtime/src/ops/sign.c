/* Floats to bits and back. */
#include "parameters.h"

#include <string.h>

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
