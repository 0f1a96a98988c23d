/* Convolutions of which each channel is a group of its own with one filter: sums channel by channel, no tiles. */
#ifndef BD_OPS_DEPTHWISE_H
#define BD_OPS_DEPTHWISE_H

#include "convolution.h"

/* Takes memory for weights [tap][channel]; the caller fills the weights. */
void bd_prepare_depthwise_floats(struct bd_model *model, struct bd_step *step);

/* The same of bits, [channel][tap] in the file, the lowest bit of each row, -> bits [tap][word]. */
void bd_prepare_depthwise_bits(struct bd_model *model, struct bd_step *step);

/* y of the sums as in maps.h, no scale where it is NULL. Padding adds nothing. */
void bd_convolve_depthwise_floats(const struct bd_model *model, const struct bd_step *step,
                                  const struct bd_worker *worker, const float *scale, const float *bias);

/* Hands the integers of each output pixel over all taps to `finish`, all channels of a few pixels at a time. Padding
 * adds what the node's pad_value says. */
void bd_convolve_depthwise_bits(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_worker *worker, bd_strip_function *finish);

#endif
