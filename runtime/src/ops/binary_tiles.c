#include "binary_tiles.h"
#include "depthwise.h"

#include <string.h>

/* Up to eight bytes, the lowest first. */
static uint64_t word_of(const unsigned char *bytes, size_t count) {
    uint64_t word = 0;
    for (size_t i = 0; i < count && i < sizeof word; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

/* 32-bit rows of the file [F][tap], whose pad bits are 0 -> 64-bit words [block][word][NR]. */
static void tile_weights(struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps, channels = (size_t)tiled->channels;
    size_t row_bytes = (size_t)step->in[1]->shape[3];
    const unsigned char *row = step->in[1]->data;
    memset(tiled->weights, 0, (size_t)tiled->groups * tiled->blocks * tiled->block_bytes);
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        uint64_t *block = (uint64_t *)(void *)(tiled->weights + place.block * tiled->block_bytes);
        for (size_t tap = 0; tap < taps; tap++, row += row_bytes)
            for (size_t c = 0; c < channels; c += 64)
                bd_put_bits(word_of(row + c / 8, row_bytes - c / 8), channels - c, tap * channels + c, nr,
                            block + place.column);
    }
}

/* The dot product of one tap's weights with a row of +1: C - 2 popcount, for [block][tap][NR]. */
static void sum_taps(struct bd_step *step) {
    const struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps, row_bytes = (size_t)step->in[1]->shape[3];
    const unsigned char *row = step->in[1]->data;
    memset(tiled->tap_sums, 0, (size_t)tiled->groups * tiled->blocks * taps * nr * sizeof(int32_t));
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        for (size_t tap = 0; tap < taps; tap++, row += row_bytes) {
            int32_t sum = tiled->channels;
            for (size_t i = 0; i < row_bytes; i++)
                sum -= 2 * __builtin_popcount(row[i]);
            tiled->tap_sums[(place.block * taps + tap) * nr + place.column] = sum;
        }
    }
}

static void accumulate_weights(struct bd_step *step) {
    const struct bd_tiled *tiled = &step->tiled;
    for (size_t block = 0; block < (size_t)tiled->groups * tiled->blocks; block++)
        bd_accumulate_edges(tiled->words, (size_t)step->kernel->nr,
                            (uint64_t *)(void *)(tiled->weights + block * tiled->block_bytes));
}

static int must_lay_planes(const struct bd_step *step) {
    const struct bd_window *window = &step->window;
    struct bd_reach reach = bd_reach_of(window);
    int padded = window->pad_top > 0 || window->pad_left > 0 || reach.height > (size_t)window->height ||
                 reach.width > (size_t)window->width;
    return !bd_is_depthwise(step) && (padded || (step->tiled.groups > 1 && step->tiled.channels % 64 != 0));
}

/* In the planes each word of a pixel stands behind those of the whole picture, in the input behind the one before. */
static size_t from_word_to_word(const struct bd_step *step) {
    struct bd_reach reach = bd_reach_of(&step->window);
    return must_lay_planes(step) ? reach.height * reach.width : 1;
}

static void place_window_words(struct bd_step *step) {
    const struct bd_tiled *tiled = &step->tiled;
    size_t channels = (size_t)tiled->channels, width = (size_t)step->window.kernel_width, filled = 0;
    size_t line = tiled->line_bytes / sizeof(uint64_t) * (size_t)step->window.dilation_y;
    size_t pixel = tiled->row_bytes / sizeof(uint64_t) * (size_t)step->window.dilation_x;
    struct bd_window_word *word = tiled->window_words;
    for (size_t tap = 0; tap < (size_t)tiled->taps; tap++)
        for (size_t c = 0; c < channels; c += 64, word++) {
            size_t end = filled + (channels - c < 64 ? channels - c : 64);
            word->offset = tap / width * line + tap % width * pixel + c / 64 * from_word_to_word(step);
            word->filled = (uint32_t)filled;
            word->fills = end >= 64;
            filled = end % 64;
        }
}

static void take_planes(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    struct bd_reach reach = bd_reach_of(&step->window);
    uint64_t plane = (uint64_t)reach.height * reach.width * sizeof(uint64_t), words = bd_words(tiled->channels);
    bd_share(model, BD_REGROUPED, (uint64_t)tiled->groups * words * plane);
    tiled->source = model->shared[BD_REGROUPED];
    tiled->row_bytes = sizeof(uint64_t);
    tiled->line_bytes = reach.width * sizeof(uint64_t);
    tiled->group_bytes = (size_t)(words * plane);
}

