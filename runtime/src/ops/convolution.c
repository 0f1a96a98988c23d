#include "convolution.h"

#include <string.h>

/* Bytes of tiles laid out at once: enough that a block of weights, once in the first-level cache, serves many of them,
 * and few enough that they stay in the second level. */
enum { CHUNK_BYTES = 1 << 15 };

/* Sums of one strip: a quarter of a small first-level cache. */
enum { STRIP_SUMS = 2048 };
_Static_assert(STRIP_SUMS >= BD_MAX_MR * BD_MAX_NR, "a strip is at least one tile");

static size_t tiles_of(const struct bd_step *step) {
    size_t mr = (size_t)step->kernel->mr;
    return (bd_pixels(step->out) + mr - 1) / mr;
}

void bd_prepare_convolution(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes,
                            uint64_t tile_bytes) {
    struct bd_tiled *tiled = &step->tiled;
    size_t nr = (size_t)step->kernel->nr, mr = (size_t)step->kernel->mr, tiles = tiles_of(step);
    tiled->blocks = ((size_t)(tiled->filters / tiled->groups) + nr - 1) / nr;
    tiled->group_bytes = (size_t)group_bytes;
    tiled->row_bytes = (size_t)tiled->groups * tiled->group_bytes;
    tiled->source = step->in[0]->data;
    tiled->block_bytes = (size_t)block_bytes;
    tiled->tile_bytes = (size_t)tile_bytes;
    tiled->chunk = tile_bytes < CHUNK_BYTES ? CHUNK_BYTES / (size_t)tile_bytes : 1;
    tiled->chunk = tiled->chunk < tiles ? tiled->chunk : tiles;
    tiled->strip = STRIP_SUMS / (mr * nr);
    bd_scratch(model, BD_SUMS, STRIP_SUMS * sizeof(int32_t));
    bd_scratch(model, BD_TILES, tiled->chunk * tile_bytes);
    bd_scratch(model, BD_PADDING, (uint64_t)tiled->chunk * (uint64_t)tiled->taps * mr * sizeof(struct bd_padding));
    bd_scratch(model, BD_PADDED, (uint64_t)tiled->chunk * sizeof(uint32_t));
    bd_share(model, BD_ZEROS, group_bytes);
    tiled->weights = bd_take(&model->weights, (uint64_t)tiled->groups * tiled->blocks * block_bytes);
}

struct bd_cursor bd_cursor_at(const struct bd_step *step, size_t pixel) {
    size_t width = (size_t)step->window.out_width;
    return (struct bd_cursor){(int)(pixel / width), (int)(pixel % width)};
}

static void advance(const struct bd_step *step, struct bd_cursor *at, size_t pixels) {
    for (at->x += (int)pixels; at->x >= step->window.out_width; at->y++)
        at->x -= step->window.out_width;
}

struct bd_run bd_next_run(const struct bd_step *step, struct bd_cursor *at, size_t m, size_t pixels) {
    const struct bd_window *window = &step->window;
    size_t in_row = (size_t)(window->out_width - at->x);
    struct bd_run run = {m, pixels < in_row ? pixels : in_row, at->y * window->stride_y - window->pad_top,
                         at->x * window->stride_x - window->pad_left};
    advance(step, at, run.pixels);
    return run;
}

/* Tiles that are laid out in this worker's scratch: all of a convolution, or a chunk of it, of one group. */
struct chunk {
    size_t group;
    struct bd_range tiles;
};

/* Tiles that stand in the source as the kernel reads them, the last one filled up. */
static void copy_out(const struct bd_step *step, const struct bd_worker *worker, struct chunk chunk) {
    size_t mr = (size_t)step->kernel->mr, pixel = step->tiled.row_bytes, first = chunk.tiles.first * mr;
    size_t count = chunk.tiles.end - chunk.tiles.first, left = bd_pixels(step->out) - first;
    size_t room = count * mr * pixel, bytes = left * pixel < room ? left * pixel : room;
    unsigned char *tiles = worker->scratch[BD_TILES];
    memcpy(tiles, step->tiled.source + first * pixel, bytes);
    memset(tiles + bytes, 0, room - bytes);
    memset(worker->scratch[BD_PADDED], 0, count * sizeof(uint32_t));
}

/* What the tiles of a chunk read. */
static void lay_out(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                    struct chunk chunk, bd_tile_function *lay_out_tile) {
    if (step->tiled.copies) {
        copy_out(step, worker, chunk);
        return;
    }
    const unsigned char *source = step->tiled.source + chunk.group * step->tiled.group_bytes;
    unsigned char *tile = worker->scratch[BD_TILES];
    struct bd_padding *padding = worker->scratch[BD_PADDING];
    uint32_t *padded = worker->scratch[BD_PADDED];
    size_t mr = (size_t)step->kernel->mr, left = bd_pixels(step->out) - chunk.tiles.first * mr;
    struct bd_cursor at = bd_cursor_at(step, chunk.tiles.first * mr);
    for (size_t i = chunk.tiles.first; i < chunk.tiles.end; i++, left -= mr) {
        *padded++ = lay_out_tile(step, source, model->shared[BD_ZEROS], at, left < mr ? left : mr, tile, padding);
        advance(step, &at, mr);
        tile += step->tiled.tile_bytes;
        padding += (size_t)step->tiled.taps * mr;
    }
}

