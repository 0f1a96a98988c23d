/* Tiles of floats: pointers rows[tap * MR + pixel], each at the channel row that this pixel reads at this tap. */
#include "convolution.h"

static void measure_offsets(struct bd_step *step) {
    const struct bd_window *window = &step->window;
    ptrdiff_t *next = step->tiled.offsets, row_bytes = (ptrdiff_t)step->tiled.row_bytes;
    for (ptrdiff_t y = 0; y < window->kernel_height; y++)
        for (ptrdiff_t x = 0; x < window->kernel_width; x++)
            for (ptrdiff_t m = 0; m < step->kernel->mr; m++)
                *next++ = (y * window->dilation_y * window->width + x * window->dilation_x + m * window->stride_x) *
                          row_bytes;
}

void bd_prepare_rows(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes) {
    uint64_t count = (uint64_t)step->tiled.taps * (uint64_t)step->kernel->mr;
    bd_prepare_convolution(model, step, group_bytes, block_bytes, count * sizeof(void *));
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
    size_t mr = (size_t)step->kernel->mr, count = (size_t)step->tiled.taps * mr;
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

/* Where the tile has fewer pixels than the kernel computes, its last one stands in for the rest. */
uint32_t bd_point_at_rows(const struct bd_step *step, const unsigned char *source, const void *zeros,
                          struct bd_cursor at, size_t pixels, void *tile, struct bd_padding *padding) {
    size_t mr = (size_t)step->kernel->mr, count = (size_t)step->tiled.taps * mr;
    const void **rows = tile;
    uint32_t padded = 0;
    for (size_t m = 0; m < pixels;) {
        struct bd_run run = bd_next_run(step, &at, m, pixels - m);
        point_at_input(step, source, run, rows);
        if (!is_inside(&step->window, run))
            padded += point_at_zeros(step, run, zeros, rows, padding + padded);
        m += run.pixels;
    }
    for (size_t m = pixels; m < mr; m++)
        for (size_t tap = 0; tap < count; tap += mr)
            rows[tap + m] = rows[tap + pixels - 1];
    return padded;
}
