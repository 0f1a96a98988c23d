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

/* A few tiles of one block of filters, their pixels in a row: enough that what surrounds the kernel's calls is paid
 * for, and few enough that their sums stay in the first-level cache. */
struct bd_strip {
    const void *const *rows; /* [tiles][taps][MR]; where the last tile has no pixel any more, its last one again */
    const void *weights;     /* of this block of NR filters, as the kernel wants them */
    const struct bd_padding *padding; /* [tiles][taps * MR], of which padded[tile] are there */
    const uint32_t *padded;
    size_t tiles, block;
    size_t first_pixel, pixels;
    size_t first_filter, filters;
    void *sums; /* room for [tiles][MR][NR] of four bytes each */
};

/* Runs the kernel on the tiles of a strip and writes the step's output. */
typedef void bd_strip_function(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip);

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
                 bd_strip_function *run_strip);

#endif
