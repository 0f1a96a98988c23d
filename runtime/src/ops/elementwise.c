/* Element by element: affine maps and rectifiers, with parameters by channel or by element; sums, clamps. */
#include "../affine.h"
#include "parameters.h"

static size_t elements(const struct bd_tensor *tensor) {
    return (size_t)(tensor->bytes / sizeof(float));
}

/* Inputs 1 to `last`, where they are there, are vectors of one length: the channels, or all elements of the picture. */
static int check_parameters(struct bd_step *step, int last, char *error) {
    int length = step->in[1]->shape[0], channels = step->in[0]->shape[3];
    if (length < 1 || (size_t)length != elements(step->in[0]))
        length = channels;
    for (int i = 1; i <= last; i++)
        if (step->in[i] != NULL && bd_check_vector(step, i, length, error))
            return 1;
    return bd_check_same_shape(step, step->in[0], error) || bd_check_clamp(step, error);
}

static int check_affine(struct bd_step *step, char *error) {
    return check_parameters(step, 2, error);
}

static int check_prelu(struct bd_step *step, char *error) {
    return check_parameters(step, 3, error);
}

static int check_add(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error) || bd_check_same_shape(step, step->in[1], error) ||
           bd_check_clamp(step, error);
}

static int check_clip(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error) || bd_check_clamp(step, error);
}

/* The row of a parameter or of a picture; NULL of none. */
static const float *from(const struct bd_step *step, int index, size_t first) {
    return step->in[index] == NULL ? NULL : (const float *)step->in[index]->data + first;
}

static void run_affine(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t length = (size_t)step->in[1]->shape[0];
    struct bd_range share = bd_share_of(worker, elements(step->out) / length);
    step->kernel->run.faffine_f32(share.end - share.first, length, from(step, 0, share.first * length), length,
                                  from(step, 1, 0), from(step, 2, 0), NULL, step->node->minimum, step->node->maximum,
                                  (float *)step->out->data + share.first * length, length);
}

static void run_prelu(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    size_t length = (size_t)step->in[1]->shape[0];
    struct bd_range share = bd_share_of(worker, elements(step->out) / length);
    step->kernel->run.fprelu_f32(share.end - share.first, length, from(step, 0, share.first * length), length, NULL,
                                 from(step, 1, 0), from(step, 2, 0), from(step, 3, 0), step->node->minimum,
                                 step->node->maximum, (float *)step->out->data + share.first * length, length);
}

static void run_add(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    struct bd_range share = bd_share_of(worker, elements(step->out));
    size_t count = share.end - share.first;
    step->kernel->run.faffine_f32(1, count, from(step, 0, share.first), count, NULL, from(step, 1, share.first), NULL,
                                  step->node->minimum, step->node->maximum, (float *)step->out->data + share.first,
                                  count);
}

static void run_clip(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    (void)model;
    struct bd_range share = bd_share_of(worker, elements(step->out));
    size_t count = share.end - share.first;
    step->kernel->run.faffine_f32(1, count, from(step, 0, share.first), count, NULL, NULL, NULL, step->node->minimum,
                                  step->node->maximum, (float *)step->out->data + share.first, count);
}

const struct bd_operator bd_operator_affine = {.name = "affine",
                                               .in = {BD_F32, BD_F32, BD_F32},
                                               .out = BD_F32,
                                               .constants_from = 1,
                                               .kernel_op = "faffine",
                                               .kernel_out = "f32",
                                               .check = check_affine,
                                               .run = run_affine};

const struct bd_operator bd_operator_prelu = {.name = "prelu",
                                              .in = {BD_F32, BD_F32, BD_F32, BD_F32},
                                              .out = BD_F32,
                                              .constants_from = 1,
                                              .optional_from = 2,
                                              .kernel_op = "fprelu",
                                              .kernel_out = "f32",
                                              .check = check_prelu,
                                              .run = run_prelu};

const struct bd_operator bd_operator_add = {.name = "add",
                                            .in = {BD_F32, BD_F32},
                                            .out = BD_F32,
                                            .constants_from = 2,
                                            .kernel_op = "faffine",
                                            .kernel_out = "f32",
                                            .check = check_add,
                                            .run = run_add};

const struct bd_operator bd_operator_clip = {.name = "clip",
                                             .in = {BD_F32},
                                             .out = BD_F32,
                                             .constants_from = 1,
                                             .kernel_op = "faffine",
                                             .kernel_out = "f32",
                                             .check = check_clip,
                                             .run = run_clip};
