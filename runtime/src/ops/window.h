#ifndef BD_OPS_WINDOW_H
#define BD_OPS_WINDOW_H

#include "../executor.h"

/* Whether kernel, strides, pads and dilations of the node are possible and lead from its input's height and width to
 * its output's: out = floor((in + pads - dilation * (kernel - 1) - 1) / stride) + 1. Fills step->window.
 * `dilations` are the node's, or {1, 1} for a pool. */
int bd_check_window(struct bd_step *step, const int32_t dilations[2], char *error);

#endif
