/* Convolutions of 8-bit integers, for the layers whose weights stay numbers: the first and the last.
 *
 *   q   = clamp(round(x / input_scale), -128, 127)      NaN reads as -128
 *   dot = sum over taps and channels of q * weight      exact in 32 bits; a padded tap reads 0
 *   y   = clamp(scale * dot + bias + residual), then rectified; or the bit of dot < threshold
 *
 * Where this CPU has an igemm, it multiplies tiles (int8_tiles.c); elsewhere, and for depthwise layers,
 * what a few pixels see is copied beside each other as 16-bit integers: compilers turn the sum of their products with
 * 8-bit weights into the multiply-adds that every vector unit has for 16 bits. Rows are padded with zeros to a multiple
 * of 16, so that no loop has a rest; weights whose rows are such multiples are read in place. */
#include "int8_tiles.h"
#include "maps.h"
#include "quantize.h"

#include <string.h>

/* Pixels that are multiplied at once, filters whose sums are transformed at once (those of one word of bits), and what
 * the length of a row is a multiple of. */
enum { PIXELS = 4, FILTERS = 64, VECTOR = 16 };
_Static_assert((int)FILTERS <= (int)BD_MAX_NR, "one call transforms a block");

/* The largest sum of any filter: no q is beyond 128. */
static int check_sums(const struct bd_step *step, size_t depth, char *error) {
    const int8_t *weight = step->in[1]->data;
    for (int filter = 0; filter < step->tiled.filters; filter++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < depth; i++, weight++)
            sum += (uint64_t)(*weight < 0 ? -*weight : *weight);
        if (sum > INT32_MAX / 128)
            return bd_fail_at(step, error, "filter %d sums beyond 32-bit integers", filter);
    }
    return 0;
}

/* Weights [F, KH, KW, C / group] that fit the window, the input and the output. */
static int check_weights(struct bd_step *step, char *error) {
    const struct bd_plan_node *node = step->node;
    const int *weights = step->in[1]->shape;
    int channels = step->in[0]->shape[3], filters = step->out->shape[3], group = node->group;
    if (bd_check_window(step, node->dilations, error))
        return 1;
    if (group < 1 || channels % group != 0 || filters % group != 0)
        return bd_fail_at(step, error, "%d groups do not divide %d channels and %d filters", group, channels, filters);
    if (weights[0] != filters || weights[1] != node->kernel[0] || weights[2] != node->kernel[1] ||
        weights[3] != channels / group)
        return bd_fail_at(step, error, "weights are [%d,%d,%d,%d], and [%d,%d,%d,%d] are needed", weights[0],
                          weights[1], weights[2], weights[3], filters, node->kernel[0], node->kernel[1],
                          channels / group);
    size_t depth = (size_t)weights[1] * (size_t)weights[2] * (size_t)weights[3];
    step->tiled.filters = filters;
    step->tiled.taps = weights[1] * weights[2];
    step->tiled.groups = group;
    step->tiled.channels = channels / group;
    step->macs = (uint64_t)bd_pixels(step->out) * (uint64_t)filters * depth;
    return check_sums(step, depth, error) || bd_check_step_size(step, 2, error);
}

static int check_int8_conv(struct bd_step *step, char *error) {
    return check_weights(step, error) || bd_check_vector(step, 3, step->tiled.filters, error) ||
           bd_check_vector(step, 4, step->tiled.filters, error) || bd_check_residual(step, 5, error) ||
           bd_check_rectifier(step, 6, error) || bd_check_rounding(step, error) || bd_check_clamp(step, error);
}

static int check_int8_conv_threshold(struct bd_step *step, char *error) {
    return check_weights(step, error) || bd_check_vector(step, 3, step->tiled.filters, error) ||
           bd_check_directions(step, 4, step->tiled.filters, error);
}

/* What one group sees of a pixel, as a row: padded. */
static size_t row_of(const struct bd_step *step) {
    return (bd_depth(step) + VECTOR - 1) / VECTOR * VECTOR;
}

static size_t patch_of(const struct bd_step *step) {
    return row_of(step) * (size_t)step->node->group;
}

/* The patches of each worker, and the integers of the input. */
static void prepare_int8_conv(struct bd_model *model, struct bd_step *step) {
    if (step->kernel != NULL) {
        bd_prepare_int8_tiles(model, step);
        return;
    }
    uint64_t patches = PIXELS * (uint64_t)patch_of(step) * sizeof(int16_t);
    bd_scratch(model, BD_EXPANDED, patches);
    bd_scratch(model, BD_SUMS, PIXELS * FILTERS * sizeof(int32_t));
    bd_share(model, BD_REGROUPED, (uint64_t)bd_pixels(step->in[0]) * (uint64_t)step->window.channels);
    size_t depth = bd_depth(step), row = row_of(step), filters = (size_t)step->tiled.filters;
    if (depth == row)
        return;
    step->tiled.weights = bd_take(&model->weights, (uint64_t)filters * row);
    if (model->memory == NULL)
        return;
    memset(step->tiled.weights, 0, filters * row);
    for (size_t filter = 0; filter < filters; filter++)
        memcpy(step->tiled.weights + filter * row, (const int8_t *)step->in[1]->data + filter * depth, depth);
}

