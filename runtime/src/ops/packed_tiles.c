/* Tiles of bits: words tile[k * MR + pixel], in the order in which the kernel reads them.
 *
 * A kernel of edges wants the exclusive or of all words up to each one instead of the words: k by k down the tile. */
#include "binary_tiles.h"

#include "../kernels/tile.h"

#include <string.h>

/* Where the windows of MR pixels begin; the last pixel stands in for those that the tile has not. Returns whether they
 * begin at words that follow each other. */
static int find_windows(const struct bd_step *step, const unsigned char *source, struct bd_cursor at, size_t pixels,
                        const uint64_t **windows) {
    size_t line = step->tiled.line_bytes / sizeof(uint64_t) * (size_t)step->window.stride_y;
    size_t pixel = step->tiled.row_bytes / sizeof(uint64_t) * (size_t)step->window.stride_x;
    size_t mr = (size_t)step->kernel->mr, x = (size_t)at.x, width = (size_t)step->window.out_width;
    const uint64_t *row = (const uint64_t *)(const void *)source + (size_t)at.y * line, *window = row + x * pixel;
    for (size_t m = 0; m < pixels; m++, window += pixel) {
        if (x++ == width) {
            x = 1;
            window = row += line;
        }
        windows[m] = window;
    }
    for (size_t m = pixels; m < mr; m++)
        windows[m] = windows[pixels - 1];
    return pixels == mr && windows[mr - 1] == windows[0] + mr - 1;
}

/* Of two neighbouring pixels: as wide as every vector unit is. Where a tile is odd the last one stands alone. */
typedef uint64_t two_words __attribute__((vector_size(16), aligned(8), may_alias));

/* Pixels that are packed together, their words in registers. */
enum { FOUR = 4 };

/* The words at `offset` from where the windows of pixels m and m + 1 of `pixels` begin. */
BD_INLINE two_words load_words(const uint64_t *const *windows, size_t m, size_t pixels, int adjacent, size_t offset) {
    if (adjacent)
        return *(const two_words *)(windows[0] + offset + m);
    return (two_words){windows[m][offset], m + 1 < pixels ? windows[m + 1][offset] : 0};
}

BD_INLINE void store_words(two_words words, size_t m, size_t pixels, uint64_t *tile) {
    if (m + 1 < pixels)
        *(two_words *)(tile + m) = words;
    else
        tile[m] = words[0];
}

/* Where each tap begins at a word. */
BD_INLINE void copy_words(const struct bd_step *step, const uint64_t *const *windows, size_t pixels, int adjacent,
                          uint64_t *tile) {
    const struct bd_window_word *word = step->tiled.window_words, *end = word + step->tiled.words;
    size_t mr = (size_t)step->kernel->mr;
    uint64_t kept = step->tiled.edges ? ~UINT64_C(0) : 0;
    two_words last[FOUR / 2] = {{0}};
    for (; word < end; word++, tile += mr) {
        BD_UNROLL
        for (size_t m = 0; m < pixels; m += 2) {
            last[m / 2] = (last[m / 2] & kept) ^ load_words(windows, m, pixels, adjacent, word->offset);
            store_words(last[m / 2], m, pixels, tile);
        }
    }
}

/* Where taps follow each other without a gap. */
BD_INLINE void merge_words(const struct bd_step *step, const uint64_t *const *windows, size_t pixels, int adjacent,
                           uint64_t *tile) {
    size_t mr = (size_t)step->kernel->mr, count = (size_t)step->tiled.taps * bd_words(step->tiled.channels);
    const struct bd_window_word *word = step->tiled.window_words, *end = word + count;
    uint64_t kept = step->tiled.edges ? ~UINT64_C(0) : 0, *tile_end = tile + step->tiled.words * mr;
    two_words last[FOUR / 2] = {{0}}, merged[FOUR / 2] = {{0}};
    for (; word < end; word++) {
        BD_UNROLL
        for (size_t m = 0; m < pixels; m += 2) {
            two_words words = load_words(windows, m, pixels, adjacent, word->offset);
            merged[m / 2] |= words << word->filled;
            if (word->fills) {
                last[m / 2] = (last[m / 2] & kept) ^ merged[m / 2];
                store_words(last[m / 2], m, pixels, tile);
                merged[m / 2] = words >> 1 >> (63 - word->filled);
            }
        }
        tile += word->fills ? mr : 0;
    }
    for (size_t m = 0; m < pixels && tile < tile_end; m += 2)
        store_words((last[m / 2] & kept) ^ merged[m / 2], m, pixels, tile);
}

