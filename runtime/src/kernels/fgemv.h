/* fgemm for one pixel, where a single sum would wait for each of its products: channels take turns with several sums,
 * which are added at the end. The parameters are those of fgemm.h without FGEMM_MR, with FGEMM_ADD(a, b); undefined at
 * the end. */
#include "tile.h"

/* As many as products take cycles where one is begun in each. */
enum { CHAINS = 4 };

void FGEMM_NAME(size_t taps, size_t channels, const float *const *rows, const float *weights, float *out,
                size_t out_stride) {
    FGEMM_VECTOR sums[CHAINS][FGEMM_REGISTERS];
    (void)out_stride;
    BD_UNROLL
    for (size_t i = 0; i < CHAINS * FGEMM_REGISTERS; i++)
        sums[i / FGEMM_REGISTERS][i % FGEMM_REGISTERS] = FGEMM_ZERO();
    for (size_t t = 0; t < taps; t++) {
        const float *row = rows[t];
        size_t c = 0;
        for (; c + CHAINS <= channels; c += CHAINS, weights += CHAINS * FGEMM_REGISTERS * FGEMM_LANES) {
            BD_UNROLL
            for (size_t i = 0; i < CHAINS * FGEMM_REGISTERS; i++) {
                FGEMM_VECTOR *sum = &sums[i / FGEMM_REGISTERS][i % FGEMM_REGISTERS];
                *sum = FGEMM_MULTIPLY_ADD(*sum, FGEMM_LOAD(weights + i * FGEMM_LANES), row[c + i / FGEMM_REGISTERS]);
            }
        }
        for (; c < channels; c++, weights += FGEMM_REGISTERS * FGEMM_LANES) {
            BD_UNROLL
            for (size_t n = 0; n < FGEMM_REGISTERS; n++)
                sums[0][n] = FGEMM_MULTIPLY_ADD(sums[0][n], FGEMM_LOAD(weights + n * FGEMM_LANES), row[c]);
        }
    }
    BD_UNROLL
    for (size_t n = 0; n < FGEMM_REGISTERS; n++)
        FGEMM_STORE(out + n * FGEMM_LANES,
                    FGEMM_ADD(FGEMM_ADD(sums[0][n], sums[2][n]), FGEMM_ADD(sums[1][n], sums[3][n])));
}

#undef FGEMM_NAME
#undef FGEMM_REGISTERS
#undef FGEMM_VECTOR
#undef FGEMM_LANES
#undef FGEMM_ZERO
#undef FGEMM_LOAD
#undef FGEMM_STORE
#undef FGEMM_ADD
#undef FGEMM_MULTIPLY_ADD
