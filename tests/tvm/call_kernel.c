/* call_kernel FILE: calls the kernel it is linked with on the arrays in FILE, and writes the last of them to stdout.
 *
 * An array is five int32 (DLPack's code of its type, its bits, its rank 1 to 5, then bytes, then 0), its shape as
 * int64, and its bytes. Nothing of TVM is needed but the header of its C interface. */
#include <stdio.h>
#include <stdlib.h>

#include <tvm/ffi/c_api.h>

enum { MOST = 16 };

extern int __tvm_ffi_kernel(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

/* What a kernel calls when its arguments do not fit. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    fprintf(stderr, "%s: ", kind);
    for (int32_t i = 0; i < count; i++)
        fputs(parts[i], stderr);
}

static void *take(int device, int number, uint64_t bytes, int code, int bits) {
    (void)device, (void)number, (void)code, (void)bits;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int give_back(int device, int number, void *memory) {
    (void)device, (void)number;
    free(memory);
    return 0;
}

/* What TVM's runtime puts in here when it loads a module. */
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = take;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = give_back;

static int read_array(FILE *file, DLTensor *tensor, size_t *bytes) {
    static int64_t shapes[MOST][5];
    static int number;
    int32_t head[5];
    if (fread(head, sizeof head, 1, file) != 1)
        return 0;
    int64_t *shape = shapes[number++];
    *bytes = (size_t)head[3];
    void *data = aligned_alloc(64, (*bytes + 63) / 64 * 64);
    if (fread(shape, 8, (size_t)head[2], file) != (size_t)head[2] || fread(data, 1, *bytes, file) != *bytes)
        exit(2);
    DLDataType type = {(uint8_t)head[0], (uint8_t)head[1], 1};
    *tensor = (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = head[2], .dtype = type, .shape = shape};
    return 1;
}

int main(int count, char **words) {
    static DLTensor tensors[MOST];
    TVMFFIAny arguments[MOST] = {{0}}, result = {0};
    int32_t number = 0;
    size_t bytes = 0;
    FILE *file = count == 2 ? fopen(words[1], "rb") : NULL;
    if (file == NULL)
        return 2;
    while (number < MOST && read_array(file, &tensors[number], &bytes)) {
        arguments[number].type_index = kTVMFFIDLTensorPtr;
        arguments[number].v_ptr = &tensors[number];
        number++;
    }
    if (number == 0 || __tvm_ffi_kernel(NULL, arguments, number, &result) != 0)
        return 1;
    fwrite(tensors[number - 1].data, 1, bytes, stdout);
    return 0;
}
