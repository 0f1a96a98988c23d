#define _POSIX_C_SOURCE 200809L

#include "plan_file.h"

#include "executor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__wasi__)
#include <stdlib.h>

/* A WebAssembly module has one memory and nothing can be mapped into it: the file is copied. */
static void *take_bytes(int file, size_t bytes) {
    size_t room = (bytes + BD_ALIGNMENT - 1) / BD_ALIGNMENT * BD_ALIGNMENT, done = 0;
    unsigned char *copy = room < bytes ? NULL : aligned_alloc(BD_ALIGNMENT, room);
    ssize_t got = copy == NULL ? -1 : 1;
    for (; got > 0 && done < bytes; done += (size_t)got)
        got = read(file, copy + done, bytes - done);
    if (got > 0)
        return copy;
    if (got == 0)
        errno = EIO;
    free(copy);
    return NULL;
}

void bd_unmap_file(void *mapping, size_t bytes) {
    (void)bytes;
    free(mapping);
}
#else
#include <sys/mman.h>

static void *take_bytes(int file, size_t bytes) {
    void *mapping = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    return mapping == MAP_FAILED ? NULL : mapping;
}

void bd_unmap_file(void *mapping, size_t bytes) {
    munmap(mapping, bytes);
}
#endif

void *bd_map_file(const char *path, size_t *bytes, char *error) {
    struct stat status;
    void *mapping = NULL;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &status) != 0) {
        bd_fail(error, "cannot read plan `%.150s`: %s", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode) || status.st_size <= 0 || (uint64_t)status.st_size > SIZE_MAX) {
        bd_fail(error, "`%.150s` is no plan: it is no file, or empty", path);
    } else {
        *bytes = (size_t)status.st_size;
        mapping = take_bytes(file, *bytes);
        if (mapping == NULL)
            bd_fail(error, "cannot map plan `%.150s`: %s", path, strerror(errno));
    }
    if (file >= 0)
        close(file);
    return mapping;
}
