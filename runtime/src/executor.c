/* A loaded model: one allocation for everything a run needs, kernels chosen, weights tiled; then the steps in order. */
#define _POSIX_C_SOURCE 200809L

#include "executor.h"
#include "plan_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *bd_version(void) {
    return "0.1.0";
}

static uint64_t aligned(uint64_t bytes) {
    return (bytes + BD_ALIGNMENT - 1) / BD_ALIGNMENT * BD_ALIGNMENT;
}

void *bd_take(struct bd_room *room, uint64_t bytes) {
    void *taken = room->base == NULL ? NULL : room->base + room->used;
    room->used += aligned(bytes);
    return taken;
}

void bd_share(struct bd_model *model, enum bd_shared kind, uint64_t bytes) {
    if (model->shared_bytes[kind] < bytes)
        model->shared_bytes[kind] = bytes;
}

void bd_scratch(struct bd_model *model, enum bd_scratch kind, uint64_t bytes) {
    if (model->own_bytes[kind] < bytes)
        model->own_bytes[kind] = bytes;
}

/* "scalar, avx2": each once, for the rows of one ISA need not stand together. */
static void list_isas(char *list, size_t size) {
    size_t count, used = 0;
    const struct bd_kernel *kernels = bd_kernels(&count);
    list[0] = 0;
    for (size_t i = 0; i < count; i++) {
        int seen = !bd_cpu_has(kernels[i].isa);
        for (size_t j = 0; j < i && !seen; j++)
            seen = strcmp(kernels[j].isa, kernels[i].isa) == 0;
        if (!seen && used < size)
            used += (size_t)snprintf(list + used, size - used, "%s%s", used ? ", " : "", kernels[i].isa);
    }
}

/* Of a matrix, whichever row stands later in the table. */
static const struct bd_kernel *choose_kernel(const struct bd_step *step, const char *isa) {
    const struct bd_operator *op = step->op;
    if (bd_is_depthwise(step))
        return op->depthwise_op == NULL ? NULL : bd_choose(op->depthwise_op, op->kernel_out, isa);
    if (op->bounded_op != NULL && step->in[1] != NULL)
        return bd_choose(op->bounded_op, op->kernel_out, isa);
    int one_pixel = op->one_pixel_op != NULL && bd_pixels(step->out) == 1;
    const struct bd_kernel *plain = bd_choose(one_pixel ? op->one_pixel_op : op->kernel_op, op->kernel_out, isa);
    const struct bd_kernel *edge =
        one_pixel || op->edge_op == NULL ? NULL : bd_choose(op->edge_op, op->kernel_out, isa);
    return edge != NULL && edge > plain ? edge : plain;
}

/* Sums are looked up where the instruction set has rows for that, of many pixels by slices where it has those, and else
 * computed. */
static void choose_multiplication(struct bd_step *step, const char *isa) {
    const struct bd_operator *op = step->op;
    int looks_up = op->lookup_out != NULL && !bd_is_depthwise(step), one_pixel = bd_pixels(step->out) == 1;
    if (looks_up && !one_pixel)
        step->tables = bd_choose("slice_tables", op->tables_out, isa);
    if (step->tables != NULL) {
        step->kernel = bd_choose("slice_sums", op->tables_out, isa);
        return;
    }
    if (looks_up)
        step->tables = bd_choose("tables", op->tables_out, isa);
    if (step->tables != NULL)
        step->kernel = bd_choose(one_pixel ? "wgemv" : "wgemm", op->lookup_out, isa);
    else
        step->kernel = choose_kernel(step, isa);
}

/* Integers that were looked up take the map of integers, though the same op may sum floats elsewhere. */
static const char *transform_of(const struct bd_step *step) {
    int integers = step->kernel != NULL && strcmp(step->kernel->out, "f32") != 0;
    return integers && strcmp(step->op->transform_op, "faffine") == 0 ? "affine" : step->op->transform_op;
}

static int choose_kernels(struct bd_model *model, const char *isa, char *error) {
    if (isa != NULL && bd_choose("bgemm", "i32", isa) == NULL) {
        char known[128];
        list_isas(known, sizeof known);
        return bd_fail(error, "instruction set `%.40s` is unknown or missing here: choose from %s", isa, known);
    }
    for (uint32_t i = 0; i < model->header.node_count; i++) {
        struct bd_step *step = &model->steps[i];
        if (step->op->kernel_op != NULL)
            choose_multiplication(step, isa);
        if (step->op->transform_op != NULL)
            step->transform = bd_choose(transform_of(step), step->op->transform_out, isa);
        if (step->op->after_op != NULL)
            step->after = bd_choose(step->op->after_op, "f32", isa);
        if (step->op->rectifier > 0 && step->in[step->op->rectifier] != NULL) {
            step->rectify = bd_choose("fprelu", "f32", isa);
            step->map_prelu = bd_choose("affine_prelu", "f32", isa);
        }
    }
    return 0;
}

