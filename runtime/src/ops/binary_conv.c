/* Convolutions of bits with bits: integers from a bgemm kernel, then a float or a bit.
 *
 *   dot = K - 2 popcount(a xor w)      K channels of a group times taps, padded taps read +1
 *   dot -= sum over padded taps of (C - 2 popcount(w[tap]))      where a padded tap adds nothing (pad_value 0) */
#include "binary_conv.h"
#include "binary_tiles.h"
#include "depthwise.h"
#include "maps.h"

#include <math.h>

static int check_pad_value(const struct bd_step *step, char *error) {
    int value = step->node->pad_value;
    return value == 0 || value == 1 ? 0 : bd_fail_at(step, error, "pad_value is %d: 0 and 1 are possible", value);
}

/* Scales and biases of two maps stand one after the other. */
static int has_two_maps(const struct bd_step *step) {
    int length = step->in[2]->shape[0];
    return length % 2 == 0 && length / 2 == step->tiled.filters;
}

static int check_maps(const struct bd_step *step, char *error) {
    int length = has_two_maps(step) ? step->in[2]->shape[0] : step->tiled.filters;
    return bd_check_vector(step, 2, length, error) || bd_check_vector(step, 3, length, error);
}

int bd_check_binary_conv(struct bd_step *step, char *error) {
    return bd_check_convolution(step, error) || check_pad_value(step, error) || check_maps(step, error) ||
           bd_check_residual(step, 4, error) || bd_check_rectifier(step, 5, error) || bd_check_rounding(step, error) ||
           bd_check_clamp(step, error);
}

int bd_check_binary_conv_threshold(struct bd_step *step, char *error) {
    return bd_check_convolution(step, error) || check_pad_value(step, error) ||
           bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_directions(step, 3, step->tiled.filters, error);
}

/* Bits without the integers, of a kernel of edges. */
static const struct bd_kernel *find_fused(const struct bd_step *step) {
    if (!step->tiled.edges)
        return NULL;
    const struct bd_kernel *kernel = step->kernel, *fused = bd_choose("bgemm_threshold", "b1", kernel->isa);
    return fused != NULL && fused->mr == kernel->mr && fused->nr == kernel->nr ? fused : NULL;
}

void bd_prepare_flips(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    tiled->flips = bd_take(&model->tables, bd_words(tiled->filters) * sizeof(uint64_t));
    if (model->memory != NULL)
        bd_pack_directions((size_t)tiled->filters, step->in[3]->data, tiled->flips);
}

static void prepare_thresholds(struct bd_model *model, struct bd_step *step) {
    bd_prepare_bits(model, step);
    step->fused = find_fused(step);
    bd_prepare_flips(model, step);
}

static void subtract(size_t count, const int32_t *restrict from, int32_t *restrict to) {
    for (size_t i = 0; i < count; i++)
        to[i] -= from[i];
}

/* Takes back what the rows of zeros, read as +1, have added. */
static void subtract_padding(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, taps = (size_t)step->tiled.taps;
    const int32_t *tap_sums = step->tiled.tap_sums + strip->block * taps * nr;
    for (size_t tile = 0; tile < strip->count; tile++)
        for (uint32_t i = 0; i < strip->padded[tile]; i++) {
            struct bd_padding padding = strip->padding[tile * taps * mr + i];
            subtract(nr, tap_sums + padding.tap * nr, (int32_t *)strip->sums + (tile * mr + padding.pixel) * nr);
        }
}

/* The integers of one strip. */
static void multiply(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr;
    int32_t depth = (int32_t)bd_depth(step), *dots = strip->sums;
    for (size_t tile = 0; tile < strip->count; tile++)
        step->kernel->run.bgemm_i32(step->tiled.words, depth, (const void *)(strip->tiles + tile * strip->tile_bytes),
                                    strip->weights, dots + tile * mr * nr, nr);
    if (step->tiled.tap_sums != NULL)
        subtract_padding(step, strip);
}

/* An observer sees the integers as they are, exact. */
static void show(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    if (model->observer != NULL)
        model->observer(model->observer_user, (size_t)(step - model->steps), strip->first_pixel, strip->pixels,
                        strip->first_filter, strip->filters, strip->sums, strip->stride);
}

/* Of two maps the first one is clamped, in place of the sums. */
static void map_twice(const struct bd_step *step, const struct bd_strip *strip, const float *scale, const float *bias) {
    step->transform->run.affine_f32(strip->pixels, strip->filters, strip->sums, strip->stride, scale, bias, NULL,
                                    step->node->minimum, step->node->maximum, strip->sums, strip->stride);
    bd_map_floats(step, strip, scale + step->tiled.filters, bias + step->tiled.filters, -INFINITY, INFINITY);
}

void bd_sums_to_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    show(model, step, strip);
    const float *scale = (const float *)step->in[2]->data + strip->first_filter;
    const float *bias = (const float *)step->in[3]->data + strip->first_filter;
    (has_two_maps(step) ? map_twice : bd_map_integers)(step, strip, scale, bias);
}

/* Filters that go into one word of each output pixel, from its bit `first` on. */
struct field {
    size_t filters, first;
    const int32_t *thresholds;
    uint64_t flips, *bits;
};

