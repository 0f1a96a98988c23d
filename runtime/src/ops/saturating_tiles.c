#include "saturating_tiles.h"

#include "../kernels/tile.h"

#include <string.h>

/* Bits of a word, its bytes, which are as many turns, and pixels that are packed together. */
enum { WORD = 32, TURNS = 4, FOUR = 4 };

/* Rows of the file [F][word], 32 bits each -> bytes [block][word][turn][NR]. */
static void tile_weights(const struct bd_step *step) {
    const struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr;
    const unsigned char *word = step->in[1]->data;
    memset(tiled->weights, 0, (size_t)tiled->groups * tiled->blocks * tiled->block_bytes);
    for (size_t filter = 0; filter < (size_t)tiled->filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        unsigned char *to = tiled->weights + place.block * tiled->block_bytes + place.column;
        for (size_t k = 0; k < tiled->words; k++, word += TURNS)
            for (size_t turn = 0; turn < TURNS; turn++, to += nr)
                *to = word[(place.column + turn) % TURNS];
    }
}

/* Where each word stands from the window's first one, and its channels. */
static void place_words(const struct bd_step *step) {
    const struct bd_window *window = &step->window;
    struct bd_reach reach = bd_reach_of(window);
    size_t words = bd_half_words(step), width = (size_t)window->kernel_width, channels = (size_t)step->tiled.channels;
    for (size_t k = 0; k < step->tiled.words; k++) {
        size_t tap = k / words, word = k % words, left = channels - word * WORD;
        size_t y = tap / width * (size_t)window->dilation_y, x = tap % width * (size_t)window->dilation_x;
        step->tiled.window_words[k].offset = (word * reach.height + y) * reach.width + x;
        step->tiled.depths[k] = (int8_t)(left < WORD ? left : WORD);
    }
}

void bd_prepare_saturating(struct bd_model *model, struct bd_step *step) {
    struct bd_tiled *tiled = &step->tiled;
    struct bd_reach reach = bd_reach_of(&step->window);
    uint64_t nr = (uint64_t)step->kernel->nr, mr = (uint64_t)step->kernel->mr;
    uint64_t planes = bd_half_words(step) * (uint64_t)reach.height * reach.width * sizeof(uint64_t);
    tiled->words = (size_t)tiled->taps * bd_half_words(step);
    bd_prepare_convolution(model, step, sizeof(uint64_t), tiled->words * TURNS * nr,
                           tiled->words * mr * sizeof(uint64_t));
    bd_share(model, BD_REGROUPED, (uint64_t)tiled->groups * planes);
    tiled->source = model->shared[BD_REGROUPED];
    tiled->row_bytes = sizeof(uint64_t);
    tiled->line_bytes = reach.width * sizeof(uint64_t);
    tiled->group_bytes = (size_t)planes;
    tiled->window_words = bd_take(&model->tables, tiled->words * sizeof *tiled->window_words);
    tiled->depths = bd_take(&model->tables, tiled->words);
    if (model->memory == NULL)
        return;
    place_words(step);
    tile_weights(step);
}

/* Of a row of pixels the `count` <= 32 channels from `first` on, behind the left padding; no row is NULL. */
static void lay_row(const struct bd_step *step, const uint64_t *row, size_t first, size_t count, size_t width,
                    uint64_t *to) {
    const uint64_t there = ~UINT64_C(0) >> (64 - count), twice = (UINT64_C(1) << WORD) + 1;
    size_t pixel = bd_words(step->window.channels), shift = first % 64, left = (size_t)step->window.pad_left;
    size_t end = left + (size_t)step->window.width < width ? left + (size_t)step->window.width : width;
    memset(to, 0, width * sizeof *to);
    if (row == NULL)
        return;
    row += first / 64;
    for (size_t x = left; x < end; x++, row += pixel) {
        uint64_t found = row[0] >> shift;
        if (shift + count > 64)
            found |= row[1] << (64 - shift);
        to[x] = (found & there) * twice;
    }
}

void bd_lay_doubled_planes(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    struct bd_reach reach = bd_reach_of(&step->window);
    struct bd_range rows = bd_share_of(worker, reach.height);
    size_t channels = (size_t)step->tiled.channels, line = (size_t)step->window.width * bd_words(step->window.channels);
    size_t top = (size_t)step->window.pad_top, height = (size_t)step->window.height;
    for (size_t y = rows.first; y < rows.end; y++) {
        int inside = y >= top && y - top < height;
        const uint64_t *row = inside ? (const uint64_t *)step->in[0]->data + (y - top) * line : NULL;
        uint64_t *to = (uint64_t *)model->shared[BD_REGROUPED] + y * reach.width;
        for (size_t group = 0; group < (size_t)step->tiled.groups; group++)
            for (size_t c = 0; c < channels; c += WORD, to += reach.height * reach.width)
                lay_row(step, row, group * channels + c, channels - c < WORD ? channels - c : WORD, reach.width, to);
    }
}

