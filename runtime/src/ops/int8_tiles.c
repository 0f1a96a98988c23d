#include "int8_tiles.h"
#include "quantize.h"

#include <string.h>

/* A zero as the kernel reads it, and bytes that are copied at once, beyond the end of what is wanted. */
enum { ZERO = 128, CHUNK = 16 };

static size_t quads_of(const struct bd_step *step) {
    return (bd_depth(step) + 3) / 4;
}

/* [F][tap][C] -> [block]: offsets [NR], then weights [quad][NR][4]. */
static void tile_weights(const struct bd_step *step) {
    size_t nr = (size_t)step->kernel->nr, depth = bd_depth(step);
    const int8_t *next = step->in[1]->data;
    memset(step->tiled.weights, 0, (size_t)step->tiled.groups * step->tiled.blocks * step->tiled.block_bytes);
    for (size_t filter = 0; filter < (size_t)step->tiled.filters; filter++) {
        struct bd_place_of place = bd_place_of(step, filter);
        int32_t *offsets = (int32_t *)(void *)(step->tiled.weights + place.block * step->tiled.block_bytes);
        int8_t *weights = (int8_t *)(offsets + nr) + place.column * 4;
        for (size_t k = 0; k < depth; k++, next++) {
            weights[k / 4 * nr * 4 + k % 4] = *next;
            offsets[place.column] -= ZERO * *next;
        }
    }
}

void bd_prepare_int8_tiles(struct bd_model *model, struct bd_step *step) {
    uint64_t quads = quads_of(step), nr = (uint64_t)step->kernel->nr;
    bd_prepare_convolution(model, step, (uint64_t)step->tiled.channels, (quads * 4 + sizeof(int32_t)) * nr,
                           quads * 4 * (uint64_t)step->kernel->mr);
    bd_share(model, BD_REGROUPED, (uint64_t)bd_pixels(step->in[0]) * (uint64_t)step->window.channels + CHUNK);
    bd_scratch(model, BD_TILES, (uint64_t)step->tiled.chunk * step->tiled.tile_bytes + CHUNK);
    step->tiled.source = model->shared[BD_REGROUPED];
    if (model->memory != NULL)
        tile_weights(step);
}

void bd_quantize_tiles(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    struct bd_range share = bd_share_of(worker, bd_pixels(step->in[0]) * (size_t)step->window.channels);
    uint8_t *integers = (uint8_t *)model->shared[BD_REGROUPED] + share.first;
    size_t count = share.end - share.first;
    bd_read_integers(step, share.first, count, (int8_t *)integers);
    for (size_t i = 0; i < count; i++)
        integers[i] ^= ZERO;
}

/* `pixels` pixels side by side from column x on; those beyond the border are zeros. */
static void copy_side_by_side(const struct bd_step *step, const unsigned char *line, int x, int pixels,
                              unsigned char *row) {
    const struct bd_window *window = &step->window;
    size_t channels = (size_t)step->tiled.channels;
    int before = x < 0 ? -x : 0, end = window->width - x;
    before = before < pixels ? before : pixels;
    end = end < pixels ? end : pixels;
    end = end < before ? before : end;
    memset(row, ZERO, (size_t)before * channels);
    if (before < end)
        memcpy(row + (size_t)before * channels, line + (size_t)(x + before) * step->tiled.row_bytes,
               (size_t)(end - before) * channels);
    memset(row + (size_t)end * channels, ZERO, (size_t)(pixels - end) * channels);
}

static int is_inside(const struct bd_window *window, int y, int x) {
    return y >= 0 && x >= 0 && y + (window->kernel_height - 1) * window->dilation_y < window->height &&
           x + (window->kernel_width - 1) * window->dilation_x < window->width;
}

/* What is beyond the end is written over by what comes next, or meets weights of 0. */
static void copy_and_more(const unsigned char *from, size_t bytes, unsigned char *to) {
    for (size_t i = 0; i < bytes; i += CHUNK)
        memcpy(to + i, from + i, CHUNK);
}

/* What one output pixel sees, its window beginning at (y, x). Taps that are neighbours in memory are copied together.
 */
static void copy_window(const struct bd_step *step, const unsigned char *source, int y, int x, unsigned char *row) {
    const struct bd_window *window = &step->window;
    int together = step->tiled.groups == 1 && window->dilation_x == 1 ? window->kernel_width : 1;
    size_t bytes = (size_t)together * (size_t)step->tiled.channels;
    if (is_inside(window, y, x)) {
        for (int ky = 0; ky < window->kernel_height; ky++, y += window->dilation_y) {
            const unsigned char *from =
                source + ((size_t)y * (size_t)window->width + (size_t)x) * step->tiled.row_bytes;
            for (int kx = 0; kx < window->kernel_width; kx += together, row += bytes)
                copy_and_more(from + (size_t)(kx * window->dilation_x) * step->tiled.row_bytes, bytes, row);
        }
        return;
    }
    for (int ky = 0; ky < window->kernel_height; ky++, y += window->dilation_y) {
        int inside = y >= 0 && y < window->height;
        const unsigned char *line = source + (size_t)(inside ? y : 0) * (size_t)window->width * step->tiled.row_bytes;
        for (int kx = 0; kx < window->kernel_width; kx += together, row += bytes)
            if (inside)
                copy_side_by_side(step, line, x + kx * window->dilation_x, together, row);
            else
                memset(row, ZERO, bytes);
    }
}

/* Bytes beyond a row's end meet weights of 0. Pixels that the tile has not keep bytes of an earlier one, and their sums
 * are not looked at. */
uint32_t bd_copy_windows(const struct bd_step *step, const unsigned char *source, const void *zeros,
                         struct bd_cursor at, size_t pixels, void *tile, struct bd_padding *padding) {
    (void)zeros;
    (void)padding;
    unsigned char *row = tile;
    for (size_t m = 0; m < pixels;) {
        struct bd_run run = bd_next_run(step, &at, m, pixels - m);
        for (size_t i = 0; i < run.pixels; i++, run.x += step->window.stride_x, row += quads_of(step) * 4) {
            copy_window(step, source, run.y, run.x, row);
            memset(row + bd_depth(step), ZERO, quads_of(step) * 4 - bd_depth(step));
        }
        m += run.pixels;
    }
    return 0;
}

void bd_multiply_int8(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr;
    const int32_t *offsets = strip->weights;
    int32_t *sums = strip->sums;
    for (size_t tile = 0; tile < strip->count; tile++)
        step->kernel->run.igemm_i32(quads_of(step), strip->tiles + tile * strip->tile_bytes,
                                    (const int8_t *)(offsets + nr), offsets, sums + tile * mr * nr, nr);
}
