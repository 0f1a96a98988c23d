/* Floats to the floats that 8-bit integers stand for: y = scale * clamp(round(x / scale), -128, 127). */
#include "../affine.h"
#include "nearest.h"
#include "quantize.h"

#include <float.h>
#include <string.h>

int bd_check_step_size(const struct bd_step *step, int index, char *error) {
    if (bd_check_vector(step, index, 1, error))
        return 1;
    float scale = *(const float *)step->in[index]->data;
    if (!(scale > 0 && scale <= FLT_MAX))
        return bd_fail_at(step, error, "input scale is %g: finite numbers above 0 are possible", (double)scale);
    return 0;
}

void bd_quantize(size_t count, const float *x, float scale, int8_t *integers) {
    for (size_t i = 0; i < count; i++)
        integers[i] = (int8_t)bd_quantized(x[i], scale);
}

void bd_read_integers(const struct bd_step *step, size_t first, size_t count, int8_t *integers) {
    if (step->in[0]->type == BD_I8)
        memcpy(integers, (const int8_t *)step->in[0]->data + first, count);
    else
        bd_quantize(count, (const float *)step->in[0]->data + first, *(const float *)step->in[2]->data, integers);
}

void bd_read_integers_as_floats(const struct bd_step *step, size_t first, size_t count, float *integers) {
    const void *x = step->in[0]->data;
    float scale = *(const float *)step->in[2]->data;
    for (size_t i = 0; i < count; i++)
        integers[i] = step->in[0]->type == BD_I8 ? (float)((const int8_t *)x)[first + i]
                                                 : bd_quantized(((const float *)x)[first + i], scale);
}

static int check_quantize_int8(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error) || bd_check_step_size(step, 1, error);
}

static void run_quantize_int8(const struct bd_model *model, const struct bd_step *step,
                              const struct bd_worker *worker) {
    (void)model;
    const float *x = step->in[0]->data, scale = *(const float *)step->in[1]->data;
    float *y = step->out->data;
    struct bd_range share = bd_share_of(worker, (size_t)(step->out->bytes / sizeof *y));
    for (size_t i = share.first; i < share.end; i++)
        y[i] = bd_clamp(bd_nearest(x[i] / scale), -128, 127) * scale;
}

const struct bd_operator bd_operator_quantize_int8 = {.name = "quantize_int8",
                                                      .in = {BD_F32, BD_F32},
                                                      .out = BD_F32,
                                                      .constants_from = 1,
                                                      .check = check_quantize_int8,
                                                      .run = run_quantize_int8};
