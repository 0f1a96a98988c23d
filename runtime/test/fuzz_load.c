#define _POSIX_C_SOURCE 200809L

/* Hostile plans: whatever the bytes, loading gives a model that runs or one line, and reads nothing outside them.
 *
 *   clang -DFUZZER -fsanitize=fuzzer,address,undefined ... with fuzz_plans.c runs libFuzzer;
 *   any compiler without FUZZER makes a program that replays the files named on its command line. */
#include "../include/bindeploy.h"
#include "../src/crc32.h"
#include "../src/executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_include)
#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(from, bytes) ((void)(from), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes) ((void)(from), (void)(bytes))
#endif

/* A run of more work than this would only make the fuzzer slow. */
enum { MAX_ELEMENTS = 1 << 20 };

/* Size and checksum are made right, or no byte behind them would ever be looked at. */
static void repair(unsigned char *plan, size_t bytes) {
    struct bd_plan_header header;
    if (bytes < sizeof header)
        return;
    memcpy(&header, plan, sizeof header);
    header.file_bytes = bytes;
    header.checksum = bd_crc32(plan + sizeof header, bytes - sizeof header);
    memcpy(plan, &header, sizeof header);
}

/* What a pool adds up, which counts no multiply-accumulates. */
static uint64_t sums(const struct bd_step *step) {
    const struct bd_window *window = &step->window;
    return (uint64_t)window->kernel_height * (uint64_t)window->kernel_width * bd_pixels(step->out);
}

static int is_small(const bd_model *model) {
    uint64_t work = model->header.arena_bytes;
    for (uint32_t i = 0; i < model->header.node_count; i++)
        work += model->steps[i].macs + sums(&model->steps[i]);
    return work < MAX_ELEMENTS;
}

/* A tensor that the step at hand may touch; under AddressSanitizer it may touch no other byte of the arena or plan. */
static void allow(const struct bd_tensor *tensor) {
    if (tensor != NULL)
        ASAN_UNPOISON_MEMORY_REGION(tensor->data, (size_t)tensor->bytes);
}

/* The workers of a step, one after the other. */
static void run_in_turn(const struct bd_model *model, const struct bd_step *step, size_t count) {
    struct bd_worker worker = model->workers[0];
    worker.count = count;
    worker.claimed = &model->claimed[step - model->steps];
    for (worker.index = 0; worker.index < count && step->op->before != NULL; worker.index++)
        step->op->before(model, step, &worker);
    for (worker.index = 0; worker.index < count; worker.index++)
        step->op->run(model, step, &worker);
}

/* What bd_run does, with as many workers but without threads. */
static void run_guarded(bd_model *model, const void *plan, size_t workers) {
    size_t arena = (size_t)model->header.arena_bytes, bytes = (size_t)model->header.file_bytes;
    memset(model->input->data, 0, (size_t)model->input->bytes);
    for (uint32_t i = 0; i < model->header.node_count; i++) {
        const struct bd_step *step = &model->steps[i];
        const struct bd_plan_node *node = step->node;
        ASAN_POISON_MEMORY_REGION(model->memory, arena);
        ASAN_POISON_MEMORY_REGION(plan, bytes);
        ASAN_UNPOISON_MEMORY_REGION(node, sizeof *node);
        for (int input = 0; input < BD_MAX_INPUTS; input++)
            allow(step->in[input]);
        allow(step->out);
        run_in_turn(model, step, workers);
    }
    ASAN_UNPOISON_MEMORY_REGION(model->memory, arena);
    ASAN_UNPOISON_MEMORY_REGION(plan, bytes);
}

/* The header's last word, which the loader does not look at, says whose kernels run, and how many workers. */
static uint32_t choices_of(const unsigned char *plan, size_t bytes) {
    struct bd_plan_header header = {.reserved = 0};
    if (bytes >= sizeof header)
        memcpy(&header, plan, sizeof header);
    return header.reserved;
}

static const char *isa_of(uint32_t choices) {
    size_t count;
    const struct bd_kernel *kernels = bd_kernels(&count);
    const char *isa = kernels[choices % count].isa;
    return choices != 0 && bd_cpu_has(isa) ? isa : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char error[BD_ERROR_BYTES];
    bd_model *model;
    void *plan = NULL;
    /* posix_memalign keeps the exact size, so that a sanitizer sees the first byte behind it. */
    if (posix_memalign(&plan, BD_ALIGNMENT, bytes ? bytes : 1) != 0)
        return 0;
    memcpy(plan, data, bytes);
    repair(plan, bytes);
    uint32_t choices = choices_of(plan, bytes);
    bd_options options = {.isa = isa_of(choices)};
    if (bd_load(plan, bytes, &options, &model, error) == 0) {
        if (is_small(model))
            run_guarded(model, plan, 1 + choices % 4);
        bd_close(model);
    } else if (strchr(error, '\n') != NULL || error[0] == 0) {
        abort();
    }
    free(plan);
    return 0;
}

#ifndef FUZZER
static void replay(const char *path) {
    FILE *file = fopen(path, "rb");
    long bytes = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0)
        bytes = ftell(file);
    uint8_t *data = bytes < 0 ? NULL : malloc((size_t)bytes + 1);
    if (data == NULL || fseek(file, 0, SEEK_SET) != 0 || fread(data, 1, (size_t)bytes, file) != (size_t)bytes) {
        fprintf(stderr, "cannot read `%s`\n", path);
        exit(2);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, (size_t)bytes);
    free(data);
}

int main(int count, char **paths) {
    for (int i = 1; i < count; i++)
        replay(paths[i]);
    printf("%d plans\n", count - 1);
    return 0;
}
#endif
