/* Floats as the 8-bit integers that stand for them: clamp(round(x / scale), -128, 127). NaN reads as -128. */
#ifndef BD_OPS_QUANTIZE_H
#define BD_OPS_QUANTIZE_H

#include "parameters.h"

/* Whether input `index` is one scale, finite and above 0. */
int bd_check_step_size(const struct bd_step *step, int index, char *error);

void bd_quantize(size_t count, const float *x, float scale, int8_t *integers);

/* `count` values of a step's input 0 from `first` on as integers: rounded here, by the scale that is input 2, or by the
 * layer that made them. */
void bd_read_integers(const struct bd_step *step, size_t first, size_t count, int8_t *integers);

/* The same integers as floats. */
void bd_read_integers_as_floats(const struct bd_step *step, size_t first, size_t count, float *integers);

#endif
