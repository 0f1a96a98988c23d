/* libFuzzer's mutations of plans, made to get past the loader's first lines: fields of nodes and tensors instead of
 * bytes, and afterwards, most times, sizes and offsets that fit the shapes again. */
#include "../src/executor.h"

#include <string.h>

enum { WORD = 4, MOST_BYTES = 1 << 16 };

static const uint32_t opcodes[] = {
#define BD_OP(code, name) code,
#include "../src/ops.inc"
#undef BD_OP
};

static uint32_t random_state;

static uint32_t below(uint32_t count) {
    random_state = random_state * 1664525u + 1013904223u;
    return count == 0 ? 0 : (random_state >> 8) % count;
}

/* The tables of a plan that has them whole; tensors and nodes are copied, since the bytes are aligned to nothing. */
struct plan {
    unsigned char *bytes;
    size_t size;
    struct bd_plan_header header;
};

static size_t tensor_at(uint32_t index) {
    return sizeof(struct bd_plan_header) + index * sizeof(struct bd_plan_tensor);
}

static size_t node_at(const struct plan *plan, uint32_t index) {
    return tensor_at(plan->header.tensor_count) + index * sizeof(struct bd_plan_node);
}

static size_t constants_at(const struct plan *plan) {
    size_t end = node_at(plan, plan->header.node_count) + plan->header.names_bytes;
    return (end + BD_ALIGNMENT - 1) / BD_ALIGNMENT * BD_ALIGNMENT;
}

static int read_plan(struct plan *plan) {
    const uint32_t most = 4096;
    if (plan->size < sizeof plan->header)
        return 0;
    memcpy(&plan->header, plan->bytes, sizeof plan->header);
    const struct bd_plan_header *header = &plan->header;
    return header->tensor_count > 0 && header->tensor_count < most && header->node_count > 0 &&
           header->node_count < most && header->names_bytes < plan->size && constants_at(plan) <= plan->size;
}

static uint32_t changed(uint32_t value) {
    static const uint32_t extremes[] = {0,          1,          2,          3,         16,         63,
                                        64,         65,         4096,       1u << 24,  0x7f800000, 0x7fc00000,
                                        0x7fffffff, 0x80000000, 0xff800000, 0xffffffff};
    switch (below(4)) {
    case 0:
        return value + 1;
    case 1:
        return value - 1;
    case 2:
        return value ^ 1u << below(32);
    default:
        return extremes[below(sizeof extremes / sizeof *extremes)];
    }
}

/* One word of a row of `row_bytes`; now and then it becomes that of another row. */
static void change_row(struct plan *plan, size_t rows, uint32_t count, size_t row_bytes) {
    size_t field = below((uint32_t)(row_bytes / WORD)) * WORD;
    unsigned char *at = plan->bytes + rows + below(count) * row_bytes + field;
    uint32_t value;
    memcpy(&value, below(4) == 0 ? plan->bytes + rows + below(count) * row_bytes + field : at, WORD);
    value = below(2) ? changed(value) : value;
    memcpy(at, &value, WORD);
}

/* An extent becomes another one wherever it occurs: the height of one picture is that of its neighbours. */
static void change_extent(struct plan *plan) {
    struct bd_plan_tensor tensor;
    memcpy(&tensor, plan->bytes + tensor_at(below(plan->header.tensor_count)), sizeof tensor);
    uint32_t from = tensor.shape[below(4)], to = below(3) ? 1 + below(70) : changed(from);
    for (uint32_t i = 0; i < plan->header.tensor_count; i++) {
        memcpy(&tensor, plan->bytes + tensor_at(i), sizeof tensor);
        for (int axis = 0; axis < 4; axis++)
            if (tensor.shape[axis] == from && below(8) > 0)
                tensor.shape[axis] = to;
        memcpy(plan->bytes + tensor_at(i), &tensor, sizeof tensor);
    }
}

