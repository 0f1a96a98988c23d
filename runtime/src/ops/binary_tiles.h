/* What a convolution of bits prepares: weights in the order its loops read them, and inputs whose groups begin at
 * words.
 *
 * In a tile, the bits of all taps stand one after the other without a gap: bit `tap * C + c` of a pixel, or of a
 * filter, is bit (tap * C + c) % 64 of word (tap * C + c) / 64. So 16 channels cost a quarter of 64, not as much. */
#ifndef BD_OPS_BINARY_TILES_H
#define BD_OPS_BINARY_TILES_H

#include "convolution.h"

/* Takes memory for what follows and, where there is some, fills it: weights in blocks and the sums of their taps, or
 * channel by channel for a depthwise convolution. */
void bd_prepare_bits(struct bd_model *model, struct bd_step *step);

/* Copies the input, where need be, with its padding, each word of a pixel into a plane of its own: then no window
 * leaves the picture, pixels side by side are words side by side, and each group of channels begins at a word. */
void bd_lay_planes(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker);

/* Sets bits `first` on of a column of words that are `stride` apart, and still 0 there, to `word`, of which the lowest
 * `count` bits may be set. */
static inline void bd_put_bits(uint64_t word, size_t count, size_t first, size_t stride, uint64_t *column) {
    size_t shift = first % 64;
    column[first / 64 * stride] |= word << shift;
    if (shift != 0 && shift + count > 64)
        column[(first / 64 + 1) * stride] |= word >> (64 - shift);
}

/* Each row [columns] of a matrix of words becomes the exclusive or of all rows up to it. */
static inline void bd_accumulate_edges(size_t rows, size_t columns, uint64_t *words) {
    for (size_t i = columns; i < rows * columns; i++)
        words[i] ^= words[i - columns];
}

#endif
