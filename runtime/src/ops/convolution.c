#include "convolution.h"

/* Row pointers made at once: enough that a block of weights, once in the first-level cache, serves many tiles, and few
 * enough that the pointers stay in the second level. */
enum { CHUNK_ROWS = 4096 };

int bd_check_convolution(struct bd_step *step, int weight_row, char *error) {
    const struct bd_plan_node *node = step->node;
    const int *weights = step->in[1]->shape;
    if (node->group != 1)
        return bd_fail_at(step, error, "group is %d, and only 1 is possible", node->group);
    if (weights[1] != node->kernel[0] || weights[2] != node->kernel[1])
        return bd_fail_at(step, error, "weights are %dx%d, its kernel %dx%d", weights[1], weights[2], node->kernel[0],
                          node->kernel[1]);
    if (bd_check_window(step, node->dilations, error))
        return 1;
    if (weights[3] != weight_row)
        return bd_fail_at(step, error, "weights have rows of %d, and %d input channels need %d", weights[3],
                          step->window.channels, weight_row);
    if (weights[0] != step->out->shape[3])
        return bd_fail_at(step, error, "weights have %d filters, its output %d channels", weights[0],
                          step->out->shape[3]);
    uint64_t depth = (uint64_t)weights[1] * (uint64_t)weights[2] * (uint64_t)step->window.channels;
    if (depth > INT32_MAX / 2)
        return bd_fail_at(step, error, "sums over %llu inputs, which overflows", (unsigned long long)depth);
    step->tiled.filters = weights[0];
    step->tiled.taps = weights[1] * weights[2];
    step->macs = (uint64_t)bd_pixels(step->out) * (uint64_t)weights[0] * depth;
    return 0;
}

/* A padded row of the file: 32-bit words, pad bits 0. */
static int row_is_clean(const unsigned char *row, int channels, int row_bytes) {
    int next = channels / 8;
    if (channels % 8 != 0 && row[next++] >> (channels % 8) != 0)
        return 0;
    for (; next < row_bytes; next++)
        if (row[next] != 0)
            return 0;
    return 1;
}

int bd_check_packed_convolution(struct bd_step *step, char *error) {
    int channels = step->in[0]->shape[3], row_bytes = (channels + 31) / 32 * 4;
    if (bd_check_convolution(step, row_bytes, error))
        return 1;
    const unsigned char *row = step->in[1]->data;
    size_t rows = (size_t)step->tiled.filters * (size_t)step->tiled.taps;
    for (size_t i = 0; i < rows; i++, row += row_bytes)
        if (!row_is_clean(row, channels, row_bytes))
            return bd_fail_at(step, error, "weights have a bit beyond channel %d", channels);
    return 0;
}

void bd_prepare_convolution(struct bd_model *model, struct bd_step *step, uint64_t row_bytes, uint64_t block_bytes) {
    struct bd_tiled *tiled = &step->tiled;
    const struct bd_window *window = &step->window;
    size_t nr = (size_t)step->kernel->nr, taps = (size_t)tiled->taps;
    size_t tile_rows = taps * (size_t)step->kernel->mr;
    size_t tiles = (bd_pixels(step->out) + (size_t)step->kernel->mr - 1) / (size_t)step->kernel->mr;
    tiled->blocks = ((size_t)tiled->filters + nr - 1) / nr;
    tiled->row_bytes = (size_t)row_bytes;
    tiled->block_bytes = (size_t)block_bytes;
    tiled->chunk = tile_rows < CHUNK_ROWS ? CHUNK_ROWS / tile_rows : 1;
    tiled->chunk = tiled->chunk < tiles ? tiled->chunk : tiles;
    bd_share(model, BD_ROWS, (uint64_t)tiled->chunk * tile_rows * sizeof(void *));
    bd_share(model, BD_PADDING, (uint64_t)tiled->chunk * tile_rows * sizeof(struct bd_padding));
    bd_share(model, BD_PADDED, (uint64_t)tiled->chunk * sizeof(uint32_t));
    bd_share(model, BD_ZEROS, row_bytes);
    tiled->weights = bd_take(&model->weights, tiled->blocks * block_bytes);
    tiled->tap_offsets = bd_take(&model->tables, (uint64_t)taps * sizeof *tiled->tap_offsets);
    if (model->memory == NULL)
        return;
    for (int y = 0, tap = 0; y < window->kernel_height; y++)
        for (int x = 0; x < window->kernel_width; x++, tap++)
            tiled->tap_offsets[tap] =
                ((ptrdiff_t)y * window->dilation_y * window->width + (ptrdiff_t)x * window->dilation_x) *
                (ptrdiff_t)row_bytes;
}

