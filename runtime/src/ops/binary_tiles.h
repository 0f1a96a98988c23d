/* What a convolution of bits prepares: weights in the order its loops read them, and inputs whose groups begin at
 * words.
 */
#ifndef BD_OPS_BINARY_TILES_H
#define BD_OPS_BINARY_TILES_H

#include "convolution.h"

/* Takes memory for what follows and, where there is some, fills it: weights in blocks and the sums of their taps, or
 * channel by channel for a depthwise convolution. */
void bd_prepare_bits(struct bd_model *model, struct bd_step *step);

/* Copies the input, where need be, so that each group of channels begins at a word. */
void bd_regroup(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker);

/* Each row [columns] of a matrix of words becomes the exclusive or of all rows up to it. */
static inline void bd_accumulate_edges(size_t rows, size_t columns, uint64_t *words) {
    for (size_t i = columns; i < rows * columns; i++)
        words[i] ^= words[i - columns];
}

#endif
