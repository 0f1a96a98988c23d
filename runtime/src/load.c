/* Checks a plan and reads its tables. Nothing in the bytes is believed before it was compared with their number:
 * afterwards every index is inside its table, every tensor inside the file or the arena, and every shape agrees with
 * the op that reads it. */
#include "crc32.h"
#include "executor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Far above any network, and low enough that no product of two of them leaves 64 bits. */
enum { MAX_NODES = 4096, MAX_TENSORS = 16384, MAX_EXTENT = 1 << 24 };
static const uint64_t MAX_ARENA_BYTES = (uint64_t)1 << 32;

static const struct bd_operator *const operators[] = {
#define BD_OP(code, name) [code] = &bd_operator_##name,
#include "ops.inc"
#undef BD_OP
};

int bd_fail(char *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, BD_ERROR_BYTES, format, arguments);
    va_end(arguments);
    return 1;
}

int bd_fail_at(const struct bd_step *step, char *error, const char *format, ...) {
    int used = snprintf(error, BD_ERROR_BYTES, "node `%.100s`: ", step->name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error + used, (size_t)(BD_ERROR_BYTES - used), format, arguments);
    va_end(arguments);
    return 1;
}

static uint64_t tables_bytes(const struct bd_plan_header *header) {
    return sizeof *header + (uint64_t)header->tensor_count * sizeof(struct bd_plan_tensor) +
           (uint64_t)header->node_count * sizeof(struct bd_plan_node) + header->names_bytes;
}

int bd_check_header(const void *plan, size_t bytes, char *error) {
    struct bd_plan_header header;
    if (bytes < sizeof header)
        return bd_fail(error, "not a plan: %zu bytes, and a plan's header alone has %zu", bytes, sizeof header);
    memcpy(&header, plan, sizeof header);
    if (memcmp(header.magic, BD_PLAN_MAGIC, sizeof header.magic) != 0)
        return bd_fail(error, "not a plan: it does not begin with BDPLAN");
    if (header.version != BD_PLAN_VERSION)
        return bd_fail(error, "plan of version %u, and this library reads version %u: emit it again", header.version,
                       BD_PLAN_VERSION);
    if (header.file_bytes != bytes)
        return bd_fail(error, "plan of %llu bytes, of which %zu are here: copy it again",
                       (unsigned long long)header.file_bytes, bytes);
    if ((uintptr_t)plan % BD_ALIGNMENT != 0)
        return bd_fail(error, "plan at an address that is no multiple of %d: align it", BD_ALIGNMENT);
    if (bd_crc32((const char *)plan + sizeof header, bytes - sizeof header) != header.checksum)
        return bd_fail(error, "plan is damaged: its checksum does not match, copy it again");
    if (header.node_count == 0 || header.node_count > MAX_NODES)
        return bd_fail(error, "plan has %u nodes: 1 to %d are possible", header.node_count, MAX_NODES);
    if (header.tensor_count == 0 || header.tensor_count > MAX_TENSORS)
        return bd_fail(error, "plan has %u tensors: 1 to %d are possible", header.tensor_count, MAX_TENSORS);
    if (header.input_rank > 4 || header.output_rank > 4)
        return bd_fail(error, "plan has ends of %u and %u axes: up to 4 are possible", header.input_rank,
                       header.output_rank);
    if (header.names_bytes == 0 || tables_bytes(&header) > bytes)
        return bd_fail(error, "plan's tables do not fit in its %zu bytes", bytes);
    if (header.arena_bytes > MAX_ARENA_BYTES || header.arena_bytes > SIZE_MAX / 2)
        return bd_fail(error, "plan needs an arena of %llu bytes: too much", (unsigned long long)header.arena_bytes);
    return 0;
}

/* A name can be printed in one line: it ends inside the table and has no control character. */
static int check_names(const char *names, uint32_t bytes, char *error) {
    if (names[bytes - 1] != 0)
        return bd_fail(error, "plan's last name has no end");
    for (uint32_t i = 0; i < bytes; i++)
        if ((names[i] > 0 && names[i] < ' ') || names[i] == 127)
            return bd_fail(error, "plan's names have a control character at byte %u", i);
    return 0;
}

