/* Convolutions of bits with bits: integers from a bgemm kernel, then a float or a bit.
 *
 *   dot = K - 2 popcount(a xor w)      K channels times taps, padded taps read +1
 *   dot -= sum over padded taps of (C - 2 popcount(w[tap]))      where a padded tap adds nothing (pad_value 0) */
#include "convolution.h"

#include <string.h>

#define BD_KERNEL(op, out, mr, nr, isa, name) _Static_assert(64 % (nr) == 0, "blocks of " #name " fill words of bits");
#include "../kernels.inc"
#undef BD_KERNEL

static int check_pad_value(const struct bd_step *step, char *error) {
    int value = step->node->pad_value;
    return value == 0 || value == 1 ? 0 : bd_fail_at(step, error, "pad_value is %d: 0 and 1 are possible", value);
}

static int check_binary_conv(struct bd_step *step, char *error) {
    return bd_check_packed_convolution(step, error) || check_pad_value(step, error) ||
           bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_vector(step, 3, step->tiled.filters, error) || bd_check_clamp(step, error);
}

static int check_binary_conv_threshold(struct bd_step *step, char *error) {
    return bd_check_packed_convolution(step, error) || check_pad_value(step, error) ||
           bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_directions(step, 3, step->tiled.filters, error);
}

/* 32-bit rows of the file [F][tap] -> 64-bit words [block][tap][word][NR]. */
static void tile_weights(struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps, words = bd_words(step->window.channels);
    size_t row_bytes = (size_t)step->in[1]->shape[3];
    const unsigned char *row = step->in[1]->data;
    memset(tiled->weights, 0, tiled->blocks * tiled->block_bytes);
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        uint64_t *block = (uint64_t *)(void *)(tiled->weights + filter / nr * tiled->block_bytes);
        for (size_t tap = 0; tap < taps; tap++, row += row_bytes)
            for (size_t word = 0; word < words; word++) {
                size_t left = row_bytes - word * 8;
                memcpy(&block[(tap * words + word) * nr + filter % nr], row + word * 8, left < 8 ? left : 8);
            }
    }
}

/* The dot product of one tap's weights with a row of +1: C - 2 popcount, for [block][tap][NR]. */
static void sum_taps(struct bd_step *step) {
    const struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps, words = bd_words(step->window.channels);
    const uint64_t *next = (const uint64_t *)(const void *)tiled->weights;
    for (size_t row = 0; row < tiled->blocks * taps; row++) {
        int32_t *sums = tiled->tap_sums + row * nr;
        for (size_t n = 0; n < nr; n++)
            sums[n] = step->window.channels;
        for (size_t word = 0; word < words; word++)
            for (size_t n = 0; n < nr; n++)
                sums[n] -= 2 * __builtin_popcountll(*next++);
    }
}

static void prepare_integers(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    uint64_t words = bd_words(step->window.channels), nr = (uint64_t)step->kernel->nr, taps = (uint64_t)tiled->taps;
    bd_prepare_convolution(model, step, words * sizeof(uint64_t), taps * words * nr * sizeof(uint64_t));
    if (step->node->pad_value == 0)
        tiled->tap_sums = bd_take(&model->tables, tiled->blocks * taps * nr * sizeof(int32_t));
    if (model->memory == NULL)
        return;
    tile_weights(step);
    if (tiled->tap_sums != NULL)
        sum_taps(step);
}

/* Thresholds and flips of filters beyond the last are such that their bits are 0. */
static void prepare_thresholds(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    prepare_integers(model, step);
    size_t filters = (size_t)tiled->filters, padded = tiled->blocks * (size_t)step->kernel->nr;
    size_t flips_bytes = bd_words(tiled->filters) * sizeof(uint64_t);
    tiled->thresholds = bd_take(&model->tables, (uint64_t)padded * sizeof(int32_t));
    tiled->flips = bd_take(&model->tables, flips_bytes);
    if (model->memory == NULL)
        return;
    memcpy(tiled->thresholds, step->in[2]->data, filters * sizeof(int32_t));
    for (size_t f = filters; f < padded; f++)
        tiled->thresholds[f] = INT32_MIN;
    bd_pack_directions(filters, step->in[3]->data, tiled->flips);
}

static const void *block_weights(const struct bd_model *model, const struct bd_step *step, size_t block) {
    (void)model;
    return step->tiled.weights + block * step->tiled.block_bytes;
}

