/* igemm and igemv, against sums of single products: these rows have no scalar one. */
#include "check_kernels.h"

static int8_t some_byte(int extreme) {
    return (int8_t)(extreme ? -128 : (int)(random_bits() % 256) - 128);
}

static int igemm_agrees(const struct bd_kernel *kernel, size_t quads, int extreme) {
    size_t mr = (size_t)kernel->mr, nr = (size_t)kernel->nr, depth = quads * 4, stride = nr + random_bits() % 4;
    uint8_t *tile = allocate(mr * depth, 1);
    int8_t *weights = allocate(depth * nr, 1);
    int32_t *offsets = allocate(nr, sizeof *offsets);
    for (size_t i = 0; i < mr * depth; i++)
        tile[i] = (uint8_t)(some_byte(extreme) + 128);
    for (size_t i = 0; i < depth * nr; i++)
        weights[i] = some_byte(extreme);
    for (size_t n = 0; n < nr; n++) {
        offsets[n] = 0;
        for (size_t k = 0; k < depth; k++)
            offsets[n] -= 128 * weights[(k / 4 * nr + n) * 4 + k % 4];
    }
    unsigned char *out = guarded(mr * stride * 4);
    kernel->run.igemm_i32(quads, tile, weights, offsets, (int32_t *)(void *)out, stride);
    int agrees = guards_hold(out, mr, nr * 4, stride * 4);
    for (size_t m = 0; m < mr; m++)
        for (size_t n = 0; n < nr; n++) {
            int32_t sum = 0, found;
            for (size_t k = 0; k < depth; k++)
                sum += (tile[m * depth + k] - 128) * weights[(k / 4 * nr + n) * 4 + k % 4];
            memcpy(&found, out + (m * stride + n) * 4, 4);
            agrees &= found == sum;
        }
    free(out - GUARD);
    free(offsets);
    free(weights);
    free(tile);
    return agrees;
}

struct tally check_igemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    struct tally tally = {0, 0};
    (void)scalar;
    for (size_t quads = 1; quads <= 300; quads += quads < 40 ? 1 : 37)
        for (int extreme = 0; extreme <= 1; extreme++) {
            tally.failed += !igemm_agrees(kernel, quads, extreme);
            tally.cases++;
        }
    return tally;
}
