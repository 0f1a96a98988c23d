/* Convolutions of 8-bit integers by tiles, where this CPU has an igemm: what the pixels of a tile see is copied as rows
 * [MR][tap][C / group] of bytes, each as q + 128 and each row filled up to a multiple of four. */
#ifndef BD_OPS_INT8_TILES_H
#define BD_OPS_INT8_TILES_H

#include "convolution.h"

/* Takes memory for integers, tiles and weights; weights are input 1. */
void bd_prepare_int8_tiles(struct bd_model *model, struct bd_step *step);

/* The integers of this worker's share of the input; input 2 is their scale. */
void bd_quantize_tiles(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker);

bd_tile_function bd_copy_windows;

/* The sums of one strip. */
void bd_multiply_int8(const struct bd_step *step, const struct bd_strip *strip);

#endif
