/* The order of elements: channels first or last, and the shortcut that crops, strides and pads. */
#include "../executor.h"

#include <string.h>

/* Rows and columns that are transposed together: a cache line of floats either way. */
enum { BLOCK = 16, MAX_SHIFT = 1 << 24 };

typedef float four __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int lanes __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

static int check_permutation(const struct bd_step *step, int channels, int height, int width, char *error) {
    const int *out = step->out->shape;
    if (out[1] != channels || out[2] != height || out[3] != width)
        return bd_fail_at(step, error, "output is [1,%d,%d,%d], and %s makes [1,%d,%d,%d]", out[1], out[2], out[3],
                          step->op->name, channels, height, width);
    return 0;
}

static int check_to_nhwc(struct bd_step *step, char *error) {
    const int *in = step->in[0]->shape;
    return check_permutation(step, in[2], in[3], in[1], error);
}

static int check_to_nchw(struct bd_step *step, char *error) {
    const int *in = step->in[0]->shape;
    return check_permutation(step, in[3], in[1], in[2], error);
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* y[column][row] = x[row][column] of four rows and columns, in registers. */
static void transpose_four(size_t rows, size_t columns, const float *x, float *y) {
    four r[4];
    for (size_t i = 0; i < 4; i++)
        memcpy(&r[i], x + i * columns, sizeof r[i]);
    four low01 = SHUFFLE(r[0], r[1], 0, 4, 1, 5), low23 = SHUFFLE(r[2], r[3], 0, 4, 1, 5);
    four high01 = SHUFFLE(r[0], r[1], 2, 6, 3, 7), high23 = SHUFFLE(r[2], r[3], 2, 6, 3, 7);
    r[0] = SHUFFLE(low01, low23, 0, 1, 4, 5);
    r[1] = SHUFFLE(low01, low23, 2, 3, 6, 7);
    r[2] = SHUFFLE(high01, high23, 0, 1, 4, 5);
    r[3] = SHUFFLE(high01, high23, 2, 3, 6, 7);
    for (size_t j = 0; j < 4; j++)
        memcpy(y + j * rows, &r[j], sizeof r[j]);
}

/* y[column][row] = x[row][column] of a block that may be ragged. */
static void transpose_block(size_t rows, size_t columns, size_t height, size_t width, const float *x, float *y) {
    size_t even_height = height / 4 * 4, even_width = width / 4 * 4;
    for (size_t i = 0; i < even_height; i += 4)
        for (size_t j = 0; j < even_width; j += 4)
            transpose_four(rows, columns, x + i * columns + j, y + j * rows + i);
    for (size_t i = 0; i < height; i++)
        for (size_t j = i < even_height ? even_width : 0; j < width; j++)
            y[j * rows + i] = x[i * columns + j];
}

/* y[column][row] = x[row][column] of this worker's share of blocks, along the longer side. */
static void transpose(size_t rows, size_t columns, const float *restrict x, float *restrict y,
                      const struct bd_worker *worker) {
    struct bd_range down = {0, rows}, along = {0, columns};
    struct bd_range share = bd_share_of(worker, ((rows > columns ? rows : columns) + BLOCK - 1) / BLOCK);
    if (rows > columns)
        down = (struct bd_range){share.first * BLOCK, smaller(share.end * BLOCK, rows)};
    else
        along = (struct bd_range){share.first * BLOCK, smaller(share.end * BLOCK, columns)};
    for (size_t i = down.first; i < down.end; i += BLOCK)
        for (size_t j = along.first; j < along.end; j += BLOCK)
            transpose_block(rows, columns, smaller(BLOCK, rows - i), smaller(BLOCK, columns - j), x + i * columns + j,
                            y + j * rows + i);
}

static void run_to_nhwc(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t channels = (size_t)step->out->shape[3];
    transpose(channels, bd_pixels(step->out), step->in[0]->data, step->out->data, worker);
}

static void run_to_nchw(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t channels = (size_t)step->in[0]->shape[3];
    transpose(bd_pixels(step->in[0]), channels, step->in[0]->data, step->out->data, worker);
}

static int check_crop_pad(struct bd_step *step, char *error) {
    const struct bd_plan_node *node = step->node;
    for (int axis = 0; axis < 2; axis++) {
        if (node->strides[axis] < 1 || node->strides[axis] > MAX_SHIFT)
            return bd_fail_at(step, error, "stride is %d: 1 to %d are possible", node->strides[axis], MAX_SHIFT);
        if (node->pads[axis] < -MAX_SHIFT || node->pads[axis] > MAX_SHIFT)
            return bd_fail_at(step, error, "pad is %d: -%d to %d are possible", node->pads[axis], MAX_SHIFT, MAX_SHIFT);
    }
    if (node->channel_offset < -MAX_SHIFT || node->channel_offset > MAX_SHIFT)
        return bd_fail_at(step, error, "channel_offset is %d: -%d to %d are possible", node->channel_offset, MAX_SHIFT,
                          MAX_SHIFT);
    return 0;
}

/* y[c] = x[c - offset] where there is one, else 0. */
static void shift_channels(const float *x, int in_channels, int offset, float *y, int out_channels) {
    int begin = offset > 0 ? offset : 0, end = in_channels + offset;
    begin = begin < out_channels ? begin : out_channels;
    end = end < out_channels ? end : out_channels;
    end = end > begin ? end : begin;
    memset(y, 0, (size_t)begin * sizeof *y);
    if (end > begin)
        memcpy(y + begin, x + (begin - offset), (size_t)(end - begin) * sizeof *y);
    memset(y + end, 0, (size_t)(out_channels - end) * sizeof *y);
}

static void run_crop_pad(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    const struct bd_plan_node *node = step->node;
    const int *in = step->in[0]->shape, *out = step->out->shape;
    const float *x = step->in[0]->data;
    struct bd_range rows = bd_share_of(worker, (size_t)out[1]);
    float *y = (float *)step->out->data + rows.first * (size_t)out[2] * (size_t)out[3];
    for (int row = (int)rows.first; row < (int)rows.end; row++)
        for (int column = 0; column < out[2]; column++, y += out[3]) {
            int64_t in_y = (int64_t)row * node->strides[0] - node->pads[0];
            int64_t in_x = (int64_t)column * node->strides[1] - node->pads[1];
            if (in_y < 0 || in_y >= in[1] || in_x < 0 || in_x >= in[2])
                memset(y, 0, (size_t)out[3] * sizeof *y);
            else
                shift_channels(x + ((size_t)in_y * (size_t)in[2] + (size_t)in_x) * (size_t)in[3], in[3],
                               node->channel_offset, y, out[3]);
        }
}

const struct bd_operator bd_operator_to_nhwc = {
    .name = "to_nhwc", .in = {BD_F32}, .out = BD_F32, .constants_from = 1, .check = check_to_nhwc, .run = run_to_nhwc};

const struct bd_operator bd_operator_to_nchw = {
    .name = "to_nchw", .in = {BD_F32}, .out = BD_F32, .constants_from = 1, .check = check_to_nchw, .run = run_to_nchw};

const struct bd_operator bd_operator_crop_pad = {.name = "crop_pad",
                                                 .in = {BD_F32},
                                                 .out = BD_F32,
                                                 .constants_from = 1,
                                                 .check = check_crop_pad,
                                                 .run = run_crop_pad};
