/* What every convolution shares: groups, tiles instead of im2col, one loop order, and how threads divide it.
 *
 * A tile is MR output pixels by NR filters. What its pixels read is laid out once and serves all filters: of floats a
 * table of pointers to channel rows (rows.c), of bits the words themselves (packed_tiles.c), which are no longer than
 * pointers to them. Where a tap is padding, zeros are read.
 *
 * A group is a convolution of its own: its share of each pixel's channels by its share of the filters. No block of
 * filters belongs to two groups. */
#ifndef BD_OPS_CONVOLUTION_H
#define BD_OPS_CONVOLUTION_H

#include "parameters.h"
#include "window.h"

/* A row that is padding. */
struct bd_padding {
    uint32_t tap, pixel;
};

/* Output pixels in row-major order. */
struct bd_cursor {
    int y, x;
};

/* Pixels m to m + pixels of a tile that stand side by side in one output row; y and x are where the first one's window
 * begins in the input, which may be in the padding. */
struct bd_run {
    size_t m, pixels;
    int y, x;
};

/* A few tiles of one block of filters, their pixels in a row: enough that what surrounds the kernel's calls is paid
 * for, and few enough that their sums stay in the first-level cache. */
struct bd_strip {
    const unsigned char *tiles; /* what the kernel reads of the pixels, tile_bytes each */
    size_t tile_bytes;
    const void *weights;              /* of this block of NR filters, as the kernel wants them */
    const struct bd_padding *padding; /* [tiles][taps * MR], of which padded[tile] are there */
    const uint32_t *padded;
    size_t count, block; /* tiles; the block counted over all groups */
    size_t first_pixel, pixels;
    size_t first_filter, filters;
    void *sums;    /* room for [count][MR][NR] of four bytes each */
    size_t stride; /* from one pixel's sums to the next one's: NR */
};

/* Lays out what the `pixels` pixels of one tile from `at` on read of the group that begins at `source`; lists the rows
 * that are padding, which read zeros, and returns how many they are. */
typedef uint32_t bd_tile_function(const struct bd_step *step, const unsigned char *source, const void *zeros,
                                  struct bd_cursor at, size_t pixels, void *tile, struct bd_padding *padding);

/* Makes the weights of one block from step->tiled, once for many tiles. */
typedef const void *bd_block_function(const struct bd_step *step, const struct bd_worker *worker, size_t block);

/* Runs the kernel on the tiles of a strip and writes the step's output. */
typedef void bd_strip_function(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip);

struct bd_convolution {
    bd_tile_function *tile;
    bd_block_function *weights;
    bd_strip_function *strip;
};

/* Output pixel `pixel`. */
struct bd_cursor bd_cursor_at(const struct bd_step *step, size_t pixel);

/* The next run of a tile that begins at pixel m, of at most `pixels` pixels; moves the cursor behind it. */
struct bd_run bd_next_run(const struct bd_step *step, struct bd_cursor *at, size_t m, size_t pixels);

/* The tiles of both kinds. */
bd_tile_function bd_point_at_rows, bd_pack_words;

/* The weights where they lie: of those that are laid out at load as the kernel wants them. */
bd_block_function bd_block_weights;

/* Checks the window, groups, channels and filters of a convolution against its weights [F, KH, KW, C / group], packed
 * where they are u8, whose pad bits must be 0. Fills step->window, macs, and the sizes in step->tiled. */
int bd_check_convolution(struct bd_step *step, char *error);

/* Whether input `index`, the residual, is absent or of the output's shape. */
int bd_check_residual(const struct bd_step *step, int index, char *error);

/* Weights of one filter: its channels times taps. */
static inline size_t bd_depth(const struct bd_step *step) {
    return (size_t)step->tiled.taps * (size_t)step->tiled.channels;
}

/* Where weights of `filter` stand: the block, counted over all groups, and the column in it. */
struct bd_place_of {
    size_t block, column;
};

static inline struct bd_place_of bd_place_of(const struct bd_step *step, size_t filter) {
    size_t of_group = (size_t)(step->tiled.filters / step->tiled.groups), nr = (size_t)step->kernel->nr;
    return (struct bd_place_of){filter / of_group * step->tiled.blocks + filter % of_group / nr,
                                filter % of_group % nr};
}

/* Takes memory for weights and tiles; `group_bytes` are what one group reads of an input pixel, `block_bytes` the
 * weights of NR filters, `tile_bytes` what one tile reads. The pixels are the step's input, all groups side by side. */
void bd_prepare_convolution(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes,
                            uint64_t tile_bytes);

/* The same with tiles of row pointers. */
void bd_prepare_rows(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes);

/* The row of a residual or of an output that begins with the strip's first pixel and filter; NULL of no tensor. */
float *bd_floats_at(const struct bd_step *step, const struct bd_tensor *tensor, const struct bd_strip *strip);

/* This worker's share of the whole convolution. */
void bd_convolve(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                 const struct bd_convolution *convolution);

#endif