/* Those of a strip from its filter `done` on. */
static struct field field_of(const struct bd_step *step, const struct bd_strip *strip, size_t done) {
    size_t filter = strip->first_filter + done, first = filter % 64, left = strip->filters - done;
    size_t words = bd_words(step->tiled.filters), count = left < 64 - first ? left : 64 - first;
    return (struct field){.filters = count,
                          .first = first,
                          .thresholds = (const int32_t *)step->in[2]->data + filter,
                          .flips = step->tiled.flips[filter / 64] >> first & (~UINT64_C(0) >> (64 - count)),
                          .bits = (uint64_t *)step->out->data + strip->first_pixel * words + filter / 64};
}

/* The filters of a word come one after the other, from its lowest bit on; those of a group may end inside a word. */
void bd_sums_to_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    show(model, step, strip);
    const int32_t *dots = strip->sums;
    for (size_t done = 0; done < strip->filters;) {
        struct field field = field_of(step, strip, done);
        step->transform->run.threshold_b1(strip->pixels, field.filters, dots + done, strip->stride, field.thresholds,
                                          field.flips, field.first, field.bits, bd_words(step->tiled.filters));
        done += field.filters;
    }
}

static void strip_to_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    multiply(step, strip);
    bd_sums_to_floats(model, step, strip);
}

/* Whether nobody wants the integers of these tiles, and their bits go into one word of each pixel. */
static int may_fuse(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    return step->fused != NULL && model->observer == NULL && strip->padded[0] == 0 &&
           strip->first_filter % 64 + strip->filters <= 64;
}

static void fuse(const struct bd_step *step, const struct bd_strip *strip) {
    struct field field = field_of(step, strip, 0);
    step->fused->run.bgemm_threshold_b1(strip->pixels, field.filters, step->tiled.words, (int32_t)bd_depth(step),
                                        (const void *)strip->tiles, strip->weights, field.thresholds, field.flips,
                                        field.first, field.bits, bd_words(step->tiled.filters));
}

/* Those first tiles of a strip that all have padding to take back, or all have none. */
static struct bd_strip alike(const struct bd_step *step, const struct bd_strip *strip) {
    struct bd_strip part = *strip;
    size_t count = step->tiled.tap_sums == NULL ? strip->count : 1;
    while (count < strip->count && !strip->padded[count] == !strip->padded[0])
        count++;
    if (count < strip->count)
        part.pixels = count * (size_t)step->kernel->mr;
    part.count = count;
    return part;
}

static struct bd_strip behind(const struct bd_step *step, const struct bd_strip *strip, const struct bd_strip *part) {
    struct bd_strip rest = *strip;
    rest.tiles += part->count * strip->tile_bytes;
    rest.padding += part->count * (size_t)step->tiled.taps * (size_t)step->kernel->mr;
    rest.padded += part->count;
    rest.count -= part->count;
    rest.first_pixel += part->pixels;
    rest.pixels -= part->pixels;
    return rest;
}

static void strip_to_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    struct bd_strip rest = *strip, part;
    for (; rest.count > 0; rest = behind(step, &rest, &part)) {
        part = alike(step, &rest);
        if (may_fuse(model, step, &part)) {
            fuse(step, &part);
        } else {
            multiply(step, &part);
            bd_sums_to_bits(model, step, &part);
        }
    }
}

static void run_binary_conv(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_pack_words, bd_block_weights, strip_to_floats};
    if (bd_is_depthwise(step))
        bd_convolve_depthwise_bits(model, step, worker, bd_sums_to_floats);
    else
        bd_convolve(model, step, worker, &convolution);
}

static void run_binary_conv_threshold(const struct bd_model *model, const struct bd_step *step,
                                      const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_pack_words, bd_block_weights, strip_to_bits};
    if (bd_is_depthwise(step))
        bd_convolve_depthwise_bits(model, step, worker, bd_sums_to_bits);
    else
        bd_convolve(model, step, worker, &convolution);
}

const struct bd_operator bd_operator_binary_conv = {.name = "binary_conv",
                                                    .in = {BD_BITS, BD_U8, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
                                                    .out = BD_F32,
                                                    .constants_from = 1,
                                                    .optional_from = 4,
                                                    .residual = 4,
                                                    .rectifier = 5,
                                                    .rounding = 6,
                                                    .kernel_op = "bgemm",
                                                    .kernel_out = "i32",
                                                    .edge_op = "bgemm_edge",
                                                    .one_pixel_op = "bgemv",
                                                    .depthwise_op = "bdepthwise",
                                                    .transform_op = "affine",
                                                    .transform_out = "f32",
                                                    .after_op = "faffine",
                                                    .check = bd_check_binary_conv,
                                                    .prepare = bd_prepare_bits,
                                                    .before = bd_lay_planes,
                                                    .run = run_binary_conv};

const struct bd_operator bd_operator_binary_conv_threshold = {.name = "binary_conv_threshold",
                                                              .in = {BD_BITS, BD_U8, BD_I32, BD_I8},
                                                              .out = BD_BITS,
                                                              .constants_from = 1,
                                                              .kernel_op = "bgemm",
                                                              .kernel_out = "i32",
                                                              .edge_op = "bgemm_edge",
                                                              .one_pixel_op = "bgemv",
                                                              .depthwise_op = "bdepthwise",
                                                              .transform_op = "threshold",
                                                              .transform_out = "b1",
                                                              .check = bd_check_binary_conv_threshold,
                                                              .prepare = prepare_thresholds,
                                                              .before = bd_lay_planes,
                                                              .run = run_binary_conv_threshold};
