/* Floats to bits and back. */
#include "parameters.h"

static int check_sign(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error);
}

static void run_binarize(const struct bd_model *model, const struct bd_step *step) {
    (void)model;
    step->kernel->run.binarize_b1(bd_pixels(step->in[0]), (size_t)step->in[0]->shape[3], step->in[0]->data,
                                  step->out->data);
}

static void run_unpack(const struct bd_model *model, const struct bd_step *step) {
    (void)model;
    size_t channels = (size_t)step->in[0]->shape[3], words = bd_words(step->in[0]->shape[3]);
    const uint64_t *bits = step->in[0]->data;
    float *y = step->out->data;
    for (size_t p = 0; p < bd_pixels(step->in[0]); p++, bits += words, y += channels)
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

const struct bd_operator bd_operator_unpack = {
    .name = "unpack", .in = {BD_BITS}, .out = BD_F32, .constants_from = 1, .check = check_sign, .run = run_unpack};
