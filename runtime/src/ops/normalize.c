/* Each pixel over its channels: LayerNorm and softmax. */
#include "parameters.h"

enum { LOGARITHM = 1 };

/* The one float of input `index`. */
static float number(const struct bd_step *step, int index) {
    return *(const float *)step->in[index]->data;
}

static int check_layer_norm(struct bd_step *step, char *error) {
    int channels = step->in[0]->shape[3];
    if (bd_check_same_shape(step, step->in[0], error) || bd_check_vector(step, 1, channels, error) ||
        bd_check_vector(step, 2, channels, error) || bd_check_vector(step, 3, 1, error))
        return 1;
    float epsilon = number(step, 3);
    return epsilon >= 0 ? 0 : bd_fail_at(step, error, "epsilon is %g, which is negative", (double)epsilon);
}

static int check_softmax(struct bd_step *step, char *error) {
    if (bd_check_same_shape(step, step->in[0], error) || bd_check_vector(step, 1, 1, error))
        return 1;
    if (step->node->flags & ~(uint32_t)LOGARITHM)
        return bd_fail_at(step, error, "flags %u are unknown", step->node->flags);
    float factor = number(step, 1);
    return factor > 0 ? 0 : bd_fail_at(step, error, "its factor is %g: give a positive one", (double)factor);
}

static void run_layer_norm(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t channels = (size_t)step->out->shape[3];
    struct bd_range share = bd_share_of(worker, bd_pixels(step->out));
    const float *x = (const float *)step->in[0]->data + share.first * channels;
    step->kernel->run.layer_norm_f32(share.end - share.first, channels, x, step->in[1]->data, step->in[2]->data,
                                     number(step, 3), (float *)step->out->data + share.first * channels);
}

static void run_softmax(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t channels = (size_t)step->out->shape[3];
    struct bd_range share = bd_share_of(worker, bd_pixels(step->out));
    const float *x = (const float *)step->in[0]->data + share.first * channels;
    step->kernel->run.softmax_f32(share.end - share.first, channels, number(step, 1), step->node->flags & LOGARITHM, x,
                                  (float *)step->out->data + share.first * channels);
}

const struct bd_operator bd_operator_layer_norm = {.name = "layer_norm",
                                                   .in = {BD_F32, BD_F32, BD_F32, BD_F32},
                                                   .out = BD_F32,
                                                   .constants_from = 1,
                                                   .kernel_op = "layer_norm",
                                                   .kernel_out = "f32",
                                                   .check = check_layer_norm,
                                                   .run = run_layer_norm};

const struct bd_operator bd_operator_softmax = {.name = "softmax",
                                                .in = {BD_F32, BD_F32},
                                                .out = BD_F32,
                                                .constants_from = 1,
                                                .kernel_op = "softmax",
                                                .kernel_out = "f32",
                                                .check = check_softmax,
                                                .run = run_softmax};