/* Some tiles of a chunk by one block of filters of its group, a strip at a time. */
static void run_block(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                      struct chunk chunk, struct bd_range tiles, size_t column,
                      const struct bd_convolution *convolution) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, rows = (size_t)step->tiled.taps * mr;
    size_t of_group = (size_t)(step->tiled.filters / step->tiled.groups), pixels = bd_pixels(step->out);
    size_t begin = column * nr, left = of_group - begin, block = chunk.group * step->tiled.blocks + column;
    struct bd_strip strip = {.tile_bytes = step->tiled.tile_bytes,
                             .weights = convolution->weights(step, worker, block),
                             .block = block,
                             .first_filter = chunk.group * of_group + begin,
                             .filters = left < nr ? left : nr,
                             .sums = worker->scratch[BD_SUMS],
                             .stride = nr};
    for (size_t tile = tiles.first; tile < tiles.end; tile += strip.count) {
        size_t i = tile - chunk.tiles.first;
        strip.count = tiles.end - tile < step->tiled.strip ? tiles.end - tile : step->tiled.strip;
        strip.tiles = (const unsigned char *)worker->scratch[BD_TILES] + i * strip.tile_bytes;
        strip.padding = (const struct bd_padding *)worker->scratch[BD_PADDING] + i * rows;
        strip.padded = (const uint32_t *)worker->scratch[BD_PADDED] + i;
        strip.first_pixel = tile * mr;
        strip.pixels = pixels - strip.first_pixel < strip.count * mr ? pixels - strip.first_pixel : strip.count * mr;
        convolution->strip(model, step, &strip);
    }
}

/* Fewer tiles than these are not worth reading all weights for. */
enum { FEW_TILES = 4 };

/* For each chunk of pixels and each group: the tiles, then for each block of filters all of them, so that the block's
 * weights are read from the first-level cache. Filters go up as they do in the output, whose bits need that. */
static void divide_pixels(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                          const struct bd_convolution *convolution) {
    size_t tiles = tiles_of(step), groups = (size_t)step->tiled.groups;
    for (struct bd_range claim; claim = bd_claim(worker, tiles, FEW_TILES), claim.first < claim.end;)
        for (size_t first = claim.first; first < claim.end; first += step->tiled.chunk)
            for (size_t group = 0; group < groups; group++) {
                struct chunk chunk = {group, {first, first + step->tiled.chunk}};
                if (chunk.tiles.end > claim.end)
                    chunk.tiles.end = claim.end;
                lay_out(model, step, worker, chunk, convolution->tile);
                for (size_t column = 0; column < step->tiled.blocks; column++)
                    run_block(model, step, worker, chunk, chunk.tiles, column, convolution);
            }
}

/* Blocks of filters that no two threads may divide: those of one word, of an output of bits. */
static size_t blocks_together(const struct bd_step *step) {
    size_t nr = (size_t)step->kernel->nr;
    if (step->out->type != BD_BITS)
        return 1;
    return 64 % nr == 0 ? 64 / nr : step->tiled.blocks;
}

/* Of a small map each thread lays out all tiles, once, and claims some of them for some of the filters. */
static void divide_filters(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                           const struct bd_convolution *convolution) {
    size_t tiles = tiles_of(step), blocks = step->tiled.blocks, together = blocks_together(step);
    size_t columns = (blocks + together - 1) / together;
    struct chunk chunk = {0, {0, tiles}};
    lay_out(model, step, worker, chunk, convolution->tile);
    for (struct bd_range claim; claim = bd_claim(worker, columns * tiles, FEW_TILES), claim.first < claim.end;)
        for (size_t item = claim.first, column = item / tiles; item < claim.end; item = ++column * tiles) {
            struct bd_range some = {item % tiles, tiles};
            if (claim.end < (column + 1) * tiles)
                some.end = claim.end % tiles;
            for (size_t block = column * together; block < (column + 1) * together && block < blocks; block++)
                run_block(model, step, worker, chunk, some, block, convolution);
        }
}

/* Pixels are divided where each thread finds some to claim, again and again, or where not all fit into one chunk. */
void bd_convolve(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                 const struct bd_convolution *convolution) {
    enum { CLAIMS = 4 };
    size_t tiles = tiles_of(step), enough = worker->count * FEW_TILES * CLAIMS;
    if (worker->count == 1 || tiles >= enough || tiles > step->tiled.chunk || step->tiled.groups > 1)
        divide_pixels(model, step, worker, convolution);
    else
        divide_filters(model, step, worker, convolution);
}

const void *bd_block_weights(const struct bd_step *step, const struct bd_worker *worker, size_t block) {
    (void)worker;
    return step->tiled.weights + block * step->tiled.block_bytes;
}

float *bd_floats_at(const struct bd_step *step, const struct bd_tensor *tensor, const struct bd_strip *strip) {
    if (tensor == NULL)
        return NULL;
    return (float *)tensor->data + strip->first_pixel * (size_t)step->tiled.filters + strip->first_filter;
}
