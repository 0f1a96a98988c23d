/* Operands that are read with steps of their own. */
#ifndef BD_OPS_MATMUL_H
#define BD_OPS_MATMUL_H

#include "parameters.h"

/* So far apart, or so many, may elements of one axis be: no sum of such products leaves 64 bits. */
enum { BD_MAX_STEP = 1 << 24 };

/* Whether every element first + i_0 * steps[0] + ..., i_j < counts[j], is one of the tensor's floats. */
int bd_check_steps(const struct bd_step *step, const struct bd_tensor *tensor, int32_t first, const int32_t *counts,
                   const int32_t *steps, int axes, char *error);

#endif
