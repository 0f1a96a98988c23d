/* Convolutions with packed +-1 weights, of floats or of the 8-bit integers that floats are rounded to.
 *
 * Where the instruction set has rows for it, what a few weights make of a pixel's channels is computed once, for all
 * their signs, and looked up by each filter: the weights are read as codes and no product is computed. Tables are made
 * of the whole input, where a table is a register, or slice by slice (slices.c), where one has a row for each code.
 * Elsewhere they are unpacked one block of filters at a time; then integers are floats too, and their sums are exact.
 */
#include "depthwise.h"
#include "float_conv.h"
#include "maps.h"
#include "quantize.h"
#include "slices.h"

#include <string.h>

/* Tables of pixels that are multiplied with one block after the other: they stay in the second-level cache. */
enum { CHUNK_BYTES = 256 * 1024 };

/* Sums of as many integers up to 128 are exact in floats of 24 bits. */
enum { MAX_INT8_DEPTH = 1 << 17 };

static int check_binary_weight_conv(struct bd_step *step, char *error) {
    return bd_check_convolution(step, error) || bd_check_vector(step, 2, step->tiled.filters, error) ||
           bd_check_vector(step, 3, step->tiled.filters, error) || bd_check_residual(step, 4, error) ||
           bd_check_rectifier(step, 5, error) || bd_check_rounding(step, error) || bd_check_clamp(step, error);
}

static int check_binary_weight_int8_conv(struct bd_step *step, char *error) {
    if (bd_check_convolution(step, error) || bd_check_step_size(step, 2, error) ||
        bd_check_vector(step, 3, step->tiled.filters, error) || bd_check_vector(step, 4, step->tiled.filters, error))
        return 1;
    if (bd_depth(step) > MAX_INT8_DEPTH)
        return bd_fail_at(step, error, "sums over %zu inputs: %d are possible", bd_depth(step), MAX_INT8_DEPTH);
    return bd_check_residual(step, 5, error) || bd_check_rectifier(step, 6, error) || bd_check_rounding(step, error) ||
           bd_check_clamp(step, error);
}

/* ---- weights ---- */

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

/* How bits of a block stand: [tap][word][NR], each word of `bits` bits with the weights of `channels` channels, the
 * first one lowest. A weight that is unpacked is a word of its own. */
struct order {
    size_t words, channels, bits;
};

static struct order order_of(const struct bd_step *step) {
    const struct bd_kernel *tables = step->tables;
    size_t channels = (size_t)step->tiled.channels;
    if (tables == NULL)
        return (struct order){channels, 1, 1};
    if (bd_has_slices(step))
        return (struct order){bd_slices(step), BD_SLICE_CHANNELS, BD_SLICE_CHANNELS};
    size_t code = (size_t)tables->mr, bits = !strcmp(tables->out, "f32") ? 32 : code == 5 ? 16 : 8;
    size_t in_word = bits / code * code;
    return (struct order){(channels + in_word - 1) / in_word, in_word, bits};
}

/* In whole bytes. */
static uint64_t packed_bytes(const struct bd_step *step) {
    struct order order = order_of(step);
    return ((uint64_t)step->tiled.taps * order.words * order.bits * (uint64_t)step->kernel->nr + 7) / 8;
}

