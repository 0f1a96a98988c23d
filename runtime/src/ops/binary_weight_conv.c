/* Convolutions of floats with packed +-1 weights, which are unpacked one block of filters at a time. */
#include "depthwise.h"
#include "float_conv.h"

#include <string.h>

static int check_binary_weight_conv(struct bd_step *step, char *error) {
    return bd_check_convolution(step, error) || bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_vector(step, 3, step->tiled.filters, error) || bd_check_residual(step, 4, error) ||
           bd_check_clamp(step, error);
}

/* The lowest bit of each row of the file [C][tap] -> +-1 [tap][C] */
static void prepare_depthwise_signs(struct bd_model *model, struct bd_step *step) {
    size_t taps = (size_t)step->tiled.taps, channels = (size_t)step->tiled.groups;
    const unsigned char *row = step->in[1]->data;
    bd_prepare_depthwise_floats(model, step);
    float *weights = (float *)(void *)step->tiled.weights;
    for (size_t c = 0; model->memory != NULL && c < channels; c++)
        for (size_t tap = 0; tap < taps; tap++, row += step->in[1]->shape[3])
            weights[tap * channels + c] = row[0] & 1u ? -1.0f : 1.0f;
}

/* Bits of one block, as long as its floats: one a weight, in the order [tap * C][NR], in whole bytes. */
static uint64_t packed_bytes(const struct bd_step *step) {
    return ((uint64_t)bd_depth(step) * (uint64_t)step->kernel->nr + 7) / 8;
}

/* Rows of the file [F][tap] -> bits [block][tap * C][NR]. */
static void prepare_binary_weight_conv(struct bd_model *model, struct bd_step *step) {
    if (bd_is_depthwise(step)) {
        prepare_depthwise_signs(model, step);
        return;
    }
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, channels = (size_t)tiled->channels;
    size_t file_row = (size_t)step->in[1]->shape[3], taps = (size_t)tiled->taps;
    bd_prepare_rows(model, step, bd_float_group_bytes(step), packed_bytes(step));
    bd_scratch(model, BD_EXPANDED, packed_bytes(step) * 8 * sizeof(float));
    if (model->memory == NULL)
        return;
    memset(tiled->weights, 0, (size_t)tiled->groups * tiled->blocks * tiled->block_bytes);
    const unsigned char *row = step->in[1]->data;
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        unsigned char *block = tiled->weights + place.block * tiled->block_bytes;
        for (size_t tap = 0; tap < taps; tap++, row += file_row)
            for (size_t c = 0; c < channels; c++) {
                size_t bit = (tap * channels + c) * nr + place.column;
                unsigned negative = (row[c / 8] >> (c % 8)) & 1u;
                block[bit / 8] = (unsigned char)(block[bit / 8] | negative << (bit % 8));
            }
    }
}

/* Bits -> +-1, four at a time by a table. */
static const void *expand_weights(const struct bd_step *step, const struct bd_worker *worker, size_t block) {
    static const float signs[16][4] = {{1, 1, 1, 1},   {-1, 1, 1, 1},   {1, -1, 1, 1},   {-1, -1, 1, 1},
                                       {1, 1, -1, 1},  {-1, 1, -1, 1},  {1, -1, -1, 1},  {-1, -1, -1, 1},
                                       {1, 1, 1, -1},  {-1, 1, 1, -1},  {1, -1, 1, -1},  {-1, -1, 1, -1},
                                       {1, 1, -1, -1}, {-1, 1, -1, -1}, {1, -1, -1, -1}, {-1, -1, -1, -1}};
    const unsigned char *packed = step->tiled.weights + block * step->tiled.block_bytes;
    float *expanded = worker->scratch[BD_EXPANDED];
    for (size_t i = 0; i < step->tiled.block_bytes; i++) {
        memcpy(expanded + 8 * i, signs[packed[i] & 15], sizeof signs[0]);
        memcpy(expanded + 8 * i + 4, signs[packed[i] >> 4], sizeof signs[0]);
    }
    return expanded;
}

static void finish_binary_weights(const struct bd_model *model, const struct bd_step *step,
                                  const struct bd_strip *strip) {
    (void)model;
    const float *scale = (const float *)step->in[2]->data + strip->first_filter;
    bd_finish_floats(step, strip, scale, (const float *)step->in[3]->data + strip->first_filter, step->in[4]);
}

static void binary_weight_strip(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_strip *strip) {
    bd_multiply_floats(step, strip);
    finish_binary_weights(model, step, strip);
}

static void run_binary_weight_conv(const struct bd_model *model, const struct bd_step *step,
                                   const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_point_at_rows, expand_weights, binary_weight_strip};
    if (bd_is_depthwise(step))
        bd_convolve_depthwise_floats(model, step, worker, finish_binary_weights);
    else
        bd_convolve(model, step, worker, &convolution);
}

const struct bd_operator bd_operator_binary_weight_conv = {.name = "binary_weight_conv",
                                                           .in = {BD_F32, BD_U8, BD_F32, BD_F32, BD_F32},
                                                           .out = BD_F32,
                                                           .constants_from = 1,
                                                           .optional_from = 4,
                                                           .residual = 4,
                                                           .kernel_op = "fgemm",
                                                           .kernel_out = "f32",
                                                           .one_pixel_op = "fgemv",
                                                           .depthwise_op = "fdepthwise",
                                                           .transform_op = "faffine",
                                                           .transform_out = "f32",
                                                           .check = check_binary_weight_conv,
                                                           .prepare = prepare_binary_weight_conv,
                                                           .run = run_binary_weight_conv};
