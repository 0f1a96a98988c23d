/* The float kernel, written once: an ISA file says what a vector is and includes this.
 *
 *   FGEMM_NAME                      the function
 *   FGEMM_MR, FGEMM_REGISTERS       the tile: MR pixels by REGISTERS vectors of filters
 *   FGEMM_VECTOR, FGEMM_LANES       the vector type and its number of floats
 *   FGEMM_ZERO()                    a vector of zeros
 *   FGEMM_LOAD(from), FGEMM_STORE(to, vector)     at any alignment of a float
 *   FGEMM_MULTIPLY_ADD(sum, weights, value)       sum + weights * value, the value broadcast
 *
 * A file may include it for several tiles; the parameters are undefined at the end. */
#include "tile.h"

void FGEMM_NAME(size_t taps, size_t channels, const float *const *rows, const float *weights, float *out,
                size_t out_stride) {
    FGEMM_VECTOR sums[FGEMM_MR][FGEMM_REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < FGEMM_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < FGEMM_REGISTERS; n++)
            sums[m][n] = FGEMM_ZERO();
    }
    for (size_t t = 0; t < taps; t++, rows += FGEMM_MR)
        for (size_t c = 0; c < channels; c++, weights += FGEMM_REGISTERS * FGEMM_LANES) {
            FGEMM_VECTOR filters[FGEMM_REGISTERS];
            BD_UNROLL
            for (size_t n = 0; n < FGEMM_REGISTERS; n++)
                filters[n] = FGEMM_LOAD(weights + n * FGEMM_LANES);
            BD_UNROLL
            for (size_t m = 0; m < FGEMM_MR; m++) {
                float value = rows[m][c];
                BD_UNROLL
                for (size_t n = 0; n < FGEMM_REGISTERS; n++)
                    sums[m][n] = FGEMM_MULTIPLY_ADD(sums[m][n], filters[n], value);
            }
        }
    BD_UNROLL
    for (size_t m = 0; m < FGEMM_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < FGEMM_REGISTERS; n++)
            FGEMM_STORE(out + m * out_stride + n * FGEMM_LANES, sums[m][n]);
    }
}

#undef FGEMM_NAME
#undef FGEMM_MR
#undef FGEMM_REGISTERS
#undef FGEMM_VECTOR
#undef FGEMM_LANES
#undef FGEMM_ZERO
#undef FGEMM_LOAD
#undef FGEMM_STORE
#undef FGEMM_MULTIPLY_ADD