/* Rows of the file [F][tap] -> blocks of bits. */
static void tile_bits(const struct bd_step *step) {
    const struct bd_tiled *tiled = &step->tiled;
    const struct order order = order_of(step);
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps, file_row = (size_t)step->in[1]->shape[3];
    memset(tiled->weights, 0, (size_t)tiled->groups * tiled->blocks * tiled->block_bytes);
    const unsigned char *row = step->in[1]->data;
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        unsigned char *block = tiled->weights + place.block * tiled->block_bytes;
        for (size_t tap = 0; tap < taps; tap++, row += file_row)
            for (size_t c = 0; c < (size_t)tiled->channels; c++) {
                size_t word = (tap * order.words + c / order.channels) * nr + place.column;
                size_t bit = word * order.bits + c % order.channels;
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

/* ---- what the kernel reads of the input: the input itself, its integers as floats, or tables ---- */

static int has_integers(const struct bd_step *step) {
    return step->op == &bd_operator_binary_weight_int8_conv;
}

/* Of one group. */
static size_t group_bytes(const struct bd_step *step) {
    const struct bd_kernel *tables = step->tables;
    if (tables == NULL)
        return bd_float_group_bytes(step);
    size_t code = (size_t)tables->mr, codes = ((size_t)step->tiled.channels + code - 1) / code;
    return codes * (size_t)tables->nr * (has_integers(step) ? sizeof(int16_t) : sizeof(float));
}

/* Floats that are no tables. */
static int reads_input(const struct bd_step *step) {
    return !has_integers(step) && (step->tables == NULL || bd_has_slices(step));
}

static void prepare(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    if (bd_is_depthwise(step)) {
        prepare_depthwise_signs(model, step);
    } else if (bd_has_slices(step)) {
        bd_prepare_slices(model, step, has_integers(step) ? sizeof(int8_t) : sizeof(float), packed_bytes(step));
        if (model->memory != NULL)
            tile_bits(step);
    } else {
        bd_prepare_rows(model, step, group_bytes(step), packed_bytes(step));
        if (step->tables == NULL) {
            bd_scratch(model, BD_EXPANDED, packed_bytes(step) * 8 * sizeof(float));
        } else {
            size_t tile_bytes = (size_t)step->kernel->mr * tiled->row_bytes, most = CHUNK_BYTES / tile_bytes + 1;
            tiled->chunk = tiled->chunk < most ? tiled->chunk : most;
            bd_scratch(model, BD_EXPANDED, (uint64_t)tiled->channels * sizeof(float));
        }
        if (model->memory != NULL)
            tile_bits(step);
    }
    if (reads_input(step))
        return;
    bd_share(model, BD_REGROUPED, (uint64_t)bd_pixels(step->in[0]) * tiled->row_bytes);
    tiled->source = model->shared[BD_REGROUPED];
}

/* Integers as floats of their own value, which the tables' kernel rounds by 1: a row of channels at a time. */
static void tabulate_integers(const struct bd_step *step, const struct bd_worker *worker, size_t first, size_t count,
                              unsigned char *made) {
    size_t channels = (size_t)step->tiled.channels;
    float *row = worker->scratch[BD_EXPANDED];
    for (size_t i = 0; i < count; i += channels, made += group_bytes(step)) {
        bd_read_integers_as_floats(step, first + i, channels, row);
        step->tables->run.tables_i16(1, channels, row, 1, (int16_t *)(void *)made);
    }
}

static void make_source(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    const struct bd_kernel *tables = step->tables;
    struct bd_range share = bd_share_of(worker, bd_pixels(step->in[0]));
    size_t groups = (size_t)step->tiled.groups, channels = (size_t)step->tiled.channels;
    size_t first = share.first * groups * channels, count = (share.end - share.first) * groups * channels;
    unsigned char *made = (unsigned char *)model->shared[BD_REGROUPED] + share.first * step->tiled.row_bytes;
    if (reads_input(step))
        return;
    if (!has_integers(step)) {
        tables->run.tables_f32(count / channels, channels, (const float *)step->in[0]->data + first,
                               (float *)(void *)made);
    } else if (bd_has_slices(step)) {
        bd_read_integers(step, first, count, (int8_t *)made);
    } else if (tables == NULL) {
        bd_read_integers_as_floats(step, first, count, (float *)(void *)made);
    } else if (step->in[0]->type == BD_I8) {
        tabulate_integers(step, worker, first, count, made);
    } else {
        tables->run.tables_i16(count / channels, channels, (const float *)step->in[0]->data + first,
                               *(const float *)step->in[2]->data, (int16_t *)(void *)made);
    }
}

/* ---- strips ---- */

/* Scale and bias of all filters. */
struct map {
    const float *scale, *bias;
};

static struct map map_of(const struct bd_step *step) {
    int first = has_integers(step) ? 3 : 2;
    return (struct map){step->in[first]->data, step->in[first + 1]->data};
}

static void finish_floats(const struct bd_step *step, const struct bd_strip *strip) {
    struct map map = map_of(step);
    bd_map_floats(step, strip, map.scale + strip->first_filter, map.bias + strip->first_filter, step->node->minimum,
                  step->node->maximum);
}

static void finish_integers(const struct bd_step *step, const struct bd_strip *strip) {
    struct map map = map_of(step);
    bd_map_integers(step, strip, map.scale + strip->first_filter, map.bias + strip->first_filter);
}

static void multiply_strip(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    (void)model;
    bd_multiply_floats(step, strip);
    finish_floats(step, strip);
}

static void finish_strip(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    (void)model;
    if (has_integers(step))
        finish_integers(step, strip);
    else
        finish_floats(step, strip);
}

static void look_up_strip(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, taps = (size_t)step->tiled.taps;
    size_t code = (size_t)step->tables->mr, groups = ((size_t)step->tiled.channels + code - 1) / code;
    for (size_t tile = 0; tile < strip->count; tile++) {
        const void *const *rows = (const void *)(strip->tiles + tile * strip->tile_bytes);
        if (has_integers(step))
            step->kernel->run.wgemm_i32(taps, groups, rows, strip->weights, (int32_t *)strip->sums + tile * mr * nr,
                                        nr);
        else
            step->kernel->run.wgemm_f32(taps, groups, rows, strip->weights, (float *)strip->sums + tile * mr * nr, nr);
    }
    finish_strip(model, step, strip);
}

static void run(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    static const struct bd_convolution products = {bd_point_at_rows, expand_weights, multiply_strip};
    static const struct bd_convolution lookups = {bd_point_at_rows, bd_block_weights, look_up_strip};
    struct map map = map_of(step);
    if (bd_is_depthwise(step))
        bd_convolve_depthwise_floats(model, step, worker, map.scale, map.bias);
    else if (bd_has_slices(step))
        bd_convolve_slices(model, step, worker, finish_strip);
    else
        bd_convolve(model, step, worker, step->tables == NULL ? &products : &lookups);
}

const struct bd_operator bd_operator_binary_weight_conv = {
    .name = "binary_weight_conv",
    .in = {BD_F32, BD_U8, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
    .out = BD_F32,
    .constants_from = 1,
    .optional_from = 4,
    .residual = 4,
    .rectifier = 5,
    .rounding = 6,
    .kernel_op = "fgemm",
    .kernel_out = "f32",
    .one_pixel_op = "fgemv",
    .depthwise_op = "fdepthwise",
    .lookup_out = "f32",
    .tables_out = "f32",
    .transform_op = "faffine",
    .transform_out = "f32",
    .check = check_binary_weight_conv,
    .prepare = prepare,
    .before = make_source,
    .run = run};

const struct bd_operator bd_operator_binary_weight_int8_conv = {
    .name = "binary_weight_int8_conv",
    .in = {BD_F32, BD_U8, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
    .out = BD_F32,
    .constants_from = 1,
    .optional_from = 5,
    .residual = 5,
    .rectifier = 6,
    .rounding = 7,
    .takes_integers = 1,
    .kernel_op = "fgemm",
    .kernel_out = "f32",
    .one_pixel_op = "fgemv",
    .depthwise_op = "fdepthwise",
    .lookup_out = "i32",
    .tables_out = "i16",
    .transform_op = "faffine",
    .transform_out = "f32",
    .check = check_binary_weight_int8_conv,
    .prepare = prepare,
    .before = make_source,
    .run = run};
