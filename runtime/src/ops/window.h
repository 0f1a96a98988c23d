#ifndef BD_OPS_WINDOW_H
#define BD_OPS_WINDOW_H

#include "../executor.h"

/* Whether kernel, strides, pads and dilations of the node are possible and lead from its input's height and width to
 * its output's: out = floor((in + pads - dilation * (kernel - 1) - 1) / stride) + 1. Fills step->window.
 * `dilations` are the node's, or {1, 1} for a pool. */
int bd_check_window(struct bd_step *step, const int32_t dilations[2], char *error);

/* What the windows reach of the input and its padding, from its upper left corner on. */
struct bd_reach {
    size_t height, width;
};

static inline struct bd_reach bd_reach_of(const struct bd_window *window) {
    int height = (window->out_height - 1) * window->stride_y + (window->kernel_height - 1) * window->dilation_y + 1;
    int width = (window->out_width - 1) * window->stride_x + (window->kernel_width - 1) * window->dilation_x + 1;
    return (struct bd_reach){(size_t)height, (size_t)width};
}

#endif