/* Whether the tiles are the input itself: one word a pixel, and every pixel its own window. */
static int must_only_copy(const struct bd_step *step) {
    const struct bd_window *window = &step->window;
    return step->tiled.words == 1 && step->tiled.taps == 1 && step->tiled.arrange == NULL && !must_lay_planes(step) &&
           step->tiled.row_bytes == sizeof(uint64_t) && window->stride_x == 1 && window->stride_y == 1 &&
           window->out_width == window->width;
}

void bd_prepare_bits(struct bd_model *model, struct bd_step *step) {
    if (bd_is_depthwise(step)) {
        bd_prepare_depthwise_bits(model, step);
        return;
    }
    struct bd_tiled *tiled = &step->tiled;
    uint64_t nr = (uint64_t)step->kernel->nr, mr = (uint64_t)step->kernel->mr, taps = (uint64_t)tiled->taps;
    tiled->words = (bd_depth(step) + 63) / 64;
    tiled->edges = strcmp(step->kernel->op, "bgemm_edge") == 0;
    tiled->arrange = tiled->edges ? bd_choose("edge_tile", "u64", step->kernel->isa) : NULL;
    bd_prepare_convolution(model, step, bd_words(tiled->channels) * sizeof(uint64_t),
                           tiled->words * nr * sizeof(uint64_t),
                           tiled->words * mr * sizeof(uint64_t) * (tiled->arrange == NULL ? 1 : 2));
    if (step->node->pad_value == 0)
        tiled->tap_sums =
            bd_take(&model->tables, (uint64_t)tiled->groups * tiled->blocks * taps * nr * sizeof(int32_t));
    tiled->line_bytes = (size_t)step->window.width * tiled->row_bytes;
    tiled->copies = must_only_copy(step);
    if (must_lay_planes(step))
        take_planes(model, step);
    tiled->window_words = bd_take(&model->tables, taps * bd_words(tiled->channels) * sizeof *tiled->window_words);
    if (model->memory == NULL)
        return;
    place_window_words(step);
    tile_weights(step);
    if (tiled->tap_sums != NULL)
        sum_taps(step);
    if (tiled->edges)
        accumulate_weights(step);
}

/* `count` <= 64 bits from bit `first` on; none beyond them is read. */
static uint64_t bits_from(const uint64_t *bits, size_t first, size_t count) {
    const uint64_t *word = bits + first / 64;
    size_t shift = first % 64;
    uint64_t found = word[0] >> shift;
    if (shift + count > 64)
        found |= word[1] << (64 - shift);
    return found & (~UINT64_C(0) >> (64 - count));
}

/* The words from channel `first` on of a row of pixels, at most 64 channels of each. */
static void copy_row(const struct bd_step *step, const uint64_t *row, size_t first, size_t count, size_t pixels,
                     uint64_t *to) {
    size_t pixel = bd_words(step->window.channels);
    if (first % 64 == 0 && step->tiled.groups == 1)
        for (size_t x = 0; x < pixels; x++)
            to[x] = row[x * pixel + first / 64];
    else
        for (size_t x = 0; x < pixels; x++)
            to[x] = bits_from(row + x * pixel, first, count);
}

/* One row of a plane, in which the input's row begins behind the left padding; no row is NULL. */
static void lay_row(const struct bd_step *step, const uint64_t *row, size_t first, size_t count, uint64_t *to) {
    size_t width = bd_reach_of(&step->window).width, left = row == NULL ? width : (size_t)step->window.pad_left;
    left = left < width ? left : width;
    size_t pixels = width - left < (size_t)step->window.width ? width - left : (size_t)step->window.width;
    memset(to, 0, left * sizeof *to);
    copy_row(step, row, first, count, pixels, to + left);
    memset(to + left + pixels, 0, (width - left - pixels) * sizeof *to);
}

void bd_lay_planes(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    if (!must_lay_planes(step))
        return;
    struct bd_reach reach = bd_reach_of(&step->window);
    struct bd_range rows = bd_share_of(worker, reach.height);
    size_t channels = (size_t)step->tiled.channels, line = (size_t)step->window.width * bd_words(step->window.channels);
    for (size_t y = rows.first; y < rows.end; y++) {
        size_t top = (size_t)step->window.pad_top, height = (size_t)step->window.height;
        const uint64_t *row =
            y < top || y - top >= height ? NULL : (const uint64_t *)step->in[0]->data + (y - top) * line;
        uint64_t *to = (uint64_t *)model->shared[BD_REGROUPED] + y * reach.width;
        for (size_t group = 0; group < (size_t)step->tiled.groups; group++)
            for (size_t c = 0; c < channels; c += 64, to += reach.height * reach.width)
                lay_row(step, row, group * channels + c, channels - c < 64 ? channels - c : 64, to);
    }
}
