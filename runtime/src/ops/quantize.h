/* Floats as the 8-bit integers that stand for them: clamp(round(x / scale), -128, 127). NaN reads as -128. */
#ifndef BD_OPS_QUANTIZE_H
#define BD_OPS_QUANTIZE_H

#include "parameters.h"

/* Whether input `index` is one scale, finite and above 0. */
int bd_check_step_size(const struct bd_step *step, int index, char *error);

void bd_quantize(size_t count, const float *x, float scale, int8_t *integers);

/* The same integers as floats. */
void bd_quantize_floats(size_t count, const float *x, float scale, float *integers);

#endif