static void subtract(size_t count, const int32_t *restrict from, int32_t *restrict to) {
    for (size_t i = 0; i < count; i++)
        to[i] -= from[i];
}

/* Takes back what the rows of zeros, read as +1, have added. */
static void subtract_padding(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, taps = (size_t)step->tiled.taps;
    const int32_t *tap_sums = step->tiled.tap_sums + strip->block * taps * nr;
    for (size_t tile = 0; tile < strip->tiles; tile++)
        for (uint32_t i = 0; i < strip->padded[tile]; i++) {
            struct bd_padding padding = strip->padding[tile * taps * mr + i];
            subtract(nr, tap_sums + padding.tap * nr, (int32_t *)strip->sums + (tile * mr + padding.pixel) * nr);
        }
}

/* The integers of one strip, exact, which is what an observer sees. */
static void multiply(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, taps = (size_t)step->tiled.taps;
    size_t words = bd_words(step->window.channels);
    int32_t depth = step->tiled.taps * step->window.channels, *dots = strip->sums;
    const uint64_t *const *rows = (const uint64_t *const *)strip->rows;
    for (size_t tile = 0; tile < strip->tiles; tile++)
        step->kernel->run.bgemm_i32(taps, words, depth, rows + tile * taps * mr, strip->weights, dots + tile * mr * nr,
                                    nr);
    if (step->tiled.tap_sums != NULL)
        subtract_padding(step, strip);
    if (model->observer != NULL)
        model->observer(model->observer_user, (size_t)(step - model->steps), strip->first_pixel, strip->pixels,
                        strip->first_filter, strip->filters, dots, nr);
}

/* y = clamp(scale * dot + bias) */
static void strip_to_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    multiply(model, step, strip);
    size_t channels = (size_t)step->tiled.filters;
    const float *scale = (const float *)step->in[2]->data + strip->first_filter;
    const float *bias = (const float *)step->in[3]->data + strip->first_filter;
    float *y = (float *)step->out->data + strip->first_pixel * channels + strip->first_filter;
    step->transform->run.affine_f32(strip->pixels, strip->filters, strip->sums, (size_t)step->kernel->nr, scale, bias,
                                    step->node->minimum, step->node->maximum, y, channels);
}

/* The blocks of a word of 64 filters write it one after the other, and none straddles two words. */
static void strip_to_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    multiply(model, step, strip);
    size_t nr = (size_t)step->kernel->nr, words = bd_words(step->tiled.filters);
    size_t word = strip->first_filter / 64, first = strip->first_filter % 64;
    const int32_t *thresholds = step->tiled.thresholds + strip->first_filter;
    uint64_t flips = step->tiled.flips[word] >> first & (~UINT64_C(0) >> (64 - nr));
    uint64_t *bits = (uint64_t *)step->out->data + strip->first_pixel * words + word;
    step->transform->run.threshold_b1(strip->pixels, nr, strip->sums, nr, thresholds, flips, first, bits, words);
}

static void run_binary_conv(const struct bd_model *model, const struct bd_step *step) {
    bd_convolve(model, step, block_weights, strip_to_floats);
}

static void run_binary_conv_threshold(const struct bd_model *model, const struct bd_step *step) {
    bd_convolve(model, step, block_weights, strip_to_bits);
}

const struct bd_operator bd_operator_binary_conv = {.name = "binary_conv",
                                                    .in = {BD_BITS, BD_U8, BD_F32, BD_F32},
                                                    .out = BD_F32,
                                                    .constants_from = 1,
                                                    .kernel_op = "bgemm",
                                                    .kernel_out = "i32",
                                                    .one_pixel_op = "bgemv",
                                                    .transform_op = "affine",
                                                    .transform_out = "f32",
                                                    .check = check_binary_conv,
                                                    .prepare = prepare_integers,
                                                    .run = run_binary_conv};

const struct bd_operator bd_operator_binary_conv_threshold = {.name = "binary_conv_threshold",
                                                              .in = {BD_BITS, BD_U8, BD_I32, BD_I8},
                                                              .out = BD_BITS,
                                                              .constants_from = 1,
                                                              .kernel_op = "bgemm",
                                                              .kernel_out = "i32",
                                                              .one_pixel_op = "bgemv",
                                                              .transform_op = "threshold",
                                                              .transform_out = "b1",
                                                              .check = check_binary_conv_threshold,
                                                              .prepare = prepare_thresholds,
                                                              .run = run_binary_conv_threshold};
