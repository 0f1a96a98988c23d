/* Convolutions with packed +-1 weights by slices: what 32 channels of one tap make of a tile of pixels is tabulated,
 * read by all filters while it is in the first-level cache, and forgotten. */
#ifndef BD_OPS_SLICES_H
#define BD_OPS_SLICES_H

#include "convolution.h"

enum { BD_SLICE_CHANNELS = 32 };

/* Whether this step has kernels of slices. */
int bd_has_slices(const struct bd_step *step);

/* How many slices a tap has. */
size_t bd_slices(const struct bd_step *step);

/* Takes memory; `element` bytes are one channel of the pixels that are read, `block_bytes` the codes of NR filters as
 * words [tap][slice][NR]. */
void bd_prepare_slices(struct bd_model *model, struct bd_step *step, uint64_t element, uint64_t block_bytes);

/* This worker's share; `finish` gets strips of one tile each. */
void bd_convolve_slices(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                        bd_strip_function *finish);

#endif
