/* What the checks of all kernels share: random operands that end where their allocation ends, outputs between guards.
 */
#ifndef BD_CHECK_KERNELS_H
#define BD_CHECK_KERNELS_H

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/kernel.h"

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

enum { GUARD = 16, GUARD_BYTE = 0x5a };

struct tally {
    size_t cases, failed;
};

uint64_t random_bits(void);

void *allocate(size_t count, size_t size);

/* An output between guards: whatever a kernel does not own keeps GUARD_BYTE. */
unsigned char *guarded(size_t bytes);

/* Whether nothing was written around `bytes` of output, nor between its lines. */
int guards_hold(const unsigned char *out, size_t lines, size_t line_bytes, size_t stride_bytes);

/* Floats in [-1, 1), or whole numbers from -4 to 4. */
void fill_floats(char *bytes, size_t count, int whole);

/* Each compares one kernel with the scalar one, on many shapes. */
typedef struct tally check_function(const struct bd_kernel *kernel, const struct bd_kernel *scalar);
check_function check_bgemm, check_edge_tile, check_bgemm_threshold, check_fgemm, check_fgemm_affine, check_binarize,
    check_binarize_planes, check_binarize_within, check_affine, check_threshold, check_peak, check_windows,
    check_bit_windows, check_lines, check_affine_prelu, check_wgemm, check_igemm, check_sgemm, check_tables,
    check_slices, check_map, check_softmax, check_layer_norm;

#endif