/* The window of one output pixel: where its first tap is in the input. */
struct corner {
    int y, x;
    int inside; /* no tap is padding */
};

/* Output pixels in row-major order. */
struct cursor {
    int y, x;
};

static struct corner corner_at(const struct bd_window *window, struct cursor at) {
    struct corner corner = {.y = at.y * window->stride_y - window->pad_top,
                            .x = at.x * window->stride_x - window->pad_left};
    corner.inside = corner.y >= 0 && corner.x >= 0 &&
                    corner.y + (window->kernel_height - 1) * window->dilation_y < window->height &&
                    corner.x + (window->kernel_width - 1) * window->dilation_x < window->width;
    return corner;
}

static void advance(struct cursor *at, size_t pixels, const struct bd_window *window) {
    for (at->x += (int)pixels; at->x >= window->out_width; at->x -= window->out_width)
        at->y++;
}

static const unsigned char *input_row(const struct bd_step *step, int y, int x) {
    size_t pixel = (size_t)y * (size_t)step->window.width + (size_t)x;
    return (const unsigned char *)step->in[0]->data + pixel * step->tiled.row_bytes;
}

/* rows[tap * mr] of one pixel, tap by tap. */
static void rows_at_border(const struct bd_step *step, struct corner corner, const void *zeros, const void **rows) {
    const struct bd_window *window = &step->window;
    size_t mr = (size_t)step->kernel->mr;
    for (int ky = 0; ky < window->kernel_height; ky++)
        for (int kx = 0; kx < window->kernel_width; kx++, rows += mr) {
            int y = corner.y + ky * window->dilation_y, x = corner.x + kx * window->dilation_x;
            int inside = y >= 0 && y < window->height && x >= 0 && x < window->width;
            *rows = inside ? input_row(step, y, x) : zeros;
        }
}

static void rows_inside(const struct bd_step *step, struct corner corner, const void **rows) {
    const unsigned char *first = input_row(step, corner.y, corner.x);
    const ptrdiff_t *offsets = step->tiled.tap_offsets;
    size_t mr = (size_t)step->kernel->mr, taps = (size_t)step->tiled.taps;
    for (size_t tap = 0; tap < taps; tap++)
        rows[tap * mr] = first + offsets[tap];
}

/* A whole tile within one output row, no tap of which is padding: its pixels are `stride` bytes apart at every tap. */
static void tile_inside(const struct bd_step *step, struct corner corner, const void **rows) {
    const unsigned char *first = input_row(step, corner.y, corner.x);
    const ptrdiff_t *offsets = step->tiled.tap_offsets;
    size_t mr = (size_t)step->kernel->mr, taps = (size_t)step->tiled.taps;
    size_t stride = (size_t)step->window.stride_x * step->tiled.row_bytes;
    for (size_t tap = 0; tap < taps; tap++) {
        const unsigned char *row = first + offsets[tap];
        for (size_t m = 0; m < mr; m++, row += stride)
            *rows++ = row;
    }
}