/* `pixels` and `adjacent` are constants where this is called. */
BD_INLINE void pack(const struct bd_step *step, const uint64_t *const *windows, size_t pixels, int adjacent,
                    uint64_t *tile) {
    if (step->tiled.channels % 64 == 0 || step->tiled.taps == 1)
        copy_words(step, windows, pixels, adjacent, tile);
    else
        merge_words(step, windows, pixels, adjacent, tile);
}

static void pack_pixels(const struct bd_step *step, const uint64_t *const *windows, size_t pixels, int adjacent,
                        uint64_t *tile) {
    if (pixels >= FOUR && adjacent)
        pack(step, windows, 4, 1, tile);
    else if (pixels >= FOUR)
        pack(step, windows, 4, 0, tile);
    else if (pixels == 3)
        pack(step, windows, 3, 0, tile);
    else if (pixels == 2)
        pack(step, windows, 2, 0, tile);
    else
        pack(step, windows, 1, 0, tile);
}

/* Whether a tile stands in one row of the output and reads no padding: most tiles of a large map. */
static int is_inside(const struct bd_step *step, struct bd_cursor at, size_t pixels) {
    const struct bd_window *window = &step->window;
    int last = at.x + (int)pixels - 1;
    if (last >= window->out_width)
        return 0;
    int top = at.y * window->stride_y - window->pad_top, left = at.x * window->stride_x - window->pad_left;
    int bottom = top + (window->kernel_height - 1) * window->dilation_y;
    int right = last * window->stride_x - window->pad_left + (window->kernel_width - 1) * window->dilation_x;
    return top >= 0 && left >= 0 && bottom < window->height && right < window->width;
}

/* The rows of the tile that are padding. */
static uint32_t list_padding(const struct bd_step *step, struct bd_cursor at, size_t pixels, struct bd_padding *list) {
    const struct bd_window *window = &step->window;
    uint32_t count = 0;
    for (uint32_t m = 0; m < pixels; m++) {
        uint32_t tap = 0;
        for (int ky = 0; ky < window->kernel_height; ky++)
            for (int kx = 0; kx < window->kernel_width; kx++, tap++) {
                int y = at.y * window->stride_y - window->pad_top + ky * window->dilation_y;
                int x = at.x * window->stride_x - window->pad_left + kx * window->dilation_x;
                if (y < 0 || y >= window->height || x < 0 || x >= window->width)
                    list[count++] = (struct bd_padding){tap, m};
            }
        if (++at.x == window->out_width)
            at = (struct bd_cursor){at.y + 1, 0};
    }
    return count;
}

/* Padding is read as zeros, and of no interest where these count. */
uint32_t bd_pack_words(const struct bd_step *step, const unsigned char *source, const void *zeros, struct bd_cursor at,
                       size_t pixels, void *tile, struct bd_padding *padding) {
    (void)zeros;
    const uint64_t *windows[BD_MAX_MR];
    size_t mr = (size_t)step->kernel->mr;
    int adjacent = find_windows(step, source, at, pixels, windows);
    for (size_t m = 0; m < mr; m += FOUR)
        pack_pixels(step, windows + m, mr - m, adjacent, (uint64_t *)tile + m);
    if (step->tiled.arrange != NULL)
        step->tiled.arrange->run.edge_tile_u64(step->tiled.words, tile);
    if (step->tiled.tap_sums == NULL || is_inside(step, at, pixels))
        return 0;
    return list_padding(step, at, pixels, padding);
}
