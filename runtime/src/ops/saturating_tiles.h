/* What a convolution with sums of 8 bits prepares. Its words have 32 bits and begin anew at each tap, since sums
 * saturate after each of them: no bits of two taps share a word, and the last word of a tap may have fewer channels. */
#ifndef BD_OPS_SATURATING_TILES_H
#define BD_OPS_SATURATING_TILES_H

#include "convolution.h"

/* Takes memory for what follows and, where there is some, fills it: weights in blocks, and how many channels each word
 * has. */
void bd_prepare_saturating(struct bd_model *model, struct bd_step *step);

/* Copies the input with its padding, each word of a pixel, twice, into a plane of its own. */
void bd_lay_doubled_planes(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker);

/* Tiles of doubled words, [word][MR]. Padding is listed tap by tap, where it adds nothing; else it is +1 and of no
 * interest. */
bd_tile_function bd_pack_doubled_words;

/* Words of a tap, of one group. */
static inline size_t bd_half_words(const struct bd_step *step) {
    return ((size_t)step->tiled.channels + 31) / 32;
}

#endif