static void prepare_int8_conv_threshold(struct bd_model *model, struct bd_step *step) {
    prepare_int8_conv(model, step);
    step->tiled.flips = bd_take(&model->tables, bd_words(step->tiled.filters) * sizeof(uint64_t));
    if (model->memory != NULL)
        bd_pack_directions((size_t)step->tiled.filters, step->in[4]->data, step->tiled.flips);
}

/* `pixels` pixels side by side from column `x` on; those beyond the border are 0. */
static void copy_run(const struct bd_window *window, const int8_t *line, int x, int pixels, size_t channels,
                     int16_t *patch) {
    int before = x < 0 ? -x : 0, end = window->width - x;
    before = before < pixels ? before : pixels;
    end = end < pixels ? end : pixels;
    size_t first = (size_t)before * channels, last = end > before ? (size_t)end * channels : first;
    memset(patch, 0, first * sizeof *patch);
    for (size_t i = first; i < last; i++)
        patch[i] = line[(ptrdiff_t)x * window->channels + (ptrdiff_t)i];
    memset(patch + last, 0, ((size_t)pixels * channels - last) * sizeof *patch);
}

/* What output pixel `pixel` sees of the integers, as rows [group][tap][C / group]. Taps that are neighbours in memory
 * are copied together. */
static void gather(const struct bd_step *step, const int8_t *integers, size_t pixel, int16_t *patch) {
    const struct bd_window *window = &step->window;
    int groups = step->node->group, together = groups == 1 && window->dilation_x == 1 ? window->kernel_width : 1;
    size_t channels = (size_t)(window->channels / groups), padding = row_of(step) - bd_depth(step);
    int top = (int)(pixel / (size_t)window->out_width) * window->stride_y - window->pad_top;
    int left = (int)(pixel % (size_t)window->out_width) * window->stride_x - window->pad_left;
    for (int group = 0; group < groups; group++, integers += channels) {
        for (int ky = 0; ky < window->kernel_height; ky++) {
            int y = top + ky * window->dilation_y, inside = y >= 0 && y < window->height;
            const int8_t *line = integers + (size_t)(inside ? y : 0) * (size_t)window->width * (size_t)window->channels;
            for (int kx = 0; kx < window->kernel_width; kx += together, patch += (size_t)together * channels)
                if (inside)
                    copy_run(window, line, left + kx * window->dilation_x, together, channels, patch);
                else
                    memset(patch, 0, (size_t)together * channels * sizeof *patch);
        }
        memset(patch, 0, padding * sizeof *patch);
        patch += padding;
    }
}

/* The dot products of one filter with PIXELS patches that are `stride` apart: dots[m * FILTERS]. */
static void multiply(size_t row, const int16_t *restrict patches, size_t stride, const int8_t *restrict weights,
                     int32_t *restrict dots) {
    const int16_t *a = patches, *b = a + stride, *c = b + stride, *d = c + stride;
    int32_t sums[PIXELS] = {0};
    for (size_t i = 0; i < row / VECTOR * VECTOR; i++) {
        int16_t weight = weights[i];
        sums[0] += a[i] * weight;
        sums[1] += b[i] * weight;
        sums[2] += c[i] * weight;
        sums[3] += d[i] * weight;
    }
    for (size_t m = 0; m < PIXELS; m++)
        dots[m * FILTERS] = sums[m];
}

/* The same for one patch: a dense layer has no other. */
static void multiply_one(size_t row, const int16_t *restrict patch, size_t stride, const int8_t *restrict weights,
                         int32_t *restrict dots) {
    (void)stride;
    int32_t sum = 0;
    for (size_t i = 0; i < row / VECTOR * VECTOR; i++)
        sum += patch[i] * (int16_t)weights[i];
    *dots = sum;
}

static void to_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    (void)model;
    const float *scale = (const float *)step->in[3]->data + strip->first_filter;
    const float *bias = (const float *)step->in[4]->data + strip->first_filter;
    bd_map_integers(step, strip, scale, bias);
}

/* The filters of a word come one after the other, from its lowest bit on; those of a group may end inside a word. */
static void to_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    (void)model;
    size_t words = bd_words(step->tiled.filters), count = 0;
    const int32_t *dots = strip->sums, *thresholds = (const int32_t *)step->in[3]->data + strip->first_filter;
    for (size_t done = 0; done < strip->filters; done += count) {
        size_t filter = strip->first_filter + done, first = filter % 64, left = strip->filters - done;
        count = left < 64 - first ? left : 64 - first;
        uint64_t flips = step->tiled.flips[filter / 64] >> first & (~UINT64_C(0) >> (64 - count));
        uint64_t *bits = (uint64_t *)step->out->data + strip->first_pixel * words + filter / 64;
        step->transform->run.threshold_b1(strip->pixels, count, dots + done, strip->stride, thresholds + done, flips,
                                          first, bits, words);
    }
}

