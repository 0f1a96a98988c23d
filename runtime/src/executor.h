/* What a plan becomes when it is loaded: tensors with addresses, and steps that read and write them.
 *
 *   load.c      the plan's bytes -> tensors and steps, everything checked
 *   executor.c  one allocation, kernels chosen, weights tiled; then bd_run walks the steps, with all threads in step
 *   ops/        one bd_operator an opcode: what it accepts, what it prepares, what it computes */
#ifndef BD_EXECUTOR_H
#define BD_EXECUTOR_H

#include "../include/bindeploy.h"
#include "kernel.h"
#include "model.h"
#include "threads.h"

#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "plans are little endian and are read in place"
#endif

enum { BD_MAX_INPUTS = 8, BD_ALIGNMENT = 64, BD_NEVER = INT_MAX };

struct bd_tensor {
    enum bd_type type;
    enum bd_place place;
    int shape[4];
    const char *name;
    uint64_t offset, bytes;
    int written;   /* the step that writes it, -1 for the plan's input, BD_NEVER for constants */
    int last_read; /* the last step that reads it, the number of steps for the plan's output */
    void *data;    /* in the arena, or in the plan: constants are read, never written */
};

/* A window that slides over [H, W, C]: of a convolution or of a pool. Every product of two fields fits in an int. */
struct bd_window {
    int height, width, channels;
    int out_height, out_width;
    int kernel_height, kernel_width;
    int stride_y, stride_x;
    int pad_top, pad_left;
    int dilation_y, dilation_x;
};

/* A word that a window of bits reads: where it stands from the window's first one, in words; how many bits of a tile's
 * word are filled before, and whether that is full then. */
struct bd_window_word {
    size_t offset;
    uint32_t filled, fills;
};

/* What a convolution finds ready when it runs; NULL where it has no need. */
struct bd_tiled {
    int filters, taps;
    int groups, channels;        /* `channels` of one group: all that one filter reads of a pixel */
    size_t blocks;               /* of NR filters of one group, the last one filled up with zero weights */
    size_t row_bytes;            /* from an input pixel to the next one */
    size_t group_bytes;          /* from what one group reads to what the next one reads */
    size_t line_bytes;           /* of bits: from a row of pixels to the next one */
    const unsigned char *source; /* the pixels: the step's input, or its input regrouped, of bits in padded planes */
    unsigned char *weights;      /* [groups][blocks] of block_bytes */
    size_t block_bytes;
    size_t joined;      /* of floats: taps side by side that are one to the kernel, 1 or a row of them */
    size_t pointers;    /* of floats: those of a tile, MR for each tap or row of taps */
    ptrdiff_t *offsets; /* [taps][MR]: bytes from a tile's first row, of its first pixel and tap, to each of its rows */
    struct bd_window_word *window_words; /* of bits: [taps][words of a group] */
    int8_t *depths;                      /* of sums of 8 bits: [taps][words of a group], the channels of each word */
    size_t tile_bytes;                   /* what the kernel reads of MR pixels */
    size_t words;                        /* of bits: what one pixel or filter has in a tile, all its taps */
    int copies;                          /* whether tiles are the pixels of the source in order, without padding */
    int edges;                           /* whether words are accumulated for a kernel of edges */
    const struct bd_kernel *arrange;     /* what is then done to a tile; NULL: nothing */
    int32_t *tap_sums;                   /* [groups][blocks][taps][NR]: the dot product of a tap with +1 everywhere */
    uint64_t *flips;                     /* [ceil(filters / 64)]: a filter whose comparison is negated has bit 1 */
    size_t chunk;                        /* tiles of pixels that are laid out at once */
    size_t strip;                        /* tiles of pixels whose sums are transformed at once */
};

struct bd_step {
    const struct bd_operator *op;
    const struct bd_plan_node *node;
    const char *name;
    const struct bd_tensor *in[BD_MAX_INPUTS]; /* NULL where absent */
    const struct bd_tensor *out;
    const struct bd_kernel *kernel;    /* NULL where the op has none */
    const struct bd_kernel *tables;    /* what the kernel looks sums up in; NULL where it multiplies */
    const struct bd_kernel *transform; /* of the kernel's tile into the output; NULL where the op has none */
    const struct bd_kernel *fused;     /* both at once, for the same tiles; NULL where there is none */
    const struct bd_kernel *after;     /* of the transformed floats; NULL where the op has none */
    const struct bd_kernel *rectify;   /* of what all that has made; NULL where the step has no rectifier */
    const struct bd_kernel *map_prelu; /* of integers, both in one; NULL alike */
    struct bd_window window;
    struct bd_tiled tiled;
    uint64_t macs;
    int alone; /* so small that one thread is as fast as several */
    uint64_t nanoseconds;
};

/* Memory handed out twice over: a first round with base NULL only measures. */
struct bd_room {
    unsigned char *base;
    uint64_t used;
};

/* Used by all steps in turn, since one runs at a time: each has the bytes of the step that needs most. What is shared
 * all threads see, of scratch each has its own. */
enum bd_shared { BD_ZEROS, BD_REGROUPED, BD_OPERAND, BD_SHARED_COUNT };
enum bd_scratch { BD_TILES, BD_PADDING, BD_PADDED, BD_EXPANDED, BD_SUMS, BD_SCRATCH_COUNT };

/* One of the threads that run a step together. */
struct bd_worker {
    size_t index, count;
    atomic_size_t *claimed; /* of the step's work, by all of them */
    void *scratch[BD_SCRATCH_COUNT];
};

