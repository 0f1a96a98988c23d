/* What layers make of a strip of sums: maps by filter, a clamp, a residual, a rectifier.
 *
 *   y = clamp(scale * sum + bias + residual), or where there is a rectifier
 *   y = (s < 0 ? slope * s : s) + after,  s = (clamp(scale * sum + bias) + residual) + before
 *
 * A rectifier is one vector [3 F]: slopes, what is added before, what is added after. Where there is a scale to round
 * by, what is written are the integers clamp(round(y / scale), -128, 127); then there is no residual. */
#ifndef BD_OPS_MAPS_H
#define BD_OPS_MAPS_H

#include "convolution.h"

/* Whether input `index` is absent or a rectifier. */
int bd_check_rectifier(const struct bd_step *step, int index, char *error);

/* Whether the scale to round by is absent, or one of a layer that can. */
int bd_check_rounding(const struct bd_step *step, char *error);

/* Writes y of a strip of integers. */
void bd_map_integers(const struct bd_step *step, const struct bd_strip *strip, const float *scale, const float *bias);

/* Writes y of a strip of floats, the scale being 1 where it is NULL. */
void bd_map_floats(const struct bd_step *step, const struct bd_strip *strip, const float *scale, const float *bias,
                   float minimum, float maximum);

/* Rectifies, with the residual, what a step has mapped and written of all channels of some pixels. */
void bd_rectify(const struct bd_step *step, size_t first_pixel, size_t pixels);

#endif
