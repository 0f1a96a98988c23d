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

static int must_regroup(const struct bd_step *step) {
    return step->tiled.groups > 1 && step->tiled.channels % 64 != 0 && !bd_is_depthwise(step);
}

void bd_prepare_bits(struct bd_model *model, struct bd_step *step) {
    if (bd_is_depthwise(step)) {
        bd_prepare_depthwise_bits(model, step);
        return;
    }
    struct bd_tiled *tiled = &step->tiled;
    uint64_t nr = (uint64_t)step->kernel->nr, mr = (uint64_t)step->kernel->mr, taps = (uint64_t)tiled->taps;
    tiled->words = (bd_depth(step) + 63) / 64;
    bd_prepare_convolution(model, step, bd_words(tiled->channels) * sizeof(uint64_t),
                           tiled->words * nr * sizeof(uint64_t), tiled->words * mr * sizeof(uint64_t));
    tiled->edges = strcmp(step->kernel->op, "bgemm_edge") == 0;
    if (step->node->pad_value == 0)
        tiled->tap_sums =
            bd_take(&model->tables, (uint64_t)tiled->groups * tiled->blocks * taps * nr * sizeof(int32_t));
    if (must_regroup(step)) {
        bd_share(model, BD_REGROUPED, (uint64_t)bd_pixels(step->in[0]) * tiled->row_bytes);
        tiled->source = model->shared[BD_REGROUPED];
    }
    if (model->memory == NULL)
        return;
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

void bd_regroup(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    if (!must_regroup(step))
        return;
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->in[0]));
    size_t channels = (size_t)step->tiled.channels, groups = (size_t)step->tiled.groups;
    size_t row = bd_words(step->window.channels), regrouped_row = groups * bd_words(step->tiled.channels);
    const uint64_t *bits = (const uint64_t *)step->in[0]->data + pixels.first * row;
    uint64_t *next = (uint64_t *)model->shared[BD_REGROUPED] + pixels.first * regrouped_row;
    for (size_t pixel = pixels.first; pixel < pixels.end; pixel++, bits += row)
        for (size_t group = 0; group < groups; group++)
            for (size_t first = 0; first < channels; first += 64)
                *next++ = bits_from(bits, group * channels + first, channels - first < 64 ? channels - first : 64);
}
