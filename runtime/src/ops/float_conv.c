/* Convolutions of floats: with floats, or with packed +-1 weights that are unpacked one block of filters at a time. */
#include "../affine.h"
#include "convolution.h"

#include <string.h>

static int check_conv(struct bd_step *step, char *error) {
    return bd_check_convolution(step, step->in[0]->shape[3], error) ||
           bd_check_vector(step, 2, step->tiled.filters, error) || bd_check_clamp(step, error);
}

static int check_binary_weight_conv(struct bd_step *step, char *error) {
    return bd_check_packed_convolution(step, error) || bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_vector(step, 3, step->tiled.filters, error) || bd_check_clamp(step, error);
}

/* Weights of one filter: channels times taps. */
static size_t depth(const struct bd_step *step) {
    return (size_t)step->tiled.taps * (size_t)step->window.channels;
}

static size_t row_bytes(const struct bd_step *step) {
    return (size_t)step->window.channels * sizeof(float);
}

/* [F][tap][C] -> [block][tap * C][NR] */
static void prepare_conv(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr;
    bd_prepare_convolution(model, step, row_bytes(step), (uint64_t)depth(step) * nr * sizeof(float));
    if (model->memory == NULL)
        return;
    const float *next = step->in[1]->data;
    memset(tiled->weights, 0, tiled->blocks * tiled->block_bytes);
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        float *column = (float *)(void *)(tiled->weights + filter / nr * tiled->block_bytes) + filter % nr;
        for (size_t i = 0; i < depth(step); i++)
            column[i * nr] = *next++;
    }
}

/* Bits of one block, as long as its floats: one a weight, in the order [tap * C][NR], in whole bytes. */
static uint64_t packed_bytes(const struct bd_step *step) {
    return ((uint64_t)depth(step) * (uint64_t)step->kernel->nr + 7) / 8;
}

/* Rows of the file [F][tap] -> bits [block][tap * C][NR]. */
static void prepare_binary_weight_conv(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, channels = (size_t)step->window.channels;
    size_t file_row = (size_t)step->in[1]->shape[3], taps = (size_t)tiled->taps;
    bd_prepare_convolution(model, step, row_bytes(step), packed_bytes(step));
    bd_share(model, BD_EXPANDED, packed_bytes(step) * 8 * sizeof(float));
    if (model->memory == NULL)
        return;
    memset(tiled->weights, 0, tiled->blocks * tiled->block_bytes);
    const unsigned char *row = step->in[1]->data;
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        unsigned char *block = tiled->weights + filter / nr * tiled->block_bytes;
        for (size_t tap = 0; tap < taps; tap++, row += file_row)
            for (size_t c = 0; c < channels; c++) {
                size_t bit = (tap * channels + c) * nr + filter % nr;
                unsigned negative = (row[c / 8] >> (c % 8)) & 1u;
                block[bit / 8] = (unsigned char)(block[bit / 8] | negative << (bit % 8));
            }
    }
}

static const void *float_weights(const struct bd_model *model, const struct bd_step *step, size_t block) {
    (void)model;
    return step->tiled.weights + block * step->tiled.block_bytes;
}

/* Bits -> +-1, four at a time by a table. */
static const void *expand_weights(const struct bd_model *model, const struct bd_step *step, size_t block) {
    static const float signs[16][4] = {{1, 1, 1, 1},   {-1, 1, 1, 1},   {1, -1, 1, 1},   {-1, -1, 1, 1},
                                       {1, 1, -1, 1},  {-1, 1, -1, 1},  {1, -1, -1, 1},  {-1, -1, -1, 1},
                                       {1, 1, 1, -1},  {-1, 1, 1, -1},  {1, -1, 1, -1},  {-1, -1, 1, -1},
                                       {1, 1, -1, -1}, {-1, 1, -1, -1}, {1, -1, -1, -1}, {-1, -1, -1, -1}};
    const unsigned char *packed = step->tiled.weights + block * step->tiled.block_bytes;
    float *expanded = model->shared[BD_EXPANDED];
    for (size_t i = 0; i < step->tiled.block_bytes; i++) {
        memcpy(expanded + 8 * i, signs[packed[i] & 15], sizeof signs[0]);
        memcpy(expanded + 8 * i + 4, signs[packed[i] >> 4], sizeof signs[0]);
    }
    return expanded;
}

/* The sums of one strip. */
static const float *multiply(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, taps = (size_t)step->tiled.taps;
    size_t channels = (size_t)step->window.channels;
    const float *const *rows = (const float *const *)strip->rows;
    float *sums = strip->sums;
    for (size_t tile = 0; tile < strip->tiles; tile++)
        step->kernel->run.fgemm_f32(taps, channels, rows + tile * taps * mr, strip->weights, sums + tile * mr * nr, nr);
    return sums;
}

static float *output_at(const struct bd_step *step, const struct bd_strip *strip) {
    return (float *)step->out->data + strip->first_pixel * (size_t)step->tiled.filters + strip->first_filter;
}

/* y = clamp(sum + bias) */
static void conv_strip(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    (void)model;
    const float *sums = multiply(step, strip), *bias = (const float *)step->in[2]->data + strip->first_filter;
    float *y = output_at(step, strip);
    for (size_t m = 0; m < strip->pixels; m++, sums += step->kernel->nr, y += step->tiled.filters)
        bd_add_bias(strip->filters, sums, bias, step->node->minimum, step->node->maximum, y);
}

/* y = clamp(scale * sum + bias) */
static void binary_weight_strip(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_strip *strip) {
    (void)model;
    const float *sums = multiply(step, strip);
    const float *scale = (const float *)step->in[2]->data + strip->first_filter;
    const float *bias = (const float *)step->in[3]->data + strip->first_filter;
    float *y = output_at(step, strip), products[BD_MAX_NR];
    for (size_t m = 0; m < strip->pixels; m++, sums += step->kernel->nr, y += step->tiled.filters) {
        for (size_t n = 0; n < strip->filters; n++)
            products[n] = scale[n] * sums[n];
        bd_round_products(products);
        bd_add_bias(strip->filters, products, bias, step->node->minimum, step->node->maximum, y);
    }
}

static void run_conv(const struct bd_model *model, const struct bd_step *step) {
    bd_convolve(model, step, float_weights, conv_strip);
}

static void run_binary_weight_conv(const struct bd_model *model, const struct bd_step *step) {
    bd_convolve(model, step, expand_weights, binary_weight_strip);
}

const struct bd_operator bd_operator_conv = {.name = "conv",
                                             .in = {BD_F32, BD_F32, BD_F32},
                                             .out = BD_F32,
                                             .constants_from = 1,
                                             .kernel_op = "fgemm",
                                             .kernel_out = "f32",
                                             .one_pixel_op = "fgemv",
                                             .check = check_conv,
                                             .prepare = prepare_conv,
                                             .run = run_conv};

const struct bd_operator bd_operator_binary_weight_conv = {.name = "binary_weight_conv",
                                                           .in = {BD_F32, BD_U8, BD_F32, BD_F32},
                                                           .out = BD_F32,
                                                           .constants_from = 1,
                                                           .kernel_op = "fgemm",
                                                           .kernel_out = "f32",
                                                           .one_pixel_op = "fgemv",
                                                           .check = check_binary_weight_conv,
                                                           .prepare = prepare_binary_weight_conv,
                                                           .run = run_binary_weight_conv};
