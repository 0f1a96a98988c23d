/* Convolutions of floats with floats. */
#include "depthwise.h"
#include "float_conv.h"
#include "maps.h"

#include <string.h>

static int check_conv(struct bd_step *step, char *error) {
    return bd_check_convolution(step, error) || bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_residual(step, 3, error) || bd_check_rectifier(step, 4, error) || bd_check_rounding(step, error) ||
           bd_check_clamp(step, error);
}

/* [C][tap] -> [tap][C] */
static void prepare_depthwise(struct bd_model *model, struct bd_step *step) {
    size_t taps = (size_t)step->tiled.taps, channels = (size_t)step->tiled.groups;
    const float *next = step->in[1]->data;
    bd_prepare_depthwise_floats(model, step);
    float *weights = (float *)(void *)step->tiled.weights;
    for (size_t c = 0; model->memory != NULL && c < channels; c++)
        for (size_t tap = 0; tap < taps; tap++)
            weights[tap * channels + c] = *next++;
}

/* The row that does what this kernel does and the transform too. */
static const struct bd_kernel *find_fused(const struct bd_kernel *kernel) {
    const struct bd_kernel *fused = bd_choose("fgemm_affine", "f32", kernel->isa);
    return fused != NULL && fused->mr == kernel->mr && fused->nr == kernel->nr ? fused : NULL;
}

/* [F][tap][C] -> [block][tap * C][NR] */
static void prepare_conv(struct bd_model *model, struct bd_step *step) {
    if (bd_is_depthwise(step)) {
        prepare_depthwise(model, step);
        return;
    }
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr;
    bd_prepare_rows(model, step, bd_float_group_bytes(step), (uint64_t)bd_depth(step) * nr * sizeof(float));
    step->fused = find_fused(step->kernel);
    if (model->memory == NULL)
        return;
    const float *next = step->in[1]->data;
    memset(tiled->weights, 0, (size_t)tiled->groups * tiled->blocks * tiled->block_bytes);
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        float *column = (float *)(void *)(tiled->weights + place.block * tiled->block_bytes) + place.column;
        for (size_t i = 0; i < bd_depth(step); i++)
            column[i * nr] = *next++;
    }
}

void bd_multiply_floats(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, joined = step->tiled.joined;
    size_t taps = (size_t)step->tiled.taps / joined, channels = (size_t)step->tiled.channels * joined;
    float *sums = strip->sums;
    for (size_t tile = 0; tile < strip->count; tile++)
        step->kernel->run.fgemm_f32(taps, channels, (const void *)(strip->tiles + tile * strip->tile_bytes),
                                    strip->weights, sums + tile * mr * nr, nr);
}

static void fuse(const struct bd_step *step, const struct bd_strip *strip) {
    size_t joined = step->tiled.joined, taps = (size_t)step->tiled.taps / joined;
    step->fused->run.fgemm_affine_f32(strip->pixels, strip->filters, taps, (size_t)step->tiled.channels * joined,
                                      (const void *)strip->tiles, strip->tile_bytes / sizeof(void *), strip->weights,
                                      (const float *)step->in[2]->data + strip->first_filter,
                                      bd_floats_at(step, step->in[3], strip), step->node->minimum, step->node->maximum,
                                      bd_floats_at(step, step->out, strip), (size_t)step->tiled.filters);
}

static void conv_strip(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    (void)model;
    if (step->fused != NULL && step->rectify == NULL && step->out->type == BD_F32) {
        fuse(step, strip);
    } else {
        bd_multiply_floats(step, strip);
        bd_map_floats(step, strip, NULL, (const float *)step->in[2]->data + strip->first_filter, step->node->minimum,
                      step->node->maximum);
    }
}

static void run_conv(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_point_at_rows, bd_block_weights, conv_strip};
    if (bd_is_depthwise(step))
        bd_convolve_depthwise_floats(model, step, worker, NULL, step->in[2]->data);
    else
        bd_convolve(model, step, worker, &convolution);
}

const struct bd_operator bd_operator_conv = {.name = "conv",
                                             .in = {BD_F32, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
                                             .out = BD_F32,
                                             .constants_from = 1,
                                             .optional_from = 3,
                                             .residual = 3,
                                             .rectifier = 4,
                                             .rounding = 5,
                                             .kernel_op = "fgemm",
                                             .kernel_out = "f32",
                                             .one_pixel_op = "fgemv",
                                             .depthwise_op = "fdepthwise",
                                             .transform_op = "faffine",
                                             .transform_out = "f32",
                                             .check = check_conv,
                                             .prepare = prepare_conv,
                                             .run = run_conv};