static void prepare_steps(struct bd_model *model) {
    model->weights.used = model->tables.used = 0;
    for (uint32_t i = 0; i < model->header.node_count; i++)
        if (model->steps[i].op->prepare != NULL)
            model->steps[i].op->prepare(model, &model->steps[i]);
}

static uint64_t measure(struct bd_model *model) {
    prepare_steps(model);
    model->scratch_bytes = model->tables.used;
    for (int kind = 0; kind < BD_SHARED_COUNT; kind++)
        model->scratch_bytes += aligned(model->shared_bytes[kind]);
    for (int kind = 0; kind < BD_SCRATCH_COUNT; kind++)
        model->scratch_bytes += model->threads * aligned(model->own_bytes[kind]);
    return aligned(model->header.arena_bytes) + model->weights.used + model->scratch_bytes;
}

/* arena | weights | tables | shared | each worker's scratch */
static void hand_out(struct bd_model *model) {
    unsigned char *next = model->memory;
    for (uint32_t i = 0; i < model->header.tensor_count; i++)
        if (model->tensors[i].place == BD_ARENA)
            model->tensors[i].data = next + model->tensors[i].offset;
    next += aligned(model->header.arena_bytes);
    model->weights.base = next;
    next += model->weights.used;
    model->tables.base = next;
    next += model->tables.used;
    for (int kind = 0; kind < BD_SHARED_COUNT; kind++) {
        model->shared[kind] = next;
        next += aligned(model->shared_bytes[kind]);
    }
    for (size_t i = 0; i < model->threads; i++) {
        model->workers[i] = (struct bd_worker){.index = i, .count = model->threads};
        for (int kind = 0; kind < BD_SCRATCH_COUNT; kind++) {
            model->workers[i].scratch[kind] = next;
            next += aligned(model->own_bytes[kind]);
        }
    }
    memset(model->shared[BD_ZEROS], 0, (size_t)model->shared_bytes[BD_ZEROS]);
    prepare_steps(model);
}

static int allocate(struct bd_model *model, char *error) {
    uint64_t bytes = measure(model);
    if (bytes <= SIZE_MAX / 2)
        model->memory = aligned_alloc(BD_ALIGNMENT, (size_t)bytes);
    if (model->memory == NULL)
        return bd_fail(error, "plan needs %llu bytes of memory, more than there are", (unsigned long long)bytes);
    hand_out(model);
    return 0;
}

/* Small steps cost less than what threads take to meet: about a microsecond, thirty thousand multiply-adds of floats or
 * a million of bits. */
static void find_small_steps(struct bd_model *model) {
    enum { WORTH_MEETING = 1 << 15, BITS = 32 };
    for (uint32_t i = 0; i < model->header.node_count; i++) {
        struct bd_step *step = &model->steps[i];
        int binary = step->in[0]->type == BD_BITS;
        uint64_t bytes = step->in[0]->bytes + step->out->bytes;
        step->alone = bytes / sizeof(float) + step->macs / (binary ? BITS : 1) < WORTH_MEETING;
    }
}

static void run_share(void *context, size_t index);

static int start_threads(struct bd_model *model, char *error) {
    if (model->threads == 1)
        return 0;
    find_small_steps(model);
    model->pool = bd_pool_start(model->threads, run_share, model, error);
    return model->pool == NULL;
}

static int read_options(struct bd_model *model, const bd_options *options, char *error) {
    int threads = options == NULL || options->threads == 0 ? 1 : options->threads;
    if (threads < 1 || threads > BD_MAX_THREADS)
        return bd_fail(error, "%d threads: 1 to %d are possible", threads, BD_MAX_THREADS);
    model->threads = (size_t)threads;
    model->workers = calloc(model->threads, sizeof *model->workers);
    return model->workers == NULL ? bd_fail(error, "no memory for %d threads", threads) : 0;
}

int bd_load(const void *plan, size_t bytes, const bd_options *options, bd_model **model, char *error) {
    const char *isa = options == NULL ? NULL : options->isa;
    *model = NULL;
    if (bd_check_header(plan, bytes, error))
        return 1;
    bd_model *loaded = calloc(1, sizeof *loaded);
    if (loaded == NULL)
        return bd_fail(error, "no memory for a model");
    memcpy(&loaded->header, plan, sizeof loaded->header);
    loaded->tensors = calloc(loaded->header.tensor_count, sizeof *loaded->tensors);
    loaded->steps = calloc(loaded->header.node_count, sizeof *loaded->steps);
    loaded->claimed = calloc(loaded->header.node_count, sizeof *loaded->claimed);
    int failed;
    if (loaded->tensors == NULL || loaded->steps == NULL || loaded->claimed == NULL)
        failed = bd_fail(error, "no memory for the plan's tables");
    else
        failed = read_options(loaded, options, error) || bd_read_plan(loaded, plan, error) ||
                 choose_kernels(loaded, isa, error) || allocate(loaded, error) || start_threads(loaded, error);
    if (failed)
        bd_close(loaded);
    else
        *model = loaded;
    return failed;
}

