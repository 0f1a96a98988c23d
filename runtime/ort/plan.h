/* A plan of a few nodes in a row, written in memory: what emit/plan.py does for a file, for one layer. */
#ifndef BD_ORT_PLAN_H
#define BD_ORT_PLAN_H

#include <stddef.h>

#include "../src/model.h"

enum bd_opcode {
#define BD_OP(code, name) BD_OP_##name = code,
#include "../src/ops.inc"
#undef BD_OP
};

enum { BD_PLAN_TENSORS = 16, BD_PLAN_NODES = 8, BD_PLAN_ALIGNMENT = 64 };

struct bd_plan_writer {
    const char *name; /* of every node and tensor: it is what an error calls them */
    uint32_t tensor_count, node_count, last;
    struct bd_plan_tensor tensors[BD_PLAN_TENSORS];
    const void *constants[BD_PLAN_TENSORS]; /* NULL for activations */
    int channels_first[BD_PLAN_TENSORS];    /* whether a constant lies as [F, C, KH, KW] */
    struct bd_plan_node nodes[BD_PLAN_NODES];
};

/* [1, height, width, channels]; of the plan's ends that are pictures [1, C, H, W]. */
struct bd_extent {
    uint32_t sizes[3];
};

/* Begins a plan whose input is a float activation of this extent. */
void bd_plan_begin(struct bd_plan_writer *plan, const char *name, struct bd_extent input);

/* Adds a constant of this shape, which must stay where it is until bd_plan_end, and returns its number. Weights that
 * lie `channels_first`, as [F, C, KH, KW], are written as the [F, KH, KW, C] of their shape. */
uint32_t bd_plan_constant(struct bd_plan_writer *plan, enum bd_type type, const uint32_t shape[4], const void *data,
                          int channels_first);

/* Adds a node that reads the last activation and writes the next one; the caller fills in what else it needs. */
struct bd_plan_node *bd_plan_node(struct bd_plan_writer *plan, enum bd_opcode op, enum bd_type type,
                                  struct bd_extent output);

/* The plan's bytes, whose output is the last activation; free() them. NULL where there is no memory. */
void *bd_plan_end(struct bd_plan_writer *plan, size_t *bytes);

#endif
