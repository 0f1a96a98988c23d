/* Plans that are data of a shared library which TVM compiled: its kernels call bd_run_chain. */
#ifndef BD_TVM_CHAINS_H
#define BD_TVM_CHAINS_H

#include <stddef.h>
#include <stdint.h>

struct bd_chain {
    const uint8_t *plan; /* 64-byte aligned */
    size_t bytes;
};

extern const struct bd_chain bd_chains[];
extern const size_t bd_chain_count;

/* Run the plan `number` on x, float32, into y. The first call loads all plans. Ends the process, with a line, where one
 * cannot be loaded: it was made by the exporter, so that is a broken library or no memory. */
int32_t bd_run_chain(int32_t number, const float *x, float *y);

#endif
