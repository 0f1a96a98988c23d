#include "convolution.h"

/* Row pointers made at once: enough that a block of weights, once in the first-level cache, serves many tiles, and few
 * enough that the pointers stay in the second level. */
enum { CHUNK_ROWS = 4096 };

/* Sums of one strip: a quarter of a small first-level cache. */
enum { STRIP_SUMS = 2048 };
_Static_assert(STRIP_SUMS >= BD_MAX_MR * BD_MAX_NR, "a strip is at least one tile");

static void measure_offsets(struct bd_step *step) {
    const struct bd_window *window = &step->window;
    ptrdiff_t *next = step->tiled.offsets, row_bytes = (ptrdiff_t)step->tiled.row_bytes;
    for (ptrdiff_t y = 0; y < window->kernel_height; y++)
        for (ptrdiff_t x = 0; x < window->kernel_width; x++)
            for (ptrdiff_t m = 0; m < step->kernel->mr; m++)
                *next++ = (y * window->dilation_y * window->width + x * window->dilation_x + m * window->stride_x) *
                          row_bytes;
}

void bd_prepare_convolution(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes) {
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps;
    size_t tile_rows = taps * (size_t)step->kernel->mr;
    size_t tiles = (bd_pixels(step->out) + (size_t)step->kernel->mr - 1) / (size_t)step->kernel->mr;
    tiled->blocks = ((size_t)(tiled->filters / tiled->groups) + nr - 1) / nr;
    tiled->group_bytes = (size_t)group_bytes;
    tiled->row_bytes = (size_t)tiled->groups * tiled->group_bytes;
    tiled->source = step->in[0]->data;
    tiled->block_bytes = (size_t)block_bytes;
    tiled->chunk = tile_rows < CHUNK_ROWS ? CHUNK_ROWS / tile_rows : 1;
    tiled->chunk = tiled->chunk < tiles ? tiled->chunk : tiles;
    tiled->strip = STRIP_SUMS / ((size_t)step->kernel->mr * nr);
    bd_share(model, BD_SUMS, STRIP_SUMS * sizeof(int32_t));
    bd_share(model, BD_ROWS, (uint64_t)tiled->chunk * tile_rows * sizeof(void *));
    bd_share(model, BD_PADDING, (uint64_t)tiled->chunk * tile_rows * sizeof(struct bd_padding));
    bd_share(model, BD_PADDED, (uint64_t)tiled->chunk * sizeof(uint32_t));
    bd_share(model, BD_ZEROS, group_bytes);
    tiled->weights = bd_take(&model->weights, (uint64_t)tiled->groups * tiled->blocks * block_bytes);
    tiled->offsets = bd_take(&model->tables, (uint64_t)tile_rows * sizeof *tiled->offsets);
    if (model->memory != NULL)
        measure_offsets(step);
}

/* Output pixels in row-major order. */
struct cursor {
    int y, x;
};

static void advance(struct cursor *at, size_t pixels, const struct bd_window *window) {
    for (at->x += (int)pixels; at->x >= window->out_width; at->x -= window->out_width)
        at->y++;
}

/* Pixels of one tile that stand side by side in one output row; y and x are where the first one's window begins. */
struct run {
    size_t m, pixels;
    int y, x;
};

static int is_inside(const struct bd_window *window, struct run run) {
    int last_y = run.y + (window->kernel_height - 1) * window->dilation_y;
    int last_x = run.x + ((int)run.pixels - 1) * window->stride_x + (window->kernel_width - 1) * window->dilation_x;
    return run.y >= 0 && run.x >= 0 && last_y < window->height && last_x < window->width;
}

