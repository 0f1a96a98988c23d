/* What convolutions of floats share, whatever form their weights have. */
#ifndef BD_OPS_FLOAT_CONV_H
#define BD_OPS_FLOAT_CONV_H

#include "convolution.h"

/* What one group reads of an input pixel. */
static inline size_t bd_float_group_bytes(const struct bd_step *step) {
    return (size_t)step->tiled.channels * sizeof(float);
}

/* The sums of one strip. */
void bd_multiply_floats(const struct bd_step *step, const struct bd_strip *strip);

#endif
