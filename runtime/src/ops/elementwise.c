/* Element by element: affine maps by channel, sums, clamps. */
#include "../affine.h"
#include "parameters.h"

enum { CHUNK = 64 };

static size_t elements(const struct bd_tensor *tensor) {
    return (size_t)(tensor->bytes / sizeof(float));
}

static int check_affine(struct bd_step *step, char *error) {
    int channels = step->in[0]->shape[3];
    return bd_check_same_shape(step, step->in[0], error) || bd_check_vector(step, 1, channels, error) ||
           bd_check_vector(step, 2, channels, error) || bd_check_clamp(step, error);
}

static int check_add(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error) || bd_check_same_shape(step, step->in[1], error) ||
           bd_check_clamp(step, error);
}

static int check_clip(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error) || bd_check_clamp(step, error);
}

static void run_affine(const struct bd_model *model, const struct bd_step *step) {
    (void)model;
    const float *x = step->in[0]->data, *scale = step->in[1]->data, *bias = step->in[2]->data;
    float *y = step->out->data, products[CHUNK];
    size_t channels = (size_t)step->in[0]->shape[3], pixels = bd_pixels(step->in[0]);
    for (size_t p = 0; p < pixels; p++, x += channels, y += channels)
        for (size_t first = 0; first < channels; first += CHUNK) {
            size_t count = channels - first < CHUNK ? channels - first : CHUNK;
            for (size_t i = 0; i < count; i++)
                products[i] = scale[first + i] * x[first + i];
            bd_round_products(products);
            bd_add_bias(count, products, bias + first, step->node->minimum, step->node->maximum, y + first);
        }
}

static void run_add(const struct bd_model *model, const struct bd_step *step) {
    (void)model;
    bd_add_bias(elements(step->out), step->in[0]->data, step->in[1]->data, step->node->minimum, step->node->maximum,
                step->out->data);
}

static void run_clip(const struct bd_model *model, const struct bd_step *step) {
    (void)model;
    const float *x = step->in[0]->data;
    float *y = step->out->data;
    for (size_t i = 0; i < elements(step->out); i++)
        y[i] = bd_clamp(x[i], step->node->minimum, step->node->maximum);
}

const struct bd_operator bd_operator_affine = {.name = "affine",
                                               .in = {BD_F32, BD_F32, BD_F32},
                                               .out = BD_F32,
                                               .constants_from = 1,
                                               .check = check_affine,
                                               .run = run_affine};

const struct bd_operator bd_operator_add = {
    .name = "add", .in = {BD_F32, BD_F32}, .out = BD_F32, .constants_from = 2, .check = check_add, .run = run_add};

const struct bd_operator bd_operator_clip = {
    .name = "clip", .in = {BD_F32}, .out = BD_F32, .constants_from = 1, .check = check_clip, .run = run_clip};
