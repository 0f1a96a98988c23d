/* Convolutions of which each channel is a group of its own with one filter: sums channel by channel, no tiles. */
#ifndef BD_OPS_DEPTHWISE_H
#define BD_OPS_DEPTHWISE_H

#include "convolution.h"

/* Pixel (y, x) of the input is where the window of one output pixel begins; it may lie in the padding. */
struct bd_corner {
    int y, x;
};

/* The sums of one output pixel over all taps, of `count` channels from `first` on, a multiple of 64. There is room for
 * 64. */
typedef void bd_channel_sums(const struct bd_step *step, struct bd_corner corner, size_t first, size_t count,
                             void *sums);

/* Of floats, with weights [taps][channels]; padding adds nothing. */
bd_channel_sums bd_sum_floats;

/* Of bits, with weights [taps][words]: integers; what padding adds, the node's pad_value says. */
bd_channel_sums bd_sum_bits;

/* Hands the sums of each output pixel and of 64 channels at a time to `finish`, as a strip of one pixel. */
void bd_convolve_depthwise(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                           bd_channel_sums *sum, bd_strip_function *finish);

#endif
