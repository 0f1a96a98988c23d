/* Floats to the floats that 8-bit integers stand for: y = scale * clamp(round(x / scale), -128, 127). */
#include "../affine.h"
#include "parameters.h"

#include <float.h>

/* The nearest integer, halves to the even one. From 2^23 to 2^24 the floats are the integers, and a sum is rounded to
 * one of them as every sum is. Exact for magnitudes up to 2^22; beyond, a float that is as large, since each step is
 * monotone. rintf says the same, but is a call for each value where the instruction set has no such instruction, and it
 * gives -0, which no integer is. */
static inline float nearest(float value) {
    const float shift = 0x1.8p23f;
    return (value + shift) - shift;
}

static int check_quantize_int8(struct bd_step *step, char *error) {
    if (bd_check_same_shape(step, step->in[0], error) || bd_check_vector(step, 1, 1, error))
        return 1;
    float scale = *(const float *)step->in[1]->data;
    if (!(scale > 0 && scale <= FLT_MAX))
        return bd_fail_at(step, error, "scale is %g: finite numbers above 0 are possible", (double)scale);
    return 0;
}

/* A quotient, no product with 1 / scale: their last bits differ, and every engine divides. */
static void run_quantize_int8(const struct bd_model *model, const struct bd_step *step) {
    (void)model;
    const float *x = step->in[0]->data, scale = *(const float *)step->in[1]->data;
    float *y = step->out->data;
    size_t count = (size_t)(step->out->bytes / sizeof *y);
    for (size_t i = 0; i < count; i++)
        y[i] = bd_clamp(nearest(x[i] / scale), -128, 127) * scale;
}

const struct bd_operator bd_operator_quantize_int8 = {.name = "quantize_int8",
                                                      .in = {BD_F32, BD_F32},
                                                      .out = BD_F32,
                                                      .constants_from = 1,
                                                      .check = check_quantize_int8,
                                                      .run = run_quantize_int8};
