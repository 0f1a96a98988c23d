#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "../src/crc32.h"

static uint64_t aligned(uint64_t bytes) {
    return (bytes + BD_PLAN_ALIGNMENT - 1) / BD_PLAN_ALIGNMENT * BD_PLAN_ALIGNMENT;
}

static uint64_t bytes_of(enum bd_type type, const uint32_t shape[4]) {
    uint64_t pixels = (uint64_t)shape[0] * shape[1] * shape[2];
    if (type == BD_BITS)
        return pixels * ((shape[3] + 63) / 64) * 8;
    return pixels * shape[3] * (type == BD_F32 || type == BD_I32 ? 4 : 1);
}

static uint32_t add_tensor(struct bd_plan_writer *plan, enum bd_type type, const uint32_t shape[4], const void *data) {
    struct bd_plan_tensor *tensor = &plan->tensors[plan->tensor_count];
    *tensor = (struct bd_plan_tensor){.type = type, .place = data == NULL ? BD_ARENA : BD_CONSTANT};
    memcpy(tensor->shape, shape, sizeof tensor->shape);
    tensor->bytes = bytes_of(type, shape);
    plan->constants[plan->tensor_count] = data;
    return plan->tensor_count++;
}

static uint32_t add_activation(struct bd_plan_writer *plan, enum bd_type type, struct bd_extent extent) {
    const uint32_t shape[4] = {1, extent.sizes[0], extent.sizes[1], extent.sizes[2]};
    return plan->last = add_tensor(plan, type, shape, NULL);
}

void bd_plan_begin(struct bd_plan_writer *plan, const char *name, struct bd_extent input) {
    *plan = (struct bd_plan_writer){.name = name};
    add_activation(plan, BD_F32, input);
}

uint32_t bd_plan_constant(struct bd_plan_writer *plan, enum bd_type type, const uint32_t shape[4], const void *data,
                          int channels_first) {
    plan->channels_first[plan->tensor_count] = channels_first;
    return add_tensor(plan, type, shape, data);
}

struct bd_plan_node *bd_plan_node(struct bd_plan_writer *plan, enum bd_opcode op, enum bd_type type,
                                  struct bd_extent output) {
    struct bd_plan_node *node = &plan->nodes[plan->node_count++];
    *node = (struct bd_plan_node){.op = op};
    for (size_t i = 0; i < sizeof node->inputs / sizeof *node->inputs; i++)
        node->inputs[i] = i == 0 ? plan->last : BD_NONE;
    node->output = add_activation(plan, type, output);
    return node;
}

/* A node reads one activation and writes the next, so two places, taken in turns, hold them all. */
static uint64_t place_activations(struct bd_plan_writer *plan) {
    uint64_t room[2] = {0, 0};
    int turn = 0;
    for (uint32_t i = 0; i < plan->tensor_count; i++)
        if (plan->constants[i] == NULL) {
            room[turn] = room[turn] < plan->tensors[i].bytes ? plan->tensors[i].bytes : room[turn];
            turn = !turn;
        }
    turn = 0;
    for (uint32_t i = 0; i < plan->tensor_count; i++)
        if (plan->constants[i] == NULL) {
            plan->tensors[i].offset = turn ? aligned(room[0]) : 0;
            turn = !turn;
        }
    return aligned(room[0]) + aligned(room[1]);
}

static uint64_t place_constants(struct bd_plan_writer *plan, uint64_t first) {
    uint64_t end = first;
    for (uint32_t i = 0; i < plan->tensor_count; i++)
        if (plan->constants[i] != NULL) {
            plan->tensors[i].offset = end;
            end += aligned(plan->tensors[i].bytes);
        }
    return end;
}

static unsigned char *append(unsigned char *to, const void *from, size_t bytes) {
    memcpy(to, from, bytes);
    return to + bytes;
}

/* [F, C, taps] -> [F, taps, C] of single bytes. */
static void channels_last(const uint32_t shape[4], const unsigned char *from, unsigned char *to) {
    size_t taps = (size_t)shape[1] * shape[2], channels = shape[3];
    for (size_t filter = 0; filter < shape[0]; filter++, from += taps * channels, to += taps * channels)
        for (size_t tap = 0; tap < taps; tap++)
            for (size_t c = 0; c < channels; c++)
                to[tap * channels + c] = from[c * taps + tap];
}

static void copy_constant(const struct bd_plan_writer *plan, uint32_t index, unsigned char *to) {
    const struct bd_plan_tensor *tensor = &plan->tensors[index];
    if (plan->channels_first[index])
        channels_last(tensor->shape, plan->constants[index], to);
    else
        memcpy(to, plan->constants[index], (size_t)tensor->bytes);
}

void *bd_plan_end(struct bd_plan_writer *plan, size_t *bytes) {
    size_t tensors = plan->tensor_count * sizeof *plan->tensors, nodes = plan->node_count * sizeof *plan->nodes;
    size_t name = strlen(plan->name) + 1;
    uint64_t arena = place_activations(plan);
    uint64_t end = place_constants(plan, aligned(sizeof(struct bd_plan_header) + tensors + nodes + name));
    struct bd_plan_header header = {.version = BD_PLAN_VERSION,
                                    .file_bytes = end,
                                    .arena_bytes = arena,
                                    .tensor_count = plan->tensor_count,
                                    .node_count = plan->node_count,
                                    .input = 0,
                                    .output = plan->last,
                                    .names_bytes = (uint32_t)name};
    memcpy(header.magic, BD_PLAN_MAGIC, sizeof header.magic);
    unsigned char *written = end <= SIZE_MAX / 2 ? aligned_alloc(BD_PLAN_ALIGNMENT, (size_t)end) : NULL;
    if (written == NULL)
        return NULL;
    memset(written, 0, (size_t)end);
    unsigned char *next = append(written + sizeof header, plan->tensors, tensors);
    append(append(next, plan->nodes, nodes), plan->name, name);
    for (uint32_t i = 0; i < plan->tensor_count; i++)
        if (plan->constants[i] != NULL)
            copy_constant(plan, i, written + plan->tensors[i].offset);
    header.checksum = bd_crc32(written + sizeof header, (size_t)end - sizeof header);
    memcpy(written, &header, sizeof header);
    *bytes = (size_t)end;
    return written;
}
