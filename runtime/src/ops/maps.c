#include "maps.h"
#include "quantize.h"

#include <math.h>

int bd_check_rectifier(const struct bd_step *step, int index, char *error) {
    return step->in[index] != NULL && bd_check_vector(step, index, 3 * step->tiled.filters, error);
}

int bd_check_rounding(const struct bd_step *step, char *error) {
    if (step->in[step->op->rounding] == NULL)
        return 0;
    if (step->in[step->op->residual] != NULL || bd_is_depthwise(step))
        return bd_fail_at(step, error, "it rounds its result: no layer with a residual and no depthwise one does");
    return bd_check_step_size(step, step->op->rounding, error);
}

static const float *residual_of(const struct bd_step *step, const struct bd_strip *strip) {
    return bd_floats_at(step, step->in[step->op->residual], strip);
}

/* Its slopes; the other parameters follow, each as far from the one before as there are filters. */
static const float *rectifier_of(const struct bd_step *step, const struct bd_strip *strip) {
    return (const float *)step->in[step->op->rectifier]->data + strip->first_filter;
}

/* Where floats are written: to the output or, if they are yet to be rounded, over the sums. */
struct place {
    float *y;
    size_t stride;
};

static struct place place_of(const struct bd_step *step, const struct bd_strip *strip) {
    if (step->out->type == BD_I8)
        return (struct place){strip->sums, strip->stride};
    return (struct place){bd_floats_at(step, step->out, strip), (size_t)step->tiled.filters};
}

static void round_strip(const struct bd_step *step, const struct bd_strip *strip) {
    if (step->out->type != BD_I8)
        return;
    const float scale = *(const float *)step->in[step->op->rounding]->data, *y = strip->sums;
    size_t filters = (size_t)step->tiled.filters;
    int8_t *integers = (int8_t *)step->out->data + strip->first_pixel * filters + strip->first_filter;
    for (size_t p = 0; p < strip->pixels; p++, y += strip->stride, integers += filters)
        bd_quantize(strip->filters, y, scale, integers);
}

void bd_map_integers(const struct bd_step *step, const struct bd_strip *strip, const float *scale, const float *bias) {
    size_t filters = (size_t)step->tiled.filters;
    float minimum = step->node->minimum, maximum = step->node->maximum;
    const float *residual = residual_of(step, strip);
    struct place to = place_of(step, strip);
    if (step->map_prelu == NULL) {
        step->transform->run.affine_f32(strip->pixels, strip->filters, strip->sums, strip->stride, scale, bias,
                                        residual, minimum, maximum, to.y, to.stride);
    } else {
        const float *slope = rectifier_of(step, strip);
        step->map_prelu->run.affine_prelu_f32(strip->pixels, strip->filters, strip->sums, strip->stride, scale, bias,
                                              minimum, maximum, residual, slope, slope + filters, slope + 2 * filters,
                                              to.y, to.stride);
    }
    round_strip(step, strip);
}

/* The kernel of the map; `stride` is that of y. */
static void map(const struct bd_step *step, const struct bd_strip *strip, const float *scale, const float *bias,
                const float *residual, float minimum, float maximum, float *y, size_t stride) {
    const struct bd_kernel *kernel = step->after != NULL ? step->after : step->transform;
    kernel->run.faffine_f32(strip->pixels, strip->filters, strip->sums, strip->stride, scale, bias, residual, minimum,
                            maximum, y, stride);
}

/* What is to be rectified takes the place of the sums, which are in the first-level cache. */
void bd_map_floats(const struct bd_step *step, const struct bd_strip *strip, const float *scale, const float *bias,
                   float minimum, float maximum) {
    size_t filters = (size_t)step->tiled.filters;
    const float *residual = residual_of(step, strip);
    struct place to = place_of(step, strip);
    if (step->rectify == NULL) {
        map(step, strip, scale, bias, residual, minimum, maximum, to.y, to.stride);
    } else {
        const float *slope = rectifier_of(step, strip);
        map(step, strip, scale, bias, NULL, minimum, maximum, strip->sums, strip->stride);
        step->rectify->run.fprelu_f32(strip->pixels, strip->filters, strip->sums, strip->stride, residual, slope,
                                      slope + filters, slope + 2 * filters, -INFINITY, INFINITY, to.y, to.stride);
    }
    round_strip(step, strip);
}

void bd_rectify(const struct bd_step *step, size_t first_pixel, size_t pixels) {
    size_t filters = (size_t)step->tiled.filters;
    struct bd_strip all = {.first_pixel = first_pixel};
    const float *slope = rectifier_of(step, &all);
    float *y = bd_floats_at(step, step->out, &all);
    step->rectify->run.fprelu_f32(pixels, filters, y, filters, residual_of(step, &all), slope, slope + filters,
                                  slope + 2 * filters, -INFINITY, INFINITY, y, filters);
}
