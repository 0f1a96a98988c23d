/* What every convolution shares: groups, indirection instead of im2col, and one loop order.
 *
 * A tile is MR output pixels by NR filters. Its input is a table of pointers rows[tap * MR + pixel], each at the
 * channel row that this pixel reads at this tap, or at a row of zeros where the tap is padding. Nothing is copied.
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

/* A few tiles of one block of filters, their pixels in a row: enough that what surrounds the kernel's calls is paid
 * for, and few enough that their sums stay in the first-level cache. */
struct bd_strip {
    const void *const *rows; /* [tiles][taps][MR]; where the last tile has no pixel any more, its last one again */
    const void *weights;     /* of this block of NR filters, as the kernel wants them */
    const struct bd_padding *padding; /* [tiles][taps * MR], of which padded[tile] are there */
    const uint32_t *padded;
    size_t tiles, block; /* counted over all groups */
    size_t first_pixel, pixels;
    size_t first_filter, filters;
    void *sums;    /* room for [tiles][MR][NR] of four bytes each */
    size_t stride; /* from one pixel's sums to the next one's: NR */
};

/* Runs the kernel on the tiles of a strip and writes the step's output. */
typedef void bd_strip_function(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip);

/* Makes the weights of one block from step->tiled, once for many tiles. */
typedef const void *bd_block_function(const struct bd_model *model, const struct bd_step *step, size_t block);

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

/* Takes memory for weights and row pointers; `group_bytes` are what one group reads of an input pixel, `block_bytes`
 * the weights of NR filters. The pixels are the step's input, all groups side by side. */
void bd_prepare_convolution(struct bd_model *model, struct bd_step *step, uint64_t group_bytes, uint64_t block_bytes);

/* The row of a residual or of an output that begins with the strip's first pixel and filter; NULL of no tensor. */
float *bd_floats_at(const struct bd_step *step, const struct bd_tensor *tensor, const struct bd_strip *strip);

void bd_convolve(const struct bd_model *model, const struct bd_step *step, bd_block_function *block_weights,
                 bd_strip_function *run_strip);

#endif