int bd_open(const char *path, const bd_options *options, bd_model **model, char *error) {
    size_t bytes = 0;
    *model = NULL;
    void *mapping = bd_map_file(path, &bytes, error);
    if (mapping == NULL)
        return 1;
    if (bd_load(mapping, bytes, options, model, error)) {
        bd_unmap_file(mapping, bytes);
        return 1;
    }
    (*model)->mapping = mapping;
    (*model)->mapping_bytes = bytes;
    return 0;
}

void bd_close(bd_model *model) {
    if (model == NULL)
        return;
    bd_pool_stop(model->pool);
    if (model->mapping != NULL)
        bd_unmap_file(model->mapping, model->mapping_bytes);
    free(model->memory);
    free(model->workers);
    free(model->claimed);
    free(model->steps);
    free(model->tensors);
    free(model);
}

uint64_t bd_nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Where more than one thread is in a step, or was in the one before, all threads meet. */
static void meet(const struct bd_model *model, size_t workers) {
    if (workers > 1)
        bd_pool_wait(model->pool);
}

static void run_step(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    if (step->op->before != NULL) {
        step->op->before(model, step, worker);
        meet(model, worker->count);
    }
    step->op->run(model, step, worker);
}

/* The first thread's clock: a step lasts until all have met for the next one. */
static void stop_clock(struct bd_model *model, uint32_t next, uint64_t *start) {
    uint64_t time = model->profile ? bd_nanoseconds() : 0;
    if (next > 0)
        model->steps[next - 1].nanoseconds = time - *start;
    *start = time;
}

/* All steps with all threads. One that runs alone is the first thread's, and those that follow each other so need no
 * meeting. */
static void run_share(void *context, size_t index) {
    struct bd_model *model = context;
    size_t threads = model->observer != NULL ? 1 : model->threads, before = 1;
    struct bd_worker all = model->workers[index], alone = all;
    uint64_t start = 0;
    all.count = threads;
    alone.count = 1;
    for (uint32_t i = 0; i < model->header.node_count; i++) {
        const struct bd_step *step = &model->steps[i];
        size_t workers = step->alone ? 1 : threads;
        meet(model, workers > before ? workers : before);
        before = workers;
        if (index == 0)
            stop_clock(model, i, &start);
        all.claimed = alone.claimed = &model->claimed[i];
        if (index < workers)
            run_step(model, step, workers == 1 ? &alone : &all);
    }
    meet(model, before);
    if (index == 0)
        stop_clock(model, model->header.node_count, &start);
}

/* The caller's memory in place of the arena's, where no step has kept the address since it was loaded. */
static int lend(bd_model *model, const struct bd_tensor *tensor, const float *memory) {
    for (uint32_t i = 0; i < model->header.node_count; i++)
        if (model->steps[i].tiled.source == tensor->data)
            return 0;
    model->tensors[tensor - model->tensors].data = (void *)(uintptr_t)memory;
    return 1;
}

void bd_run(bd_model *model, const float *input, float *output) {
    void *input_room = model->input->data, *output_room = model->output->data;
    if (!lend(model, model->input, input))
        memcpy(input_room, input, (size_t)model->input->bytes);
    int direct = lend(model, model->output, output);
    for (uint32_t i = 0; i < model->header.node_count; i++)
        atomic_store_explicit(&model->claimed[i], 0, memory_order_relaxed);
    if (model->pool == NULL || model->observer != NULL)
        run_share(model, 0);
    else
        bd_pool_run(model->pool);
    if (!direct)
        memcpy(output, output_room, (size_t)model->output->bytes);
    model->tensors[model->input - model->tensors].data = input_room;
    model->tensors[model->output - model->tensors].data = output_room;
}

static void copy_shape(uint32_t to[4], const int from[4]) {
    for (int i = 0; i < 4; i++)
        to[i] = (uint32_t)from[i];
}

void bd_describe(const bd_model *model, bd_description *description) {
    const struct bd_plan_header *header = &model->header;
    *description = (bd_description){
        .input_name = model->input->name,
        .output_name = model->output->name,
        .node_count = header->node_count,
        .plan_bytes = (size_t)header->file_bytes,
        .arena_bytes = (size_t)header->arena_bytes,
        .weights_bytes = (size_t)model->weights.used,
        .scratch_bytes = (size_t)model->scratch_bytes + sizeof *model + header->tensor_count * sizeof *model->tensors +
                         header->node_count * (sizeof *model->steps + sizeof *model->claimed),
    };
    copy_shape(description->input_shape, model->input->shape);
    copy_shape(description->output_shape, model->output->shape);
}

void bd_node_at(const bd_model *model, size_t index, bd_node *node) {
    const struct bd_step *step = &model->steps[index];
    *node = (bd_node){.name = step->name,
                      .op = step->op->name,
                      .kernel = step->kernel == NULL ? "" : step->kernel->name,
                      .macs = step->macs,
                      .nanoseconds = step->nanoseconds};
    copy_shape(node->output_shape, step->out->shape);
}

void bd_profile(bd_model *model, int on) {
    model->profile = on;
}

void bd_observe(bd_model *model, bd_observer *observer, void *user) {
    model->observer = observer;
    model->observer_user = user;
}
