/* Tiles of floats: pointers rows[tap * MR + pixel], each at the channel row that this pixel reads at this tap. Of few
 * channels, taps side by side are joined: one pointer stands for a whole row of taps, whose channels follow each other
 * in the input. */
#include "convolution.h"

#include <string.h>

/* A row of taps is joined where it is no longer than this: beyond, the kernel's loop over one tap is long enough. */
enum { JOINED_BYTES = 256 };

/* Channels of taps side by side stand in a row, like those of one tap. What compilers make of the plain row has none of
 * the cost that is saved here. */
static size_t taps_to_join(const struct bd_step *step) {
    size_t width = (size_t)step->window.kernel_width, bytes = (size_t)step->tiled.channels * sizeof(float);
    int in_a_row = step->tables == NULL && step->tiled.groups == 1 && step->window.dilation_x == 1 &&
                   strcmp(step->kernel->isa, "scalar") != 0;
    return in_a_row && width * bytes <= JOINED_BYTES ? width : 1;
}

/* Pixels of an output row whose windows reach beyond the left or the right border. */
static size_t side_pixels(const struct bd_window *window) {
    int first = (window->pad_left + window->stride_x - 1) / window->stride_x;
    int last = window->width - window->kernel_width + window->pad_left;
    int end = last < 0 ? 0 : last / window->stride_x + 1;
    end = end < window->out_width ? end : window->out_width;
    return (size_t)(first < end ? window->out_width - (end - first) : window->out_width);
}

/* What such a pixel reads, its padding included: a multiple of a pointer's size. */
static size_t window_bytes(const struct bd_step *step) {
    return ((size_t)step->tiled.taps * (size_t)step->tiled.channels * sizeof(float) + 7) / 8 * 8;
}

/* Windows that a tile may have to copy. */
static size_t windows_of(const struct bd_step *step) {
    size_t mr = (size_t)step->kernel->mr, width = (size_t)step->window.out_width;
    size_t sides = side_pixels(&step->window) * ((mr - 1) / width + 1);
    return step->tiled.joined == 1 ? 0 : sides < mr ? sides : mr;
}

static void measure_offsets(struct bd_step *step) {
    const struct bd_window *window = &step->window;
    ptrdiff_t *next = step->tiled.offsets, row_bytes = (ptrdiff_t)step->tiled.row_bytes;
    for (ptrdiff_t y = 0; y < window->kernel_height; y++)
        for (ptrdiff_t x = 0; x < window->kernel_width; x += (ptrdiff_t)step->tiled.joined)
            for (ptrdiff_t m = 0; m < step->kernel->mr; m++)
                *next++ = (y * window->dilation_y * window->width + x * window->dilation_x + m * window->stride_x) *
                          row_bytes;
}

void bd_prepare_rows(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes) {
    step->tiled.joined = taps_to_join(step);
    step->tiled.pointers = (size_t)step->tiled.taps / step->tiled.joined * (size_t)step->kernel->mr;
    uint64_t count = step->tiled.pointers, windows = windows_of(step) * (uint64_t)window_bytes(step);
    bd_prepare_convolution(model, step, group_bytes, block_bytes, count * sizeof(void *) + windows);
    bd_share(model, BD_ZEROS, step->tiled.joined * group_bytes);
    step->tiled.offsets = bd_take(&model->tables, count * sizeof *step->tiled.offsets);
    if (model->memory != NULL)
        measure_offsets(step);
}

static int is_inside(const struct bd_window *window, struct bd_run run) {
    int last_y = run.y + (window->kernel_height - 1) * window->dilation_y;
    int last_x = run.x + ((int)run.pixels - 1) * window->stride_x + (window->kernel_width - 1) * window->dilation_x;
    return run.y >= 0 && run.x >= 0 && last_y < window->height && last_x < window->width;
}

/* Where the rows of a run would be if the input at `source` went on beyond its border. */
static void point_at_input(const struct bd_step *step, const unsigned char *source, struct bd_run run,
                           const void **rows) {
    const ptrdiff_t *offsets = step->tiled.offsets;
    size_t mr = (size_t)step->kernel->mr, count = step->tiled.pointers;
    ptrdiff_t pixel = (ptrdiff_t)run.y * step->window.width + run.x;
    uintptr_t first = (uintptr_t)source + (uintptr_t)(pixel * (ptrdiff_t)step->tiled.row_bytes);
    if (run.pixels == mr)
        for (size_t i = 0; i < count; i++)
            rows[i] = (const void *)(first + (uintptr_t)offsets[i]);
    else
        for (size_t tap = 0; tap < count; tap += mr)
            for (size_t i = 0; i < run.pixels; i++)
                rows[tap + run.m + i] = (const void *)(first + (uintptr_t)offsets[tap + i]);
}