/* From `first` on, before `end`. */
struct bd_range {
    size_t first, end;
};

/* What one worker does of `count` things that may be done in any order. */
static inline struct bd_range bd_share_of(const struct bd_worker *worker, size_t count) {
    uint64_t all = count; /* times a thread's number it may be beyond a size_t of 32 bits */
    return (struct bd_range){(size_t)(all * worker->index / worker->count),
                             (size_t)(all * (worker->index + 1) / worker->count)};
}

/* The next of `count` things that nobody does yet; none when all are taken. Large ranges come first and small ones
 * last, none below `least`: threads end together though one core is slower than the other. */
static inline struct bd_range bd_claim(const struct bd_worker *worker, size_t count, size_t least) {
    size_t first = atomic_load_explicit(worker->claimed, memory_order_relaxed), size;
    do {
        size_t left = first < count ? count - first : 0;
        size = worker->count == 1 ? left : left / (2 * worker->count);
        size = size < least ? least : size;
        size = size < left ? size : left;
    } while (size > 0 && !atomic_compare_exchange_weak_explicit(worker->claimed, &first, first + size,
                                                                memory_order_relaxed, memory_order_relaxed));
    return (struct bd_range){first, first + size};
}

struct bd_model {
    struct bd_plan_header header;
    struct bd_tensor *tensors;
    struct bd_step *steps;
    const struct bd_tensor *input, *output;
    void *memory; /* arena, weights, scratch */
    struct bd_room weights, tables;
    uint64_t shared_bytes[BD_SHARED_COUNT];
    void *shared[BD_SHARED_COUNT];
    uint64_t own_bytes[BD_SCRATCH_COUNT]; /* of each worker */
    struct bd_worker *workers;
    atomic_size_t *claimed; /* of each step's work */
    size_t threads;
    struct bd_pool *pool; /* NULL for one thread */
    uint64_t scratch_bytes;
    void *mapping; /* bd_open's */
    size_t mapping_bytes;
    bd_observer *observer;
    void *observer_user;
    int profile;
};

struct bd_operator {
    const char *name;
    enum bd_type in[BD_MAX_INPUTS]; /* 0 where there is none */
    enum bd_type out;
    int constants_from;    /* inputs from this one on are constants, except the residual */
    int optional_from;     /* inputs from this one on may be absent; 0 where none may */
    int residual;          /* the input that is added to the result, of its shape and optional; 0 where none is */
    int rectifier;         /* the input that rectifies the result (ops/maps.h), optional; 0 where none does */
    int rounding;          /* the input whose scale rounds the result to i8 (ops/maps.h), optional; 0 where none does */
    int takes_integers;    /* whether input 0 may be i8 as well, rounded by the layer before */
    const char *kernel_op; /* "bgemm", ... or NULL */
    const char *kernel_out;
    const char *edge_op;      /* in place of kernel_op where its rows are faster; NULL where there is none */
    const char *one_pixel_op; /* in place of kernel_op where the output is one pixel; NULL where there is none */
    const char *depthwise_op; /* in place of kernel_op where each channel is a group of its own; NULL where none is */
    const char *bounded_op;   /* in place of kernel_op where there is an input 1; NULL where there is none */
    const char *lookup_out;   /* in place of both a wgemm or wgemv of this output, where this CPU has one; or NULL */
    const char *tables_out;   /* its tables */
    const char *transform_op; /* "affine", "threshold" or NULL */
    const char *transform_out;
    const char *after_op; /* "faffine" or NULL: of floats to floats */
    /* Whether shapes and constants are right; 0, or 1 with the line in error. Fills window, macs and sizes of tiles. */
    int (*check)(struct bd_step *step, char *error);
    /* Takes memory and, when the room has a base, fills it. NULL where nothing is needed. */
    void (*prepare)(struct bd_model *model, struct bd_step *step);
    /* Each of these is called by all workers of the step at once, and each does its share of the output; all have left
     * `before` when the first enters `run`. `before` may be NULL. */
    void (*before)(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker);
    void (*run)(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker);
};

#define BD_OP(code, name) extern const struct bd_operator bd_operator_##name;
#include "ops.inc"
#undef BD_OP

/* Write one line to error[BD_ERROR_BYTES]; always 1. */
int bd_fail(char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same, after "node `name`: ". */
int bd_fail_at(const struct bd_step *step, char *error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* executor.c: a clock that never goes back. */
uint64_t bd_nanoseconds(void);

/* load.c: whether the tables of the plan can be read at all; then the tables, into a model with room for them. */
int bd_check_header(const void *plan, size_t bytes, char *error);
int bd_read_plan(struct bd_model *model, const void *plan, char *error);

/* executor.c: `bytes` at a multiple of 64, NULL while measuring. */
void *bd_take(struct bd_room *room, uint64_t bytes);
void bd_share(struct bd_model *model, enum bd_shared kind, uint64_t bytes);
void bd_scratch(struct bd_model *model, enum bd_scratch kind, uint64_t bytes);

/* Whether each channel of a convolution is a group of its own with one filter: then no tile is multiplied. */
static inline int bd_is_depthwise(const struct bd_step *step) {
    return step->tiled.groups > 1 && step->tiled.channels == 1 && step->tiled.filters == step->tiled.groups;
}

static inline size_t bd_words(int channels) {
    return ((size_t)channels + 63) / 64;
}

static inline size_t bd_pixels(const struct bd_tensor *tensor) {
    return (size_t)tensor->shape[1] * (size_t)tensor->shape[2];
}

#endif