static void tile_to_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    bd_multiply_int8(step, strip);
    to_floats(model, step, strip);
}

static void tile_to_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    bd_multiply_int8(step, strip);
    to_bits(model, step, strip);
}

static void quantize_input(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    struct bd_range share = bd_share_of(worker, bd_pixels(step->in[0]) * (size_t)step->window.channels);
    if (step->kernel != NULL)
        bd_quantize_tiles(model, step, worker);
    else
        bd_read_integers(step, share.first, share.end - share.first,
                         (int8_t *)model->shared[BD_REGROUPED] + share.first);
}

/* Where the last tile has fewer pixels, the patches of earlier ones stand in for the rest, and are not written. */
static void run_rows(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                     bd_strip_function *finish) {
    size_t row = row_of(step), stride = patch_of(step);
    struct bd_range share = bd_share_of(worker, (bd_pixels(step->out) + PIXELS - 1) / PIXELS);
    size_t pixels = share.end * PIXELS < bd_pixels(step->out) ? share.end * PIXELS : bd_pixels(step->out);
    size_t filters = (size_t)step->tiled.filters, in_group = filters / (size_t)step->node->group;
    const int8_t *weights = step->tiled.weights ? (const int8_t *)step->tiled.weights : step->in[1]->data;
    int16_t *patches = worker->scratch[BD_EXPANDED];
    const int8_t *integers = model->shared[BD_REGROUPED];
    int32_t *dots = worker->scratch[BD_SUMS];
    for (size_t pixel = share.first * PIXELS; pixel < pixels; pixel += PIXELS) {
        size_t left = pixels - pixel, tile = left < PIXELS ? left : PIXELS;
        for (size_t m = 0; m < tile; m++)
            gather(step, integers, pixel + m, patches + m * stride);
        for (size_t m = tile; m < PIXELS && tile > 1; m++)
            memcpy(patches + m * stride, patches, stride * sizeof *patches);
        for (size_t first = 0; first < filters; first += FILTERS) {
            size_t some = filters - first < FILTERS ? filters - first : FILTERS;
            for (size_t n = 0; n < some; n++)
                (tile > 1 ? multiply : multiply_one)(row, patches + (first + n) / in_group * row, stride,
                                                     weights + (first + n) * row, dots + n);
            struct bd_strip strip = {.first_pixel = pixel,
                                     .pixels = tile,
                                     .first_filter = first,
                                     .filters = some,
                                     .sums = dots,
                                     .stride = FILTERS};
            finish(model, step, &strip);
        }
    }
}

static void run_int8_conv(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_copy_windows, bd_block_weights, tile_to_floats};
    if (step->kernel != NULL)
        bd_convolve(model, step, worker, &convolution);
    else
        run_rows(model, step, worker, to_floats);
}

static void run_int8_conv_threshold(const struct bd_model *model, const struct bd_step *step,
                                    const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_copy_windows, bd_block_weights, tile_to_bits};
    if (step->kernel != NULL)
        bd_convolve(model, step, worker, &convolution);
    else
        run_rows(model, step, worker, to_bits);
}

const struct bd_operator bd_operator_int8_conv = {.name = "int8_conv",
                                                  .in = {BD_F32, BD_I8, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
                                                  .out = BD_F32,
                                                  .constants_from = 1,
                                                  .optional_from = 5,
                                                  .residual = 5,
                                                  .rectifier = 6,
                                                  .rounding = 7,
                                                  .takes_integers = 1,
                                                  .kernel_op = "igemm",
                                                  .kernel_out = "i32",
                                                  .one_pixel_op = "igemv",
                                                  .transform_op = "affine",
                                                  .transform_out = "f32",
                                                  .check = check_int8_conv,
                                                  .prepare = prepare_int8_conv,
                                                  .before = quantize_input,
                                                  .run = run_int8_conv};

const struct bd_operator bd_operator_int8_conv_threshold = {.name = "int8_conv_threshold",
                                                            .in = {BD_F32, BD_I8, BD_F32, BD_I32, BD_I8},
                                                            .out = BD_BITS,
                                                            .constants_from = 1,
                                                            .takes_integers = 1,
                                                            .kernel_op = "igemm",
                                                            .kernel_out = "i32",
                                                            .one_pixel_op = "igemv",
                                                            .transform_op = "threshold",
                                                            .transform_out = "b1",
                                                            .check = check_int8_conv_threshold,
                                                            .prepare = prepare_int8_conv_threshold,
                                                            .before = quantize_input,
                                                            .run = run_int8_conv_threshold};
