#include "slices.h"

#include <string.h>

/* Channels of a code, and the bytes of one table: 16 rows of 64. */
enum { SLICE = BD_SLICE_CHANNELS, CODE = 4, TABLE_BYTES = 16 * 64 };

/* Slices whose sums fit in 16 bits whatever the activations are: an entry is at most 4 * 128. */
enum { SAFE_SLICES = INT16_MAX / (SLICE * 128) };

int bd_has_slices(const struct bd_step *step) {
    return step->tables != NULL && !strcmp(step->tables->op, "slice_tables");
}

size_t bd_slices(const struct bd_step *step) {
    return ((size_t)step->tiled.channels + SLICE - 1) / SLICE;
}

static int sums_floats(const struct bd_step *step) {
    return step->op->tables_out[0] == 'f';
}

/* What the kernel sums of a tile and NR filters, and where its sums end up. */
static size_t sums_bytes(const struct bd_step *step) {
    size_t sums = (size_t)step->kernel->mr * (size_t)step->kernel->nr;
    return sums * (sums_floats(step) ? sizeof(float) : sizeof(int16_t));
}

static size_t out_bytes(const struct bd_step *step) {
    return (size_t)step->kernel->mr * (size_t)step->kernel->nr * sizeof(int32_t);
}

void bd_prepare_slices(struct bd_model *model, struct bd_step *step, uint64_t element, uint64_t block_bytes) {
    bd_prepare_rows(model, step, (uint64_t)step->tiled.channels * element, block_bytes);
    bd_scratch(model, BD_EXPANDED, SLICE / CODE * TABLE_BYTES);
    bd_scratch(model, BD_SUMS, (uint64_t)step->tiled.blocks * (sums_bytes(step) + out_bytes(step)));
}

/* One tile of one group by some blocks of filters: where all of that is. */
struct tile {
    const void *const *rows; /* [tap][MR] */
    void *tables;
    unsigned char *sums, *out; /* [block] */
    const unsigned char *weights;
    size_t filters; /* of the group */
    struct bd_range blocks;
};

static size_t filters_of(const struct bd_step *step, const struct tile *tile, size_t block) {
    size_t nr = (size_t)step->kernel->nr, left = tile->filters - block * nr;
    return left < nr ? left : nr;
}

static void make_tables(const struct bd_step *step, const struct tile *tile, size_t tap, size_t first, size_t some) {
    const void *const *rows = tile->rows + tap * (size_t)step->tables->mr;
    if (sums_floats(step))
        step->tables->run.slice_tables_f32(some, rows, first, tile->tables);
    else
        step->tables->run.slice_tables_i16(some, rows, first, tile->tables);
}

static void add_slice(const struct bd_step *step, const struct tile *tile, size_t slice, size_t some, int last) {
    size_t nr = (size_t)step->kernel->nr, groups = (some + CODE - 1) / CODE;
    for (size_t block = tile->blocks.first; block < tile->blocks.end; block++) {
        const void *codes = tile->weights + block * step->tiled.block_bytes + slice * nr * sizeof(uint32_t);
        void *sums = tile->sums + block * sums_bytes(step), *out = last ? tile->out + block * out_bytes(step) : NULL;
        size_t filters = filters_of(step, tile, block);
        if (sums_floats(step))
            step->kernel->run.slice_sums_f32(filters, groups, tile->tables, codes, sums, out);
        else
            step->kernel->run.slice_sums_i16(filters, groups, tile->tables, codes, sums, out);
    }
}

static void add_slices(const struct bd_step *step, const struct tile *tile) {
    size_t channels = (size_t)step->tiled.channels, taps = (size_t)step->tiled.taps, slice = 0;
    size_t all = taps * bd_slices(step), safe = sums_floats(step) ? all : SAFE_SLICES;
    memset(tile->sums + tile->blocks.first * sums_bytes(step), 0,
           (tile->blocks.end - tile->blocks.first) * sums_bytes(step));
    memset(tile->out + tile->blocks.first * out_bytes(step), 0,
           (tile->blocks.end - tile->blocks.first) * out_bytes(step));
    for (size_t tap = 0; tap < taps; tap++)
        for (size_t first = 0; first < channels; first += SLICE, slice++) {
            size_t some = channels - first < SLICE ? channels - first : SLICE;
            make_tables(step, tile, tap, first, some);
            add_slice(step, tile, slice, some, slice + 1 == all || (slice + 1) % safe == 0);
        }
}

static void finish_tile(const struct bd_model *model, const struct bd_step *step, const struct tile *tile, size_t group,
                        size_t first_pixel, size_t pixels, bd_strip_function *finish) {
    size_t nr = (size_t)step->kernel->nr;
    for (size_t block = tile->blocks.first; block < tile->blocks.end; block++) {
        struct bd_strip strip = {.first_pixel = first_pixel,
                                 .pixels = pixels,
                                 .first_filter = group * tile->filters + block * nr,
                                 .filters = filters_of(step, tile, block),
                                 .sums = tile->out + block * out_bytes(step),
                                 .stride = nr};
        finish(model, step, &strip);
    }
}

static void run_tile(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                     size_t index, struct bd_range blocks, bd_strip_function *finish) {
    const struct bd_tiled *tiled = &step->tiled;
    size_t first = index * (size_t)step->kernel->mr, left = bd_pixels(step->out) - first;
    size_t pixels = left < (size_t)step->kernel->mr ? left : (size_t)step->kernel->mr;
    struct tile tile = {.rows = worker->scratch[BD_TILES],
                        .tables = worker->scratch[BD_EXPANDED],
                        .out = worker->scratch[BD_SUMS],
                        .sums = (unsigned char *)worker->scratch[BD_SUMS] + tiled->blocks * out_bytes(step),
                        .filters = (size_t)(tiled->filters / tiled->groups),
                        .blocks = blocks};
    for (size_t group = 0; group < (size_t)tiled->groups; group++) {
        bd_point_at_rows(step, tiled->source + group * tiled->group_bytes, model->shared[BD_ZEROS],
                         bd_cursor_at(step, first), pixels, worker->scratch[BD_TILES], worker->scratch[BD_PADDING]);
        tile.weights = tiled->weights + group * tiled->blocks * tiled->block_bytes;
        add_slices(step, &tile);
        finish_tile(model, step, &tile, group, first, pixels, finish);
    }
}

/* Where there are few tiles, their filters are divided too, and each part makes its own tables. */
void bd_convolve_slices(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                        bd_strip_function *finish) {
    enum { CLAIMS = 4 };
    size_t mr = (size_t)step->kernel->mr, tiles = (bd_pixels(step->out) + mr - 1) / mr, blocks = step->tiled.blocks;
    size_t parts = tiles >= CLAIMS * worker->count || worker->count == 1 ? 1 : worker->count;
    parts = parts < blocks ? parts : blocks;
    for (struct bd_range claim; claim = bd_claim(worker, tiles * parts, 1), claim.first < claim.end;)
        for (size_t i = claim.first; i < claim.end; i++) {
            size_t part = i % parts;
            struct bd_range some = {blocks * part / parts, blocks * (part + 1) / parts};
            run_tile(model, step, worker, i / parts, some, finish);
        }
}