static void change_wiring(struct plan *plan) {
    struct bd_plan_node node;
    unsigned char *at = plan->bytes + node_at(plan, below(plan->header.node_count));
    memcpy(&node, at, sizeof node);
    uint32_t tensor = below(8) ? below(plan->header.tensor_count) : BD_NONE, which = below(BD_MAX_INPUTS + 2);
    if (which < BD_MAX_INPUTS)
        node.inputs[which] = tensor;
    else if (which == BD_MAX_INPUTS)
        node.output = tensor;
    else
        node.op = opcodes[below(sizeof opcodes / sizeof *opcodes)];
    memcpy(at, &node, sizeof node);
}

/* Anywhere in the file or the arena, and some way beyond the end. */
static void change_offset(struct plan *plan) {
    struct bd_plan_tensor tensor;
    unsigned char *at = plan->bytes + tensor_at(below(plan->header.tensor_count));
    memcpy(&tensor, at, sizeof tensor);
    uint64_t end = tensor.place == BD_ARENA ? plan->header.arena_bytes : plan->size;
    tensor.offset = (uint64_t)below((uint32_t)(end / BD_ALIGNMENT) + 2) * BD_ALIGNMENT;
    memcpy(at, &tensor, sizeof tensor);
}

static void change_constant(struct plan *plan) {
    size_t first = constants_at(plan), words = (plan->size - first) / WORD;
    if (words == 0)
        return;
    unsigned char *at = plan->bytes + first + below((uint32_t)words) * WORD;
    uint32_t value;
    memcpy(&value, at, WORD);
    value = changed(value);
    memcpy(at, &value, WORD);
}

static uint64_t needed_bytes(const struct bd_plan_tensor *tensor) {
    uint64_t pixels = 1;
    for (int axis = 0; axis < 3; axis++)
        pixels = tensor->shape[axis] > MOST_BYTES ? MOST_BYTES + 1 : pixels * tensor->shape[axis] % (1u << 24);
    uint64_t channels = tensor->shape[3], of_four = tensor->type == BD_F32 || tensor->type == BD_I32;
    return tensor->type == BD_BITS ? pixels * ((channels + 63) / 64) * 8 : pixels * channels * (of_four ? 4 : 1);
}

/* Sizes as the shapes say; activations one after the other, or now and then over each other; most constants that
 * left the file at its first one. */
static void refit(struct plan *plan) {
    uint64_t used = 0, overlapping = below(8) == 0;
    for (uint32_t i = 0; i < plan->header.tensor_count; i++) {
        struct bd_plan_tensor tensor;
        memcpy(&tensor, plan->bytes + tensor_at(i), sizeof tensor);
        tensor.bytes = needed_bytes(&tensor);
        if (tensor.place == BD_ARENA) {
            tensor.offset = overlapping ? below(64) * BD_ALIGNMENT : used;
            uint64_t end = (tensor.offset + tensor.bytes + BD_ALIGNMENT - 1) / BD_ALIGNMENT * BD_ALIGNMENT;
            used = end > used ? end : used;
        } else if (below(4) > 0 && (tensor.offset > plan->size || tensor.bytes > plan->size - tensor.offset)) {
            tensor.offset = constants_at(plan);
        }
        memcpy(plan->bytes + tensor_at(i), &tensor, sizeof tensor);
    }
    plan->header.arena_bytes = used;
    memcpy(plan->bytes, &plan->header, sizeof plan->header);
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    struct plan plan = {data, size, {0}};
    random_state = seed;
    if (!read_plan(&plan) || below(16) == 0)
        return LLVMFuzzerMutate(data, size, most);
    const struct bd_plan_header *header = &plan.header;
    for (uint32_t count = 1 + below(3); count > 0; count--)
        switch (below(7)) {
        case 0:
            change_row(&plan, tensor_at(0), header->tensor_count, sizeof(struct bd_plan_tensor));
            break;
        case 1:
            change_row(&plan, node_at(&plan, 0), header->node_count, sizeof(struct bd_plan_node));
            break;
        case 2:
            change_extent(&plan);
            break;
        case 3:
            change_wiring(&plan);
            break;
        case 4:
            change_constant(&plan);
            break;
        case 5:
            change_offset(&plan);
            return size;
        default:
            change_row(&plan, 0, 1, sizeof *header);
            if (!read_plan(&plan))
                return size;
        }
    if (below(8) > 0)
        refit(&plan);
    return size;
}
