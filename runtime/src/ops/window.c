#include "window.h"

/* Far above any network, and its square fits in an int. */
enum { MAX_SIZE = 4096 };

static int check_range(const struct bd_step *step, const char *what, int value, int low, int high, char *error) {
    if (value < low || value > high)
        return bd_fail_at(step, error, "%s is %d: %d to %d are possible", what, value, low, high);
    return 0;
}

/* axis 0 is y, 1 is x. */
static int check_axis(const struct bd_step *step, int axis, int dilation, char *error) {
    const struct bd_plan_node *node = step->node;
    int kernel = node->kernel[axis], stride = node->strides[axis], most = MAX_SIZE;
    if (check_range(step, "kernel", kernel, 1, MAX_SIZE, error) ||
        check_range(step, "stride", stride, 1, MAX_SIZE, error) ||
        check_range(step, "dilation", dilation, 1, MAX_SIZE, error))
        return 1;
    most = kernel * dilation > most ? kernel * dilation : most;
    if (check_range(step, "pad", node->pads[axis], 0, most, error) ||
        check_range(step, "pad", node->pads[axis + 2], 0, most, error))
        return 1;
    const char *extent = axis == 0 ? "height" : "width";
    int in = step->in[0]->shape[1 + axis], out = step->out->shape[1 + axis];
    int room = in + node->pads[axis] + node->pads[axis + 2] - dilation * (kernel - 1) - 1;
    if (room < 0)
        return bd_fail_at(step, error, "its window is larger than its padded input of %s %d", extent, in);
    if (out != room / stride + 1)
        return bd_fail_at(step, error, "output has %s %d, its window makes %d", extent, out, room / stride + 1);
    return 0;
}

int bd_check_window(struct bd_step *step, const int32_t dilations[2], char *error) {
    if (check_axis(step, 0, dilations[0], error) || check_axis(step, 1, dilations[1], error))
        return 1;
    const struct bd_plan_node *node = step->node;
    step->window = (struct bd_window){.height = step->in[0]->shape[1],
                                      .width = step->in[0]->shape[2],
                                      .channels = step->in[0]->shape[3],
                                      .out_height = step->out->shape[1],
                                      .out_width = step->out->shape[2],
                                      .kernel_height = node->kernel[0],
                                      .kernel_width = node->kernel[1],
                                      .stride_y = node->strides[0],
                                      .stride_x = node->strides[1],
                                      .pad_top = node->pads[0],
                                      .pad_left = node->pads[1],
                                      .dilation_y = dilations[0],
                                      .dilation_x = dilations[1]};
    return 0;
}
