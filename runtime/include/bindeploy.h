/* bindeploy: run a plan of a binary network. C11, no dependency, no allocation after bd_load.
 *
 *   bd_model *model;
 *   char error[BD_ERROR_BYTES];
 *   if (bd_open("model.bd", NULL, &model, error)) { puts(error); return 1; }
 *   bd_run(model, image, logits);
 *   bd_close(model);
 *
 * A model is called by one thread at a time, and works with as many of its own as it was asked for; two models are
 * independent. */
#ifndef BINDEPLOY_H
#define BINDEPLOY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BD_API __attribute__((visibility("default")))
enum { BD_ERROR_BYTES = 256 };

typedef struct bd_model bd_model;

/* The library's version, "0.1.0". */
BD_API const char *bd_version(void);

/* The fastest instruction set the kernels use on this CPU: "scalar", "popcnt", "avx2", "avx512", "neon". */
BD_API const char *bd_isa(void);

/* Multiplications of bits a second, by one thread, that this instruction set (NULL: the fastest) could do if nothing
 * were ever loaded: the exclusive or, count and sum of the plain kernel, measured for about 30 ms. 0 where the CPU lacks
 * it. */
BD_API double bd_peak(const char *isa);

/* How to load; zeros mean the best instruction set there is and one thread. Results are the same for any number of
 * threads, bit for bit. */
typedef struct {
    const char *isa; /* the name of an instruction set to hold to, or NULL */
    int threads;
} bd_options;

/* Map the plan at `path` and load it. options: NULL for all zeros.
 * Returns 0, or 1 with one line in error[BD_ERROR_BYTES]. */
BD_API int bd_open(const char *path, const bd_options *options, bd_model **model, char *error);

/* The same from memory: `plan` is 64-byte aligned, is not copied, and must outlive the model. */
BD_API int bd_load(const void *plan, size_t bytes, const bd_options *options, bd_model **model, char *error);

BD_API void bd_close(bd_model *model);

/* One image: input float32 [C,H,W] -> output float32, both as bd_describe says and apart from each other in memory.
 * Cannot fail. */
BD_API void bd_run(bd_model *model, const float *input, float *output);

typedef struct {
    uint32_t input_shape[4]; /* [1, C, H, W], or [1, H, W, C] of a model with channels last */
    uint32_t output_shape[4];
    const char *input_name;
    const char *output_name;
    size_t node_count;
    size_t plan_bytes;    /* the file, mapped read-only */
    size_t arena_bytes;   /* activations */
    size_t weights_bytes; /* weights as tiled for the chosen kernels */
    size_t scratch_bytes; /* indirection buffers and everything else allocated at load */
} bd_description;

BD_API void bd_describe(const bd_model *model, bd_description *description);

typedef struct {
    const char *name;
    const char *op;
    const char *kernel;       /* the row of kernels.inc it runs, or "" */
    uint64_t macs;            /* multiply-accumulates of one image, binary or float; 0 if none */
    uint32_t output_shape[4]; /* [1, H, W, C], except for the model's output */
    uint64_t nanoseconds;     /* of the last bd_run after bd_profile(model, 1) */
} bd_node;

/* Node `index` < node_count, in the order they run. */
BD_API void bd_node_at(const bd_model *model, size_t index, bd_node *node);

/* Time every node of each following run (two clock reads a node). */
BD_API void bd_profile(bd_model *model, int on);

/* Called while an observer is set (runs then take one thread), for some pixels by some filters at a time, until it has seen every integer of every
 * binary convolution once, before scale or threshold: dots[m * stride + n] for output pixels first_pixel + m
 * (row-major) and filters first_filter + n. */
typedef void bd_observer(void *user, size_t node, size_t first_pixel, size_t pixels, size_t first_filter,
                         size_t filters, const int32_t *dots, size_t stride);
BD_API void bd_observe(bd_model *model, bd_observer *observer, void *user);

#ifdef __cplusplus
}
#endif
#endif