/* Row pointers of the tile at `at`; returns whether any is padding. */
static int tile_rows(const struct bd_step *step, struct cursor at, size_t pixels, const void *zeros,
                     const void **rows) {
    const struct bd_window *window = &step->window;
    size_t mr = (size_t)step->kernel->mr, taps = (size_t)step->tiled.taps;
    struct cursor last = {at.y, at.x + (int)mr - 1};
    if (pixels == mr && last.x < window->out_width && corner_at(window, at).inside && corner_at(window, last).inside) {
        tile_inside(step, corner_at(window, at), rows);
        return 0;
    }
    int border = 0;
    for (size_t m = 0; m < pixels; m++) {
        struct corner corner = corner_at(window, at);
        if (corner.inside)
            rows_inside(step, corner, rows + m);
        else
            rows_at_border(step, corner, zeros, rows + m);
        border |= !corner.inside;
        advance(&at, 1, window);
    }
    for (size_t m = pixels; m < mr; m++)
        for (size_t tap = 0; tap < taps; tap++)
            rows[tap * mr + m] = rows[tap * mr + pixels - 1];
    return border;
}

/* The padded rows of a tile, listed. */
static uint32_t list_padding(const struct bd_step *step, const void *const *rows, const void *zeros,
                             struct bd_padding *list) {
    uint32_t count = 0;
    for (uint32_t tap = 0; tap < (uint32_t)step->tiled.taps; tap++)
        for (uint32_t m = 0; m < (uint32_t)step->kernel->mr; m++)
            if (*rows++ == zeros)
                list[count++] = (struct bd_padding){tap, m};
    return count;
}

/* Tiles `first` to `first + count` of the output's pixels: their row pointers and the list of those that are padding.
 */
static void chunk_rows(const struct bd_model *model, const struct bd_step *step, size_t first, size_t count,
                       struct cursor *at) {
    const void **rows = model->shared[BD_ROWS];
    struct bd_padding *padding = model->shared[BD_PADDING];
    uint32_t *padded = model->shared[BD_PADDED];
    size_t mr = (size_t)step->kernel->mr, table = (size_t)step->tiled.taps * mr, pixels = bd_pixels(step->out);
    for (size_t i = 0; i < count; i++, rows += table, padding += table) {
        size_t left = pixels - (first + i) * mr;
        int border = tile_rows(step, *at, left < mr ? left : mr, model->shared[BD_ZEROS], rows);
        padded[i] = border ? list_padding(step, rows, model->shared[BD_ZEROS], padding) : 0;
        advance(at, mr, &step->window);
    }
}

static void run_chunk(const struct bd_model *model, const struct bd_step *step, size_t first, size_t count,
                      const void *weights, size_t block, bd_tile_function *run_tile) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, table = (size_t)step->tiled.taps * mr;
    size_t pixels = bd_pixels(step->out), filters = (size_t)step->tiled.filters - block * nr;
    const uint32_t *padded = model->shared[BD_PADDED];
    struct bd_tile tile = {.rows = model->shared[BD_ROWS],
                           .padding = model->shared[BD_PADDING],
                           .weights = weights,
                           .block = block,
                           .first_filter = block * nr,
                           .filters = filters < nr ? filters : nr};
    for (size_t i = 0; i < count; i++, tile.rows += table, tile.padding += table) {
        tile.padded = padded[i];
        tile.first_pixel = (first + i) * mr;
        tile.pixels = pixels - tile.first_pixel < mr ? pixels - tile.first_pixel : mr;
        run_tile(model, step, &tile);
    }
}

/* For each chunk of pixels: their row pointers, then for each block of filters all tiles, so that the block's weights
 * are read from the first-level cache. */
void bd_convolve(const struct bd_model *model, const struct bd_step *step, bd_block_function *block_weights,
                 bd_tile_function *run_tile) {
    size_t mr = (size_t)step->kernel->mr, tiles = (bd_pixels(step->out) + mr - 1) / mr, chunk = step->tiled.chunk;
    struct cursor at = {0, 0};
    for (size_t first = 0; first < tiles; first += chunk) {
        size_t count = tiles - first < chunk ? tiles - first : chunk;
        chunk_rows(model, step, first, count, &at);
        for (size_t block = 0; block < step->tiled.blocks; block++)
            run_chunk(model, step, first, count, block_weights(model, step, block), block, run_tile);
    }
}