/* Bytes that `shape` needs, 0 if the type is unknown or an extent is out of bounds. */
static uint64_t needed_bytes(uint32_t type, const uint32_t shape[4]) {
    for (int i = 0; i < 4; i++)
        if (shape[i] == 0 || shape[i] > MAX_EXTENT)
            return 0;
    uint64_t pixels = (uint64_t)shape[0] * shape[1];
    if (pixels > MAX_ARENA_BYTES || pixels * shape[2] > MAX_ARENA_BYTES)
        return 0;
    pixels *= shape[2];
    switch (type) {
    case BD_F32:
    case BD_I32:
        return pixels * shape[3] * 4;
    case BD_U8:
    case BD_I8:
        return pixels * shape[3];
    case BD_BITS:
        return pixels * bd_words((int)shape[3]) * 8;
    default:
        return 0;
    }
}

static int read_tensor(struct bd_tensor *tensor, const struct bd_plan_header *header, const struct bd_plan_tensor *row,
                       const char *names, char *error) {
    if (row->name >= header->names_bytes)
        return bd_fail(error, "a tensor's name lies outside the plan's names");
    const char *name = names + row->name;
    if (row->place != BD_ARENA && row->place != BD_CONSTANT)
        return bd_fail(error, "tensor `%.100s`: place %u is unknown", name, row->place);
    uint64_t needed = needed_bytes(row->type, row->shape);
    if (needed == 0)
        return bd_fail(error, "tensor `%.100s`: type %u of shape [%u,%u,%u,%u] is impossible", name, row->type,
                       row->shape[0], row->shape[1], row->shape[2], row->shape[3]);
    if (row->bytes != needed)
        return bd_fail(error, "tensor `%.100s`: %llu bytes, and its shape needs %llu", name,
                       (unsigned long long)row->bytes, (unsigned long long)needed);
    uint64_t first = row->place == BD_ARENA ? 0 : tables_bytes(header);
    uint64_t limit = row->place == BD_ARENA ? header->arena_bytes : header->file_bytes;
    if (row->offset % BD_ALIGNMENT != 0)
        return bd_fail(error, "tensor `%.100s`: offset %llu is no multiple of %d", name,
                       (unsigned long long)row->offset, BD_ALIGNMENT);
    if (row->offset < first || row->offset > limit || needed > limit - row->offset)
        return bd_fail(error, "tensor `%.100s`: offset %llu lies outside the %s", name, (unsigned long long)row->offset,
                       row->place == BD_ARENA ? "arena" : "file");
    tensor->type = (enum bd_type)row->type;
    tensor->place = (enum bd_place)row->place;
    for (int i = 0; i < 4; i++)
        tensor->shape[i] = (int)row->shape[i];
    tensor->name = name;
    tensor->offset = row->offset;
    tensor->bytes = needed;
    tensor->written = BD_NEVER;
    tensor->last_read = -1;
    return 0;
}

static const char *type_name(enum bd_type type) {
    static const char *const names[] = {
        [BD_F32] = "f32", [BD_I32] = "i32", [BD_U8] = "u8", [BD_I8] = "i8", [BD_BITS] = "bits"};
    return names[type];
}

/* Inputs of node `index`: in the table, of the op's types, parameters constant, activations written before. */
static int read_inputs(struct bd_step *step, struct bd_model *model, int index, char *error) {
    for (int i = 0; i < BD_MAX_INPUTS; i++) {
        uint32_t input = step->node->inputs[i];
        int optional = step->op->optional_from > 0 && i >= step->op->optional_from;
        if (step->op->in[i] == 0 && input != BD_NONE)
            return bd_fail_at(step, error, "input %d is one too many for %s", i, step->op->name);
        if (step->op->in[i] == 0 || (optional && input == BD_NONE))
            continue;
        if (input >= model->header.tensor_count)
            return bd_fail_at(step, error, "input %d of %s is missing", i, step->op->name);
        struct bd_tensor *tensor = &model->tensors[input];
        int integers = i == 0 && step->op->takes_integers && tensor->type == BD_I8;
        if (tensor->type != step->op->in[i] && !integers)
            return bd_fail_at(step, error, "input `%.60s` is %s, and %s needs %s", tensor->name,
                              type_name(tensor->type), step->op->name, type_name(step->op->in[i]));
        int residual = step->op->residual > 0 && i == step->op->residual;
        if (i >= step->op->constants_from && !residual && tensor->place != BD_CONSTANT)
            return bd_fail_at(step, error, "input `%.60s` is no constant", tensor->name);
        if (tensor->place == BD_ARENA && tensor->written >= index)
            return bd_fail_at(step, error, "input `%.60s` is read before it is written", tensor->name);
        tensor->last_read = index;
        step->in[i] = tensor;
    }
    return 0;
}

