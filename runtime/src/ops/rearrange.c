/* Floats in another order: what Transpose, Split or Gather leave, where an operator needs them side by side. */
#include "matmul.h"

#include <string.h>

static const struct bd_rearrange_shape *shape_of(const struct bd_step *step) {
    return step->in[1]->data;
}

static int check_rearrange(struct bd_step *step, char *error) {
    if (bd_check_vector(step, 1, sizeof(struct bd_rearrange_shape) / sizeof(int32_t), error) ||
        bd_check_vector(step, 2, 1, error))
        return 1;
    const struct bd_rearrange_shape *shape = shape_of(step);
    if (bd_check_steps(step, step->in[0], shape->first, shape->sizes, shape->steps, BD_AXES, error))
        return 1;
    uint64_t count = 1;
    for (int axis = 0; axis < BD_AXES && count <= step->out->bytes; axis++)
        count *= (uint64_t)shape->sizes[axis];
    if (count != step->out->bytes / sizeof(float))
        return bd_fail_at(step, error, "%llu elements are not its output of %llu bytes", (unsigned long long)count,
                          (unsigned long long)step->out->bytes);
    return 0;
}

/* `count` elements every `step`. */
static void copy_line(float factor, const float *x, size_t count, size_t step, float *y) {
    if (step == 1 && factor == 1)
        memcpy(y, x, count * sizeof *y);
    else
        for (size_t i = 0; i < count; i++)
            y[i] = factor * x[i * step];
}

/* Lines of the last axis, counted over all others. */
static void run_rearrange(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    const struct bd_rearrange_shape *shape = shape_of(step);
    const float factor = *(const float *)step->in[2]->data, *x = (const float *)step->in[0]->data + shape->first;
    size_t length = (size_t)shape->sizes[BD_AXES - 1];
    float *y = (float *)step->out->data;
    struct bd_range share = bd_share_of(worker, (size_t)(step->out->bytes / sizeof(float)) / length);
    for (size_t line = share.first; line < share.end; line++) {
        size_t left = line, from = 0;
        for (int axis = BD_AXES - 2; axis >= 0; axis--) {
            from += left % (size_t)shape->sizes[axis] * (size_t)shape->steps[axis];
            left /= (size_t)shape->sizes[axis];
        }
        copy_line(factor, x + from, length, (size_t)shape->steps[BD_AXES - 1], y + line * length);
    }
}

const struct bd_operator bd_operator_rearrange = {.name = "rearrange",
                                                  .in = {BD_F32, BD_I32, BD_F32},
                                                  .out = BD_F32,
                                                  .constants_from = 1,
                                                  .check = check_rearrange,
                                                  .run = run_rearrange};
