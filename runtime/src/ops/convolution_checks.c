#include "convolution.h"

/* A row of the file holds the bits of one tap in words of 32, all others one element a channel. */
static int row_length(const struct bd_step *step, int channels) {
    return step->in[1]->type == BD_U8 ? (channels + 31) / 32 * 4 : channels;
}

static int check_groups(const struct bd_step *step, char *error) {
    int group = step->node->group, channels = step->in[0]->shape[3], filters = step->in[1]->shape[0];
    if (group < 1 || channels % group != 0 || filters % group != 0)
        return bd_fail_at(step, error, "group is %d, which does not divide %d channels and %d filters", group, channels,
                          filters);
    return 0;
}

/* A padded row of the file: 32-bit words, pad bits 0. */
static int row_is_clean(const unsigned char *row, int channels, int row_bytes) {
    int next = channels / 8;
    if (channels % 8 != 0 && row[next++] >> (channels % 8) != 0)
        return 0;
    for (; next < row_bytes; next++)
        if (row[next] != 0)
            return 0;
    return 1;
}

static int check_pad_bits(const struct bd_step *step, char *error) {
    int channels = step->tiled.channels, row_bytes = step->in[1]->shape[3];
    const unsigned char *row = step->in[1]->data;
    size_t rows = (size_t)step->tiled.filters * (size_t)step->tiled.taps;
    for (size_t i = 0; i < rows; i++, row += row_bytes)
        if (!row_is_clean(row, channels, row_bytes))
            return bd_fail_at(step, error, "weights have a bit beyond channel %d", channels);
    return 0;
}

int bd_check_convolution(struct bd_step *step, char *error) {
    const struct bd_plan_node *node = step->node;
    const int *weights = step->in[1]->shape;
    if (check_groups(step, error))
        return 1;
    if (weights[1] != node->kernel[0] || weights[2] != node->kernel[1])
        return bd_fail_at(step, error, "weights are %dx%d, its kernel %dx%d", weights[1], weights[2], node->kernel[0],
                          node->kernel[1]);
    if (bd_check_window(step, node->dilations, error))
        return 1;
    int channels = step->window.channels / node->group, row = row_length(step, channels);
    if (weights[3] != row)
        return bd_fail_at(step, error, "weights have rows of %d, and %d input channels need %d", weights[3], channels,
                          row);
    if (weights[0] != step->out->shape[3])
        return bd_fail_at(step, error, "weights have %d filters, its output %d channels", weights[0],
                          step->out->shape[3]);
    uint64_t depth = (uint64_t)weights[1] * (uint64_t)weights[2] * (uint64_t)channels;
    if (depth > INT32_MAX / 2)
        return bd_fail_at(step, error, "sums over %llu inputs, which overflows", (unsigned long long)depth);
    step->tiled.filters = weights[0];
    step->tiled.taps = weights[1] * weights[2];
    step->tiled.groups = node->group;
    step->tiled.channels = channels;
    step->macs = (uint64_t)bd_pixels(step->out) * (uint64_t)weights[0] * depth;
    return step->in[1]->type == BD_U8 && check_pad_bits(step, error);
}

int bd_check_residual(const struct bd_step *step, int index, char *error) {
    return step->in[index] != NULL && bd_check_same_shape(step, step->in[index], error);
}