/* Points the rows beyond the border at zeros instead, and lists them; returns how many they are. Beyond the left border
 * are the first pixels of a run, beyond the right one the last. */
static uint32_t point_at_zeros(const struct bd_step *step, struct bd_run run, const void *zeros, const void **rows,
                               struct bd_padding *list) {
    const struct bd_window *window = &step->window;
    size_t mr = (size_t)step->kernel->mr;
    uint32_t tap = 0, count = 0, end = (uint32_t)(run.m + run.pixels);
    for (int ky = 0; ky < window->kernel_height; ky++)
        for (int kx = 0; kx < window->kernel_width; kx++, tap++) {
            int y = run.y + ky * window->dilation_y, x = run.x + kx * window->dilation_x;
            int outside = y < 0 || y >= window->height;
            int last_x = x + ((int)run.pixels - 1) * window->stride_x;
            uint32_t m = (uint32_t)run.m;
            for (; m < end && (outside || x < 0); m++, x += window->stride_x)
                list[count++] = (struct bd_padding){tap, m};
            for (uint32_t last = end; last > m && last_x >= window->width; last--, last_x -= window->stride_x)
                list[count++] = (struct bd_padding){tap, last - 1};
        }
    for (uint32_t i = 0; i < count; i++)
        rows[list[i].tap * mr + list[i].pixel] = zeros;
    return count;
}

/* One row of a window of joined taps; those beyond a border become 0. */
static void copy_row(const struct bd_window *window, const float *row, int x, float *copy) {
    size_t channels = (size_t)window->channels, count = (size_t)window->kernel_width * channels;
    int from = x < 0 ? 0 : x, end = x + window->kernel_width;
    end = end < window->width ? end : window->width;
    size_t before = (size_t)(from - x) * channels, inside = from < end ? (size_t)(end - from) * channels : 0;
    for (size_t i = 0; i < count; i++)
        copy[i] = i - before < inside ? row[(size_t)from * channels + (i - before)] : 0;
}

/* The same of a run of joined taps: rows of a pixel beside a border are copied to `copies`, which is moved behind them.
 * None is listed, for nobody takes floats back. */
static void replace_outside(const struct bd_step *step, const float *source, struct bd_run run, const void *zeros,
                            const void **rows, float **copies) {
    const struct bd_window *window = &step->window;
    size_t mr = (size_t)step->kernel->mr, line = (size_t)window->width * (size_t)window->channels;
    int last_x = window->width - window->kernel_width;
    for (size_t m = run.m; m < run.m + run.pixels; m++, run.x += window->stride_x) {
        int beside = run.x < 0 || run.x > last_x;
        for (int ky = 0; ky < window->kernel_height; ky++) {
            int y = run.y + ky * window->dilation_y;
            const void **row = rows + (size_t)ky * mr + m;
            if (y < 0 || y >= window->height) {
                *row = zeros;
            } else if (beside) {
                copy_row(window, source + (size_t)y * line, run.x, *copies);
                *row = *copies;
                *copies += window->kernel_width * window->channels;
            }
        }
    }
}

/* Where the tile has fewer pixels than the kernel computes, its last one stands in for the rest. */
uint32_t bd_point_at_rows(const struct bd_step *step, const unsigned char *source, const void *zeros,
                          struct bd_cursor at, size_t pixels, void *tile, struct bd_padding *padding) {
    size_t mr = (size_t)step->kernel->mr, count = step->tiled.pointers;
    const void **rows = tile;
    float *copies = (float *)(void *)(rows + count);
    uint32_t padded = 0;
    for (size_t m = 0; m < pixels;) {
        struct bd_run run = bd_next_run(step, &at, m, pixels - m);
        point_at_input(step, source, run, rows);
        if (is_inside(&step->window, run))
            ;
        else if (step->tiled.joined == 1)
            padded += point_at_zeros(step, run, zeros, rows, padding + padded);
        else
            replace_outside(step, (const float *)(const void *)source, run, zeros, rows, &copies);
        m += run.pixels;
    }
    for (size_t m = pixels; m < mr; m++)
        for (size_t tap = 0; tap < count; tap += mr)
            rows[tap + m] = rows[tap + pixels - 1];
    return padded;
}
