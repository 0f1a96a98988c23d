/* One layer, run by the runtime's own executor: a plan of a few nodes for each size of picture that comes.
 *
 *   convolution, pool   to_nhwc, (binarize), the op, (unpack), to_nchw      of one image [C, H, W]
 *   linear              (binarize), the op, (unpack)                        of rows [rows, C], as a picture 1 x rows
 *
 * Threads run side by side: each takes a loaded plan that no other one has, and gives it back. */
#ifndef BD_ORT_LAYER_H
#define BD_ORT_LAYER_H

#include <pthread.h>

#include "../include/bindeploy.h"
#include "plan.h"

enum bd_geometry { BD_CONVOLUTION, BD_LINEAR, BD_POOL };

enum { BD_CONSTANTS = 4, BD_LARGEST_SIZE = 1 << 24 };

/* What all layers of one operator share. `constants` are the inputs after x, 0 where there is none. */
struct bd_layer_kind {
    const char *name;
    enum bd_geometry geometry;
    enum bd_opcode op;
    enum bd_type reads, writes; /* BD_BITS or BD_F32 */
    enum bd_type constants[BD_CONSTANTS];
};

struct bd_constant {
    uint32_t shape[4];  /* as the plan has it */
    int channels_first; /* how it lies in the ONNX file */
    const void *data;
};

/* A plan that is loaded for pictures of one size. */
struct bd_loaded {
    struct bd_loaded *next;
    uint32_t height, width;
    void *plan;
    bd_model *model;
};

struct bd_layer {
    const struct bd_layer_kind *kind;
    char *name;
    uint32_t channels, filters; /* of x, of y */
    int32_t kernel[2], strides[2], pads[4], dilations[2];
    int32_t group, pad_value;
    pthread_mutex_t lock; /* of `idle` */
    struct bd_loaded *idle;
};

/* The size of y along an axis for `size` of x; 0 where the window does not fit. */
uint32_t bd_layer_output(const struct bd_layer *layer, int axis, uint32_t size);

/* Makes the plan of pictures of this size ready, so that a wrong layer is found out before it runs; a plan that is not
 * to be kept is only tried. A linear layer's picture is 1 x rows. Here and below 0 is returned, or 1 with one line in
 * error[BD_ERROR_BYTES], and `constants` are read where a plan is made. */
int bd_layer_prepare(struct bd_layer *layer, const struct bd_constant *constants, uint32_t height, uint32_t width,
                     int keep, char *error);

/* `count` pictures [C, height, width], one after the other. */
int bd_layer_run_pictures(struct bd_layer *layer, const struct bd_constant *constants, size_t count, uint32_t height,
                          uint32_t width, const float *x, float *y, char *error);

/* `rows` rows [C] of a linear layer. */
int bd_layer_run_rows(struct bd_layer *layer, const struct bd_constant *constants, size_t rows, const float *x,
                      float *y, char *error);

void bd_layer_close(struct bd_layer *layer);

#endif
