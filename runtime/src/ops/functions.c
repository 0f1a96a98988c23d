/* Functions of each float alone. */
#include "parameters.h"

static int check_function(struct bd_step *step, char *error) {
    return bd_check_same_shape(step, step->in[0], error);
}

static void map(const struct bd_step *step, const struct bd_worker *worker, enum bd_function function) {
    struct bd_range share = bd_share_of(worker, (size_t)(step->out->bytes / sizeof(float)));
    step->kernel->run.map_f32(function, share.end - share.first, (const float *)step->in[0]->data + share.first,
                              (float *)step->out->data + share.first);
}

#define FUNCTION(op, function)                                                                                         \
    static void run_##op(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {   \
        (void)model;                                                                                                   \
        map(step, worker, function);                                                                                   \
    }                                                                                                                  \
    const struct bd_operator bd_operator_##op = {.name = #op,                                                          \
                                                 .in = {BD_F32},                                                       \
                                                 .out = BD_F32,                                                        \
                                                 .constants_from = 1,                                                  \
                                                 .kernel_op = "map",                                                   \
                                                 .kernel_out = "f32",                                                  \
                                                 .check = check_function,                                              \
                                                 .run = run_##op};

FUNCTION(gelu, BD_GELU)
FUNCTION(gelu_tanh, BD_GELU_TANH)
FUNCTION(silu, BD_SILU)
FUNCTION(hard_swish, BD_HARD_SWISH)
FUNCTION(sigmoid, BD_SIGMOID)
FUNCTION(tanh, BD_TANH)
FUNCTION(erf, BD_ERF)
