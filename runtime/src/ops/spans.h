/* How a window slides without padding: every output row is cut into spans of pixels that see the same taps, those
 * inside the input. Between the borders a span is as long as the row. */
#ifndef BD_OPS_SPANS_H
#define BD_OPS_SPANS_H

#include "window.h"

struct bd_span {
    size_t first_pixel, pixels; /* of the output, side by side */
    size_t input;               /* element of the input at the first tap of its first pixel; 0 where it sees no tap */
    size_t tap_y, tap_x;        /* that tap */
    struct bd_taps taps;
};

typedef void bd_span_function(const struct bd_model *model, const struct bd_step *step, const struct bd_span *span,
                              const struct bd_worker *worker, const void *user);

/* A worker's share of the output of step->window; `channels` are the elements of a pixel, floats or words. */
void bd_slide(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker, size_t channels,
              bd_span_function *run, const void *user);

#endif
