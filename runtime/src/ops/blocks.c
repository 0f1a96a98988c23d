/* Floats moved between channels and pixels: several inputs side by side, and blocks of pixels as channels. */
#include "../executor.h"

#include <string.h>

enum { MAX_BLOCK = 4096, CHANNELS_FIRST = 1 };

static int check_concat(struct bd_step *step, char *error) {
    const int *out = step->out->shape;
    int64_t channels = 0;
    for (int i = 0; i < BD_MAX_INPUTS && step->in[i] != NULL; i++) {
        const int *in = step->in[i]->shape;
        if (in[0] != 1 || in[1] != out[1] || in[2] != out[2])
            return bd_fail_at(step, error, "input `%.60s` is [%d,%d,%d,%d], its output [%d,%d,%d,%d]",
                              step->in[i]->name, in[0], in[1], in[2], in[3], out[0], out[1], out[2], out[3]);
        channels += in[3];
    }
    for (int i = 1; i < BD_MAX_INPUTS; i++)
        if (step->in[i] != NULL && step->in[i - 1] == NULL)
            return bd_fail_at(step, error, "input %d is missing before another", i - 1);
    if (channels != out[3])
        return bd_fail_at(step, error, "inputs have %lld channels, its output %d", (long long)channels, out[3]);
    return 0;
}

static void run_concat(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    struct bd_range pixels = bd_share_of(worker, bd_pixels(step->out));
    float *y = (float *)step->out->data + pixels.first * (size_t)step->out->shape[3];
    for (size_t pixel = pixels.first; pixel < pixels.end; pixel++)
        for (int i = 0; i < BD_MAX_INPUTS && step->in[i] != NULL; i++) {
            size_t channels = (size_t)step->in[i]->shape[3];
            memcpy(y, (const float *)step->in[i]->data + pixel * channels, channels * sizeof *y);
            y += channels;
        }
}

/* Whether `wide` is `deep` with blocks of pixels in place of channels. */
static int check_blocks(struct bd_step *step, const int *deep, const int *wide, char *error) {
    const int32_t *block = step->node->kernel;
    for (int axis = 0; axis < 2; axis++)
        if (block[axis] < 1 || block[axis] > MAX_BLOCK)
            return bd_fail_at(step, error, "block is %d: 1 to %d are possible", block[axis], MAX_BLOCK);
    if (step->node->flags & ~(uint32_t)CHANNELS_FIRST)
        return bd_fail_at(step, error, "flags %u are unknown", step->node->flags);
    if ((int64_t)deep[1] * block[0] != wide[1] || (int64_t)deep[2] * block[1] != wide[2] ||
        deep[3] != (int64_t)wide[3] * block[0] * block[1])
        return bd_fail_at(step, error, "[1,%d,%d,%d] and [1,%d,%d,%d] do not fit blocks of %dx%d", deep[1], deep[2],
                          deep[3], wide[1], wide[2], wide[3], block[0], block[1]);
    return 0;
}

static int check_depth_to_space(struct bd_step *step, char *error) {
    return check_blocks(step, step->in[0]->shape, step->out->shape, error);
}

static int check_space_to_depth(struct bd_step *step, char *error) {
    return check_blocks(step, step->out->shape, step->in[0]->shape, error);
}

/* One pixel of the wide picture, and where its channels stand in the deep one: `step` floats apart. */
struct match {
    size_t wide, deep, step;
};

static struct match match_of(const struct bd_plan_node *node, const int *wide, int y, int x) {
    size_t block = (size_t)node->kernel[0] * (size_t)node->kernel[1], channels = (size_t)wide[3];
    size_t place = (size_t)(y % node->kernel[0]) * (size_t)node->kernel[1] + (size_t)(x % node->kernel[1]);
    size_t deep_width = (size_t)(wide[2] / node->kernel[1]);
    size_t deep_pixel = (size_t)(y / node->kernel[0]) * deep_width + (size_t)(x / node->kernel[1]);
    int channels_first = (node->flags & CHANNELS_FIRST) != 0;
    return (struct match){.wide = ((size_t)y * (size_t)wide[2] + (size_t)x) * channels,
                          .deep = deep_pixel * block * channels + (channels_first ? place : place * channels),
                          .step = channels_first ? block : 1};
}

static void run_depth_to_space(const struct bd_model *model, const struct bd_step *step,
                               const struct bd_worker *worker) {
    (void)model;
    const int *wide = step->out->shape;
    const float *x = step->in[0]->data;
    float *y = step->out->data;
    struct bd_range rows = bd_share_of(worker, (size_t)wide[1]);
    for (int row = (int)rows.first; row < (int)rows.end; row++)
        for (int column = 0; column < wide[2]; column++) {
            struct match match = match_of(step->node, wide, row, column);
            for (size_t c = 0; c < (size_t)wide[3]; c++)
                y[match.wide + c] = x[match.deep + c * match.step];
        }
}

static void run_space_to_depth(const struct bd_model *model, const struct bd_step *step,
                               const struct bd_worker *worker) {
    (void)model;
    const int *wide = step->in[0]->shape;
    const float *x = step->in[0]->data;
    float *y = step->out->data;
    struct bd_range rows = bd_share_of(worker, (size_t)wide[1]);
    for (int row = (int)rows.first; row < (int)rows.end; row++)
        for (int column = 0; column < wide[2]; column++) {
            struct match match = match_of(step->node, wide, row, column);
            for (size_t c = 0; c < (size_t)wide[3]; c++)
                y[match.deep + c * match.step] = x[match.wide + c];
        }
}

const struct bd_operator bd_operator_concat = {.name = "concat",
                                               .in = {BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
                                               .out = BD_F32,
                                               .constants_from = BD_MAX_INPUTS,
                                               .optional_from = 2,
                                               .check = check_concat,
                                               .run = run_concat};

const struct bd_operator bd_operator_depth_to_space = {.name = "depth_to_space",
                                                       .in = {BD_F32},
                                                       .out = BD_F32,
                                                       .constants_from = 1,
                                                       .check = check_depth_to_space,
                                                       .run = run_depth_to_space};

const struct bd_operator bd_operator_space_to_depth = {.name = "space_to_depth",
                                                       .in = {BD_F32},
                                                       .out = BD_F32,
                                                       .constants_from = 1,
                                                       .check = check_space_to_depth,
                                                       .run = run_space_to_depth};
