/* Tiles of bits: words tile[k * MR + pixel], k = tap * words + word, in the order in which the kernel reads them.
 *
 * A kernel of edges wants the exclusive or of all words up to each one instead of the words: k by k down the tile. */
#include "binary_tiles.h"

/* Words of one tap for the pixels of a run that lie in the input; the first one's are at `row`. */
static void copy_tap(const struct bd_step *step, const uint64_t *row, size_t pixels, uint64_t *tile) {
    size_t mr = (size_t)step->kernel->mr, words = bd_words(step->tiled.channels);
    size_t step_words = step->tiled.row_bytes / sizeof(uint64_t) * (size_t)step->window.stride_x;
    if (step_words == 1)
        for (size_t m = 0; m < pixels; m++)
            tile[m] = row[m];
    else
        for (size_t m = 0; m < pixels; m++, row += step_words)
            for (size_t word = 0; word < words; word++)
                tile[word * mr + m] = row[word];
}

static void clear_tap(const struct bd_step *step, size_t pixels, uint64_t *tile) {
    size_t mr = (size_t)step->kernel->mr, words = bd_words(step->tiled.channels);
    for (size_t word = 0; word < words; word++)
        for (size_t m = 0; m < pixels; m++)
            tile[word * mr + m] = 0;
}

static uint32_t list_padding(uint32_t tap, size_t first, size_t end, struct bd_padding *list) {
    for (size_t m = first; m < end; m++)
        *list++ = (struct bd_padding){tap, (uint32_t)m};
    return (uint32_t)(end - first);
}

/* How many of `pixels` pixels from `x` on, `stride` apart, come before column `limit`. */
static size_t before(int limit, int x, int stride, size_t pixels) {
    if (x >= limit)
        return 0;
    size_t count = (size_t)((limit - 1 - x) / stride) + 1;
    return count < pixels ? count : pixels;
}

/* One run at one tap, whose row of the input begins at `line` (NULL in the padding) and whose first column is x. */
static uint32_t pack_tap(const struct bd_step *step, const unsigned char *line, struct bd_run run, int x, uint32_t tap,
                         uint64_t *tile, struct bd_padding *list) {
    const struct bd_window *window = &step->window;
    size_t left = line == NULL ? run.pixels : before(0, x, window->stride_x, run.pixels);
    size_t end = line == NULL ? run.pixels : before(window->width, x, window->stride_x, run.pixels);
    if (left < end) {
        size_t column = (size_t)(x + (int)left * window->stride_x);
        copy_tap(step, (const uint64_t *)(const void *)(line + column * step->tiled.row_bytes), end - left,
                 tile + run.m + left);
    }
    if (left == 0 && end == run.pixels)
        return 0;
    clear_tap(step, left, tile + run.m);
    clear_tap(step, run.pixels - end, tile + run.m + end);
    uint32_t count = list_padding(tap, run.m, run.m + left, list);
    return count + list_padding(tap, run.m + end, run.m + run.pixels, list + count);
}

static uint32_t pack_run(const struct bd_step *step, const unsigned char *source, struct bd_run run, uint64_t *tile,
                         struct bd_padding *list) {
    const struct bd_window *window = &step->window;
    size_t tap_words = bd_words(step->tiled.channels) * (size_t)step->kernel->mr;
    uint32_t tap = 0, padded = 0;
    for (int ky = 0; ky < window->kernel_height; ky++) {
        int y = run.y + ky * window->dilation_y, x = run.x;
        const unsigned char *line = NULL;
        if (y >= 0 && y < window->height)
            line = source + (size_t)y * (size_t)window->width * step->tiled.row_bytes;
        for (int kx = 0; kx < window->kernel_width; kx++, tap++, tile += tap_words, x += window->dilation_x)
            padded += pack_tap(step, line, run, x, tap, tile, list + padded);
    }
    return padded;
}

/* Pixels that the tile has not keep words of an earlier one, and their sums are not looked at. */
uint32_t bd_pack_words(const struct bd_step *step, const unsigned char *source, const void *zeros, struct bd_cursor at,
                       size_t pixels, void *tile, struct bd_padding *padding) {
    (void)zeros;
    uint32_t padded = 0;
    for (size_t m = 0; m < pixels;) {
        struct bd_run run = bd_next_run(step, &at, m, pixels - m);
        padded += pack_run(step, source, run, tile, padding + padded);
        m += run.pixels;
    }
    if (step->tiled.edges)
        bd_accumulate_edges((size_t)step->tiled.taps * bd_words(step->tiled.channels), (size_t)step->kernel->mr, tile);
    return padded;
}
