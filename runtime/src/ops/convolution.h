/* What every convolution shares: indirection instead of im2col, and one loop order.
 *
 * A tile is MR output pixels by NR filters. Its input is a table of pointers rows[tap * MR + pixel], each at the
 * channel row that this pixel reads at this tap, or at a row of zeros where the tap is padding. Nothing is copied. */
#ifndef BD_OPS_CONVOLUTION_H
#define BD_OPS_CONVOLUTION_H

#include "parameters.h"
#include "window.h"

/* A row that is padding. */
struct bd_padding {
    uint32_t tap, pixel;
};

/* One tile as a kernel and what follows it see it. */
struct bd_tile {
    const void **rows;   /* [taps][MR] */
    const void *weights; /* of this block of NR filters, as the kernel wants them */
    const struct bd_padding *padding;
    uint32_t padded; /* how many rows are padding */
    size_t block;
    size_t first_pixel, pixels; /* pixels <= MR; the rows of the others repeat the last one */
    size_t first_filter, filters;
};

/* Runs the kernel on one tile and writes the step's output. */
typedef void bd_tile_function(const struct bd_model *model, const struct bd_step *step, const struct bd_tile *tile);

/* Makes the weights of one block from step->tiled, once for many tiles. */
typedef const void *bd_block_function(const struct bd_model *model, const struct bd_step *step, size_t block);

/* Checks the window, group, channels and filters of a convolution against its weights. `weight_row` is the length that
 * the weights' last axis must have. Fills step->window, macs, and the sizes in step->tiled. */
int bd_check_convolution(struct bd_step *step, int weight_row, char *error);

/* The same for packed weights u8, whose pad bits must be 0. */
int bd_check_packed_convolution(struct bd_step *step, char *error);

/* Takes memory for weights and row pointers; `row_bytes` is one input pixel, `block_bytes` the weights of NR filters.
 */
void bd_prepare_convolution(struct bd_model *model, struct bd_step *step, uint64_t row_bytes, uint64_t block_bytes);

void bd_convolve(const struct bd_model *model, const struct bd_step *step, bd_block_function *block_weights,
                 bd_tile_function *run_tile);

#endif
