/* Prints how often a plan's load and how often its runs call the allocator: "LOAD RUNS". Linked with -Wl,--wrap= for
 * each function below. */
#include "../include/bindeploy.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static long calls;

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes) {
    calls++;
    return __real_malloc(bytes);
}

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes) {
    calls++;
    return __real_calloc(count, bytes);
}

void *__real_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes) {
    calls++;
    return __real_realloc(memory, bytes);
}

void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    calls++;
    return __real_aligned_alloc(alignment, bytes);
}

int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes) {
    calls++;
    return __real_posix_memalign(memory, alignment, bytes);
}

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory) {
    calls++;
    __real_free(memory);
}

void *__real_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    calls++;
    return __real_mmap(address, bytes, protection, flags, file, offset);
}

static float *floats(const uint32_t shape[4]) {
    return calloc((size_t)shape[1] * shape[2] * shape[3], sizeof(float));
}

int main(int count, char **words) {
    char error[BD_ERROR_BYTES];
    bd_model *model;
    bd_description about;
    if (count != 2 || bd_open(words[1], NULL, &model, error)) {
        fprintf(stderr, "%s\n", count != 2 ? "count_allocations model.bd" : error);
        return 2;
    }
    long load = calls;
    bd_describe(model, &about);
    float *input = floats(about.input_shape), *output = floats(about.output_shape);
    if (input == NULL || output == NULL)
        return 2;
    calls = 0;
    for (int run = 0; run < 3; run++) {
        bd_profile(model, run == 1);
        bd_run(model, input, output);
    }
    long runs = calls;
    printf("%ld %ld\n", load, runs);
    free(input);
    free(output);
    bd_close(model);
    return 0;
}
