/* Parameters that several ops share, and what is true of them once a plan is loaded. */
#ifndef BD_OPS_PARAMETERS_H
#define BD_OPS_PARAMETERS_H

#include "../executor.h"

/* Whether input `index` is a vector of `length` elements. */
int bd_check_vector(const struct bd_step *step, int index, int length, char *error);

/* Whether it is one whose elements, i8, are the directions +1 and -1. */
int bd_check_directions(const struct bd_step *step, int index, int length, char *error);

/* Whether minimum <= maximum; neither is NaN then. */
int bd_check_clamp(const struct bd_step *step, char *error);

/* Whether the output has the shape of the input. */
int bd_check_same_shape(const struct bd_step *step, const struct bd_tensor *input, char *error);

/* Whether input and output are as many channels. */
int bd_check_same_channels(const struct bd_step *step, char *error);

/* Bit i of the ceil(count / 64) words is 1 where directions[i] is -1; bits from `count` on are 0. */
void bd_pack_directions(size_t count, const int8_t *directions, uint64_t *words);

#endif
