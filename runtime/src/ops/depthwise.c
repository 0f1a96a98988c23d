#include "depthwise.h"
#include "maps.h"
#include "spans.h"

#include <string.h>

/* Sums of one strip: half a small first-level cache, and 4 pixels at least, as many as a kernel takes at once. */
enum { STRIP_SUMS = 4096, STRIP_PIXELS = 4 };

static size_t strip_pixels(size_t stride) {
    return stride * STRIP_PIXELS < STRIP_SUMS ? STRIP_SUMS / stride : STRIP_PIXELS;
}

/* Elements of a pixel's sums. */
static size_t sums_of_bits(const struct bd_step *step) {
    return bd_words(step->window.channels) * 64;
}

static void prepare(struct bd_model *model, struct bd_step *step, size_t row_bytes) {
    struct bd_tiled *tiled = &step->tiled;
    tiled->row_bytes = row_bytes;
    tiled->source = step->in[0]->data;
    tiled->weights = bd_take(&model->weights, (uint64_t)tiled->taps * row_bytes);
}

void bd_prepare_depthwise_floats(struct bd_model *model, struct bd_step *step) {
    prepare(model, step, (size_t)step->window.channels * sizeof(float));
}

/* What a padded tap adds to the sums: +1 times its weights. */
static void prepare_padding(const struct bd_step *step) {
    size_t stride = sums_of_bits(step);
    const uint64_t *weights = (const uint64_t *)(const void *)step->tiled.weights;
    for (size_t i = 0; i < (size_t)step->tiled.taps * stride; i++)
        step->tiled.tap_sums[i] = weights[i / 64] >> (i % 64) & 1 ? -1 : 1;
}

void bd_prepare_depthwise_bits(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    size_t taps = (size_t)tiled->taps, stride = sums_of_bits(step), words = stride / 64;
    prepare(model, step, words * sizeof(uint64_t));
    bd_scratch(model, BD_SUMS, (uint64_t)strip_pixels(stride) * stride * sizeof(int32_t));
    tiled->tap_sums =
        step->node->pad_value == 0 ? NULL : bd_take(&model->tables, (uint64_t)taps * stride * sizeof(int32_t));
    if (model->memory == NULL)
        return;
    const unsigned char *row = step->in[1]->data;
    uint64_t *weights = (uint64_t *)(void *)tiled->weights;
    memset(weights, 0, taps * words * sizeof *weights);
    for (size_t channel = 0; channel < (size_t)tiled->filters; channel++)
        for (size_t tap = 0; tap < taps; tap++, row += step->in[1]->shape[3])
            weights[tap * words + channel / 64] |= (uint64_t)(row[0] & 1u) << (channel % 64);
    if (tiled->tap_sums != NULL)
        prepare_padding(step);
}

/* `pixels` of a span from `first` on, as a strip. */
static struct bd_strip strip_of(const struct bd_step *step, const struct bd_worker *worker, const struct bd_span *span,
                                size_t first, size_t stride) {
    size_t most = strip_pixels(stride), left = span->pixels - first;
    return (struct bd_strip){.first_pixel = span->first_pixel + first,
                             .pixels = left < most ? left : most,
                             .filters = (size_t)step->tiled.filters,
                             .sums = worker->scratch[BD_SUMS],
                             .stride = stride};
}

/* The first element, of the weights [tap][channels], that a span uses. */
static size_t first_weight(const struct bd_span *span) {
    return span->tap_y * span->taps.weight_row + span->tap_x * span->taps.channels;
}

struct depthwise_floats {
    const float *scale, *bias;
};

/* The kernel adds the residual, unless a rectifier does: after the limits. */
static void span_of_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_span *span,
                           const struct bd_worker *worker, const void *user) {
    (void)model;
    (void)worker;
    const struct depthwise_floats *then = user;
    const struct bd_tensor *residual = step->rectify != NULL ? NULL : step->in[step->op->residual];
    size_t first = span->first_pixel * span->taps.channels;
    step->kernel->run.fdepthwise_f32(&span->taps, span->pixels,
                                     (const float *)(const void *)step->tiled.source + span->input,
                                     (const float *)(const void *)step->tiled.weights + first_weight(span), then->scale,
                                     then->bias, residual == NULL ? NULL : (const float *)residual->data + first,
                                     step->node->minimum, step->node->maximum, (float *)step->out->data + first);
    if (step->rectify != NULL)
        bd_rectify(step, span->first_pixel, span->pixels);
}

struct depthwise_bits {
    bd_strip_function *finish;
};

/* The padded taps of a span, row by row: those above, beside and below the ones it sees. */
static void add_padding(const struct bd_step *step, const struct bd_span *span, const struct bd_strip *strip) {
    size_t height = (size_t)step->window.kernel_height, width = (size_t)step->window.kernel_width;
    const int32_t *tap = step->tiled.tap_sums;
    if (span->taps.height == height && span->taps.width == width)
        return;
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++, tap += strip->stride) {
            if (y - span->tap_y < span->taps.height && x - span->tap_x < span->taps.width)
                continue;
            int32_t *sums = strip->sums;
            for (size_t m = 0; m < strip->pixels; m++, sums += strip->stride)
                for (size_t i = 0; i < strip->stride; i++)
                    sums[i] += tap[i];
        }
}

/* A strip of integers is no wider than a tile, so it is finished word by word. */
static void finish_words(const struct bd_model *model, const struct bd_step *step, struct bd_strip strip,
                         bd_strip_function *finish) {
    size_t filters = strip.filters;
    int32_t *sums = strip.sums;
    for (; strip.first_filter < filters; strip.first_filter += 64) {
        size_t left = filters - strip.first_filter;
        strip.filters = left < 64 ? left : 64;
        strip.sums = sums + strip.first_filter;
        finish(model, step, &strip);
    }
}

static void span_of_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_span *span,
                         const struct bd_worker *worker, const void *user) {
    const struct depthwise_bits *depthwise = user;
    const uint64_t *input = (const uint64_t *)(const void *)step->tiled.source + span->input;
    const uint64_t *weights = (const uint64_t *)(const void *)step->tiled.weights + first_weight(span);
    struct bd_strip strip;
    for (size_t first = 0; first < span->pixels; first += strip.pixels) {
        strip = strip_of(step, worker, span, first, span->taps.channels * 64);
        step->kernel->run.bdepthwise_i32(&span->taps, strip.pixels, input + first * span->taps.pixel, weights,
                                         strip.sums);
        if (step->tiled.tap_sums != NULL)
            add_padding(step, span, &strip);
        finish_words(model, step, strip, depthwise->finish);
    }
}

void bd_convolve_depthwise_floats(const struct bd_model *model, const struct bd_step *step,
                                  const struct bd_worker *worker, const float *scale, const float *bias) {
    bd_slide(model, step, worker, (size_t)step->window.channels, span_of_floats,
             &(struct depthwise_floats){scale, bias});
}

void bd_convolve_depthwise_bits(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_worker *worker, bd_strip_function *finish) {
    bd_slide(model, step, worker, bd_words(step->window.channels), span_of_bits, &(struct depthwise_bits){finish});
}
