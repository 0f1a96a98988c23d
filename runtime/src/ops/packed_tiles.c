/* Tiles of bits: words tile[k * MR + pixel], in the order in which the kernel reads them.
 *
 * A kernel of edges wants the exclusive or of all words up to each one instead of the words: k by k down the tile. */
#include "binary_tiles.h"

#include "../kernels/tile.h"

#include <string.h>

/* One tap of the pixels of a run that lie in the input, where a tap begins at a word; the first one's row is `row`. */
static void copy_tap(const struct bd_step *step, const uint64_t *row, size_t pixels, uint32_t tap, uint64_t *tile) {
    size_t mr = (size_t)step->kernel->mr, words = bd_words(step->tiled.channels);
    size_t stride = step->tiled.row_bytes / sizeof(uint64_t) * (size_t)step->window.stride_x;
    tile += tap * words * mr;
    for (size_t word = 0; word < words; word++, row++, tile += mr)
        for (size_t m = 0; m < pixels; m++)
            tile[m] = row[m * stride];
}

/* The same where taps follow each other without a gap. */
static void merge_tap(const struct bd_step *step, const uint64_t *row, size_t pixels, uint32_t tap, uint64_t *tile) {
    size_t mr = (size_t)step->kernel->mr, channels = (size_t)step->tiled.channels;
    size_t stride = step->tiled.row_bytes / sizeof(uint64_t) * (size_t)step->window.stride_x;
    for (size_t c = 0; c < channels; c += 64, row++)
        for (size_t m = 0; m < pixels; m++)
            bd_put_bits(row[m * stride], channels - c, tap * channels + c, mr, tile + m);
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
    size_t count = stride == 1 ? (size_t)(limit - x) : (size_t)((limit - 1 - x) / stride) + 1;
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
        const uint64_t *row = (const uint64_t *)(const void *)(line + column * step->tiled.row_bytes);
        (step->tiled.channels % 64 == 0 ? copy_tap : merge_tap)(step, row, end - left, tap, tile + run.m + left);
    }
    uint32_t count = list_padding(tap, run.m, run.m + left, list);
    return count + list_padding(tap, run.m + end, run.m + run.pixels, list + count);
}

static uint32_t pack_run(const struct bd_step *step, const unsigned char *source, struct bd_run run, uint64_t *tile,
                         struct bd_padding *list) {
    const struct bd_window *window = &step->window;
    uint32_t tap = 0, padded = 0;
    for (int ky = 0; ky < window->kernel_height; ky++) {
        int y = run.y + ky * window->dilation_y, x = run.x;
        const unsigned char *line = NULL;
        if (y >= 0 && y < window->height)
            line = source + (size_t)y * (size_t)window->width * step->tiled.row_bytes;
        for (int kx = 0; kx < window->kernel_width; kx++, tap++, x += window->dilation_x)
            padded += pack_tap(step, line, run, x, tap, tile, list + padded);
    }
    return padded;
}

/* Whether a tile of `pixels` pixels is full, in one row of the output, and reads no padding. */
static int is_inside(const struct bd_step *step, struct bd_cursor at, size_t pixels) {
    const struct bd_window *window = &step->window;
    int y = at.y * window->stride_y - window->pad_top, x = at.x * window->stride_x - window->pad_left;
    int last_x = x + ((int)pixels - 1) * window->stride_x + (window->kernel_width - 1) * window->dilation_x;
    return pixels == (size_t)step->kernel->mr && at.x + (int)pixels <= window->out_width && y >= 0 && x >= 0 &&
           y + (window->kernel_height - 1) * window->dilation_y < window->height && last_x < window->width;
}

/* A tile that is inside, where taps begin at words: most tiles of a large map are. `mr` and `stride`, in words from
 * pixel to pixel, are constants where it is called, so that what a kernel of edges accumulates stays in registers. */
BD_INLINE void copy_inside(const struct bd_step *step, const unsigned char *source, struct bd_cursor at, size_t mr,
                           size_t stride, uint64_t *tile) {
    const struct bd_window *window = &step->window;
    size_t words = bd_words(step->tiled.channels), pixel = step->tiled.row_bytes / sizeof(uint64_t);
    size_t y = (size_t)(at.y * window->stride_y - window->pad_top);
    size_t x = (size_t)(at.x * window->stride_x - window->pad_left);
    size_t line = pixel * (size_t)window->width * (size_t)window->dilation_y;
    const uint64_t *first = (const uint64_t *)(const void *)source + (y * (size_t)window->width + x) * pixel;
    uint64_t last[BD_MAX_MR] = {0}, kept = step->tiled.edges ? ~UINT64_C(0) : 0;
    for (int ky = 0; ky < window->kernel_height; ky++, first += line) {
        const uint64_t *row = first;
        for (int kx = 0; kx < window->kernel_width; kx++, row += pixel * (size_t)window->dilation_x)
            for (size_t word = 0; word < words; word++, tile += mr)
                BD_UNROLL
        for (size_t m = 0; m < mr; m++)
            tile[m] = last[m] = (last[m] & kept) ^ row[m * stride + word];
    }
}

static void pack_inside(const struct bd_step *step, const unsigned char *source, struct bd_cursor at, uint64_t *tile) {
    size_t mr = (size_t)step->kernel->mr;
    size_t stride = step->tiled.row_bytes / sizeof(uint64_t) * (size_t)step->window.stride_x;
    if (mr == 4 && stride == 1)
        copy_inside(step, source, at, 4, 1, tile);
    else if (mr == 4)
        copy_inside(step, source, at, 4, stride, tile);
    else if (mr == 2)
        copy_inside(step, source, at, 2, stride, tile);
    else
        copy_inside(step, source, at, mr, stride, tile);
}

/* Pixels that the tile has not are zeros, and their sums are not looked at. */
uint32_t bd_pack_words(const struct bd_step *step, const unsigned char *source, const void *zeros, struct bd_cursor at,
                       size_t pixels, void *tile, struct bd_padding *padding) {
    (void)zeros;
    uint32_t padded = 0;
    if (step->tiled.channels % 64 == 0 && is_inside(step, at, pixels)) {
        pack_inside(step, source, at, tile);
        return 0;
    }
    memset(tile, 0, step->tiled.tile_bytes);
    for (size_t m = 0; m < pixels;) {
        struct bd_run run = bd_next_run(step, &at, m, pixels - m);
        padded += pack_run(step, source, run, tile, padding + padded);
        m += run.pixels;
    }
    if (step->tiled.edges)
        bd_accumulate_edges(step->tiled.words, (size_t)step->kernel->mr, tile);
    return padded;
}