/* Where the rows of a run would be if the input at `source` went on beyond its border. */
static void point_at_input(const struct bd_step *step, const unsigned char *source, struct run run, const void **rows) {
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
static uint32_t point_at_zeros(const struct bd_step *step, struct run run, const void *zeros, const void **rows,
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

/* Row pointers of the tile at `at` and the list of those that are padding; returns how many are. */
static uint32_t tile_rows(const struct bd_step *step, const unsigned char *source, struct cursor at, size_t pixels,
                          const void *zeros, const void **rows, struct bd_padding *padding) {
    const struct bd_window *window = &step->window;
    size_t mr = (size_t)step->kernel->mr, count = (size_t)step->tiled.taps * mr;
    uint32_t padded = 0;
    for (struct run run = {0, 0, 0, 0}; run.m < pixels; run.m += run.pixels) {
        size_t left = pixels - run.m, in_row = (size_t)(window->out_width - at.x);
        run.pixels = left < in_row ? left : in_row;
        run.y = at.y * window->stride_y - window->pad_top;
        run.x = at.x * window->stride_x - window->pad_left;
        point_at_input(step, source, run, rows);
        if (!is_inside(window, run))
            padded += point_at_zeros(step, run, zeros, rows, padding + padded);
        advance(&at, run.pixels, window);
    }
    for (size_t m = pixels; m < mr; m++)
        for (size_t tap = 0; tap < count; tap += mr)
            rows[tap + m] = rows[tap + pixels - 1];
    return padded;
}

/* Tiles `first` to `first + count` of the output's pixels, from `at` on: the row pointers of one group and the list of
 * those that are padding. Returns where the next tile begins. */
static struct cursor chunk_rows(const struct bd_model *model, const struct bd_step *step, size_t group, size_t first,
                                size_t count, struct cursor at) {
    const unsigned char *source = step->tiled.source + group * step->tiled.group_bytes;
    const void **rows = model->shared[BD_ROWS];
    struct bd_padding *padding = model->shared[BD_PADDING];
    uint32_t *padded = model->shared[BD_PADDED];
    size_t mr = (size_t)step->kernel->mr, table = (size_t)step->tiled.taps * mr, pixels = bd_pixels(step->out);
    for (size_t i = 0; i < count; i++, rows += table, padding += table) {
        size_t left = pixels - (first + i) * mr;
        padded[i] = tile_rows(step, source, at, left < mr ? left : mr, model->shared[BD_ZEROS], rows, padding);
        advance(&at, mr, &step->window);
    }
    return at;
}

/* The tiles of one chunk by one block of filters, a strip at a time. */
static void run_chunk(const struct bd_model *model, const struct bd_step *step, size_t first, size_t count,
                      const void *weights, size_t block, bd_strip_function *run_strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, table = (size_t)step->tiled.taps * mr;
    size_t of_group = (size_t)(step->tiled.filters / step->tiled.groups), pixels = bd_pixels(step->out);
    size_t begin = block % step->tiled.blocks * nr, left = of_group - begin;
    struct bd_strip strip = {.weights = weights,
                             .block = block,
                             .first_filter = block / step->tiled.blocks * of_group + begin,
                             .filters = left < nr ? left : nr,
                             .sums = model->shared[BD_SUMS],
                             .stride = nr};
    for (size_t i = 0; i < count; i += strip.tiles) {
        strip.tiles = count - i < step->tiled.strip ? count - i : step->tiled.strip;
        strip.rows = (const void *const *)model->shared[BD_ROWS] + i * table;
        strip.padding = (const struct bd_padding *)model->shared[BD_PADDING] + i * table;
        strip.padded = (const uint32_t *)model->shared[BD_PADDED] + i;
        strip.first_pixel = (first + i) * mr;
        strip.pixels = pixels - strip.first_pixel < strip.tiles * mr ? pixels - strip.first_pixel : strip.tiles * mr;
        run_strip(model, step, &strip);
    }
}

/* For each chunk of pixels and each group: the row pointers, then for each block of filters all tiles, so that the
 * block's weights are read from the first-level cache. Filters go up as they do in the output, whose bits need that. */
void bd_convolve(const struct bd_model *model, const struct bd_step *step, bd_block_function *block_weights,
                 bd_strip_function *run_strip) {
    size_t mr = (size_t)step->kernel->mr, tiles = (bd_pixels(step->out) + mr - 1) / mr, chunk = step->tiled.chunk;
    size_t groups = (size_t)step->tiled.groups, blocks = step->tiled.blocks;
    struct cursor at = {0, 0}, next = at;
    for (size_t first = 0; first < tiles; first += chunk, at = next) {
        size_t count = tiles - first < chunk ? tiles - first : chunk;
        for (size_t group = 0; group < groups; group++) {
            next = chunk_rows(model, step, group, first, count, at);
            for (size_t block = group * blocks; block < (group + 1) * blocks; block++)
                run_chunk(model, step, first, count, block_weights(model, step, block), block, run_strip);
        }
    }
}

float *bd_floats_at(const struct bd_step *step, const struct bd_tensor *tensor, const struct bd_strip *strip) {
    if (tensor == NULL)
        return NULL;
    return (float *)tensor->data + strip->first_pixel * (size_t)step->tiled.filters + strip->first_filter;
}
