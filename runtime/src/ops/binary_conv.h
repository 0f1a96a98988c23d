/* What layers of bits do alike, whatever their sums are: what they accept, and what becomes of the integers. */
#ifndef BD_OPS_BINARY_CONV_H
#define BD_OPS_BINARY_CONV_H

#include "convolution.h"

int bd_check_binary_conv(struct bd_step *step, char *error);
int bd_check_binary_conv_threshold(struct bd_step *step, char *error);

/* The directions of the thresholds, as bits. */
void bd_prepare_flips(struct bd_model *model, struct bd_step *step);

/* A strip's integers, shown to an observer, become floats or bits. */
bd_strip_function bd_sums_to_floats, bd_sums_to_bits;

#endif