static int read_output(struct bd_step *step, struct bd_model *model, int index, char *error) {
    if (step->node->output >= model->header.tensor_count)
        return bd_fail_at(step, error, "its output is missing");
    struct bd_tensor *tensor = &model->tensors[step->node->output];
    int rounds = step->op->rounding > 0 && step->in[step->op->rounding] != NULL;
    enum bd_type wanted = rounds ? BD_I8 : step->op->out;
    if (tensor->type != wanted)
        return bd_fail_at(step, error, "output `%.60s` is %s, and %s writes %s", tensor->name, type_name(tensor->type),
                          step->op->name, type_name(wanted));
    if (tensor->place != BD_ARENA)
        return bd_fail_at(step, error, "output `%.60s` is a constant", tensor->name);
    if (tensor->written != BD_NEVER)
        return bd_fail_at(step, error, "output `%.60s` is written twice", tensor->name);
    if (step->in[0]->shape[0] != 1 || tensor->shape[0] != 1)
        return bd_fail_at(step, error, "a plan holds one image: shapes begin with 1");
    tensor->written = index;
    step->out = tensor;
    return 0;
}

static int read_node(struct bd_model *model, int index, const struct bd_plan_node *node, const char *names,
                     char *error) {
    struct bd_step *step = &model->steps[index];
    if (node->name >= model->header.names_bytes)
        return bd_fail(error, "a node's name lies outside the plan's names");
    step->node = node;
    step->name = names + node->name;
    if (node->op >= sizeof operators / sizeof *operators || operators[node->op] == NULL)
        return bd_fail_at(step, error, "opcode %u is unknown: this library is older than the plan", node->op);
    step->op = operators[node->op];
    return read_inputs(step, model, index, error) || read_output(step, model, index, error) ||
           step->op->check(step, error);
}

static int overlap(const struct bd_tensor *a, const struct bd_tensor *b) {
    return a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

/* What a step writes covers no byte that it or a later step reads from a tensor written before. */
static int check_overlaps(const struct bd_model *model, char *error) {
    for (int i = 0; i < (int)model->header.node_count; i++) {
        const struct bd_step *step = &model->steps[i];
        for (uint32_t t = 0; t < model->header.tensor_count; t++) {
            const struct bd_tensor *tensor = &model->tensors[t];
            int needed = tensor->place == BD_ARENA && tensor->written < i && tensor->last_read >= i;
            if (needed && overlap(step->out, tensor))
                return bd_fail_at(step, error, "output `%.60s` overlaps `%.60s`, which is still needed",
                                  step->out->name, tensor->name);
        }
    }
    return 0;
}

static struct bd_tensor *endpoint(struct bd_model *model, uint32_t index) {
    if (index >= model->header.tensor_count)
        return NULL;
    struct bd_tensor *tensor = &model->tensors[index];
    int possible = tensor->type == BD_F32 && tensor->place == BD_ARENA && tensor->shape[0] == 1;
    return possible ? tensor : NULL;
}

int bd_read_plan(struct bd_model *model, const void *plan, char *error) {
    const struct bd_plan_header *header = &model->header;
    const struct bd_plan_tensor *tensors =
        (const struct bd_plan_tensor *)((const unsigned char *)plan + sizeof *header);
    const struct bd_plan_node *nodes = (const struct bd_plan_node *)(tensors + header->tensor_count);
    const char *names = (const char *)(nodes + header->node_count);
    if (check_names(names, header->names_bytes, error))
        return 1;
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        if (read_tensor(&model->tensors[i], header, &tensors[i], names, error))
            return 1;
        if (tensors[i].place == BD_CONSTANT)
            model->tensors[i].data = (void *)((uintptr_t)plan + (uintptr_t)tensors[i].offset);
    }
    struct bd_tensor *input = endpoint(model, header->input);
    struct bd_tensor *output = endpoint(model, header->output);
    if (input == NULL || output == NULL)
        return bd_fail(error, "plan's %s is no f32 activation of one image", input == NULL ? "input" : "output");
    input->written = -1;
    for (uint32_t i = 0; i < header->node_count; i++)
        if (read_node(model, (int)i, &nodes[i], names, error))
            return 1;
    if (output->written < 0 || output->written == BD_NEVER)
        return bd_fail(error, "plan's output `%.100s` is written by no node", output->name);
    output->last_read = (int)header->node_count;
    model->input = input;
    model->output = output;
    return check_overlaps(model, error);
}
