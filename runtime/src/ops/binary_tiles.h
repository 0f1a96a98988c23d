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
void bd_regroup(const struct bd_model *model, const struct bd_step *step);

#endif