/* Where the windows of MR pixels begin; the last pixel stands in for those that the tile has not. */
static void find_windows(const struct bd_step *step, const unsigned char *source, struct bd_cursor at, size_t pixels,
                         const uint64_t **windows) {
    const uint64_t *planes = (const uint64_t *)(const void *)source;
    size_t width = step->tiled.line_bytes / sizeof *planes, mr = (size_t)step->kernel->mr;
    for (size_t m = 0; m < pixels;) {
        struct bd_run run = bd_next_run(step, &at, m, pixels - m);
        size_t y = (size_t)(run.y + step->window.pad_top), x = (size_t)(run.x + step->window.pad_left);
        for (size_t i = 0; i < run.pixels; i++, m++, x += (size_t)step->window.stride_x)
            windows[m] = planes + y * width + x;
    }
    for (size_t m = pixels; m < mr; m++)
        windows[m] = windows[pixels - 1];
}

static void copy_words(const struct bd_step *step, const uint64_t *const *windows, size_t pixels, uint64_t *tile) {
    const struct bd_window_word *word = step->tiled.window_words, *end = word + step->tiled.words;
    for (; word < end; word++, tile += step->kernel->mr)
        for (size_t m = 0; m < pixels; m++)
            tile[m] = windows[m][word->offset];
}

/* Of pixels side by side whose words are so, too. */
static void copy_four_words(const struct bd_step *step, const uint64_t *window, uint64_t *tile) {
    const struct bd_window_word *word = step->tiled.window_words, *end = word + step->tiled.words;
    for (; word < end; word++, tile += step->kernel->mr)
        memcpy(tile, window + word->offset, FOUR * sizeof *tile);
}

static void step_right(const struct bd_window *window, struct bd_cursor *pixel) {
    if (++pixel->x == window->out_width)
        *pixel = (struct bd_cursor){pixel->y + 1, 0};
}

/* Whether the tap at (ky, kx) of an output pixel's window is no padding. */
static int is_inside(const struct bd_window *window, struct bd_cursor pixel, int ky, int kx) {
    int y = pixel.y * window->stride_y - window->pad_top + ky * window->dilation_y;
    int x = pixel.x * window->stride_x - window->pad_left + kx * window->dilation_x;
    return y >= 0 && y < window->height && x >= 0 && x < window->width;
}

/* Of each window the first tap and the last one tell. */
static int are_inside(const struct bd_window *window, struct bd_cursor pixel, size_t pixels) {
    int inside = 1;
    for (; pixels > 0 && inside; pixels--, step_right(window, &pixel))
        inside = is_inside(window, pixel, 0, 0) &&
                 is_inside(window, pixel, window->kernel_height - 1, window->kernel_width - 1);
    return inside;
}

/* Tap by tap, and of each tap pixel by pixel. */
static uint32_t list_padding(const struct bd_window *window, struct bd_cursor at, size_t pixels,
                             struct bd_padding *list) {
    uint32_t count = 0, tap = 0;
    if (are_inside(window, at, pixels))
        return 0;
    for (int ky = 0; ky < window->kernel_height; ky++)
        for (int kx = 0; kx < window->kernel_width; kx++, tap++) {
            struct bd_cursor pixel = at;
            for (uint32_t m = 0; m < pixels; m++, step_right(window, &pixel))
                if (!is_inside(window, pixel, ky, kx))
                    list[count++] = (struct bd_padding){tap, m};
        }
    return count;
}

uint32_t bd_pack_doubled_words(const struct bd_step *step, const unsigned char *source, const void *zeros,
                               struct bd_cursor at, size_t pixels, void *tile, struct bd_padding *padding) {
    (void)zeros;
    const uint64_t *windows[BD_MAX_MR];
    size_t mr = (size_t)step->kernel->mr;
    find_windows(step, source, at, pixels, windows);
    if (mr == FOUR && pixels == FOUR && windows[3] == windows[0] + 3)
        copy_four_words(step, windows[0], tile);
    else
        copy_words(step, windows, mr, tile);
    return step->node->pad_value == 0 ? list_padding(&step->window, at, pixels, padding) : 0;
}
