/* The table of kernels and the choice among them. */
#include <string.h>

#include "../include/bindeploy.h"
#include "kernels/declarations.h"

#define BD_KERNEL(op, out, mr, nr, isa, name) {#op, #out, #isa, #name, mr, nr, {.op##_##out = name}},
static const struct bd_kernel kernels[] = {
#include "kernels.inc"
};
#undef BD_KERNEL

enum { KERNELS = sizeof kernels / sizeof kernels[0] };

const struct bd_kernel *bd_kernels(size_t *count) {
    *count = KERNELS;
    return kernels;
}

/* Rows up to the last one of `isa`; 0 where it has none. The table is in order of speed, so these are no faster. */
static size_t rows_up_to(const char *isa) {
    size_t end = KERNELS;
    while (end > 0 && strcmp(kernels[end - 1].isa, isa))
        end--;
    return end;
}

const struct bd_kernel *bd_choose(const char *op, const char *out, const char *isa) {
    if (isa && !bd_cpu_has(isa))
        return NULL;
    for (size_t i = isa ? rows_up_to(isa) : KERNELS; i > 0; i--) {
        const struct bd_kernel *kernel = &kernels[i - 1];
        if (!strcmp(kernel->op, op) && !strcmp(kernel->out, out) && bd_cpu_has(kernel->isa))
            return kernel;
    }
    return NULL;
}

const char *bd_isa(void) {
    return bd_choose("bgemm", "i32", NULL)->isa;
}
