/* The float kernel, written once: an ISA file says what a vector is and includes this.
 *
 *   FGEMM_NAME                      the function
 *   FGEMM_MR, FGEMM_REGISTERS       the tile: MR pixels by REGISTERS vectors of filters
 *   FGEMM_VECTOR, FGEMM_LANES       the vector type and its number of floats
 *   FGEMM_ZERO()                    a vector of zeros
 *   FGEMM_LOAD(from), FGEMM_STORE(to, vector)     at any alignment of a float
 *   FGEMM_MULTIPLY_ADD(sum, weights, value)       sum + weights * value, the value broadcast
 *
 * With FGEMM_AFFINE_NAME there is one that transforms the sums before it stores them, and needs
 *
 *   FGEMM_SPREAD(value)             a vector of one value
 *   FGEMM_ADD(a, b), FGEMM_LARGER(a, b), FGEMM_SMALLER(a, b)     of which a > b ? a : b and a < b ? a : b
 *   FGEMM_LOAD_SOME(from, count), FGEMM_STORE_SOME(to, vector, count)     0 <= count <= LANES, no lane past them
 *
 * A file may include it for several tiles; the parameters are undefined at the end. */
#include "tile.h"

#define FGEMM_JOIN(name, suffix) name##suffix
#define FGEMM_OWN(name, suffix) FGEMM_JOIN(name, suffix)
#define FGEMM_SUMS FGEMM_OWN(FGEMM_NAME, _sums)

BD_INLINE void FGEMM_SUMS(size_t taps, size_t channels, const float *const *rows, const float *weights,
                          FGEMM_VECTOR sums[FGEMM_MR][FGEMM_REGISTERS]) {
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
}

void FGEMM_NAME(size_t taps, size_t channels, const float *const *rows, const float *weights, float *out,
                size_t out_stride) {
    FGEMM_VECTOR sums[FGEMM_MR][FGEMM_REGISTERS];
    FGEMM_SUMS(taps, channels, rows, weights, sums);
    BD_UNROLL
    for (size_t m = 0; m < FGEMM_MR; m++) {
        BD_UNROLL
        for (size_t n = 0; n < FGEMM_REGISTERS; n++)
            FGEMM_STORE(out + m * out_stride + n * FGEMM_LANES, sums[m][n]);
    }
}

#ifdef FGEMM_AFFINE_NAME

#define FGEMM_FINISH FGEMM_OWN(FGEMM_NAME, _finish)

/* Where `whole`, all pixels and filters of the tile are there. */
BD_INLINE void FGEMM_FINISH(int whole, size_t pixels, size_t filters, FGEMM_VECTOR sums[FGEMM_MR][FGEMM_REGISTERS],
                            const float *bias, const float *residual, float minimum, float maximum, float *out,
                            size_t out_stride) {
    FGEMM_VECTOR lowest = FGEMM_SPREAD(minimum), highest = FGEMM_SPREAD(maximum);
    BD_UNROLL
    for (size_t n = 0; n < FGEMM_REGISTERS; n++) {
        size_t column = n * FGEMM_LANES, left = filters > column ? filters - column : 0;
        size_t count = whole || left > FGEMM_LANES ? FGEMM_LANES : left;
        FGEMM_VECTOR added = whole ? FGEMM_LOAD(bias + column) : FGEMM_LOAD_SOME(bias + column, count);
        BD_UNROLL
        for (size_t m = 0; m < FGEMM_MR; m++) {
            if (!whole && m >= pixels)
                continue;
            FGEMM_VECTOR value = FGEMM_ADD(sums[m][n], added);
            if (residual != NULL)
                value = FGEMM_ADD(value, FGEMM_LOAD_SOME(residual + m * out_stride + column, count));
            value = FGEMM_SMALLER(highest, FGEMM_LARGER(lowest, value));
            if (whole)
                FGEMM_STORE(out + m * out_stride + column, value);
            else
                FGEMM_STORE_SOME(out + m * out_stride + column, value, count);
        }
    }
}

void FGEMM_AFFINE_NAME(size_t pixels, size_t filters, size_t taps, size_t channels, const float *const *rows,
                       size_t tile_rows, const float *weights, const float *bias, const float *residual, float minimum,
                       float maximum, float *out, size_t out_stride) {
    for (size_t m = 0; m < pixels; m += FGEMM_MR, rows += tile_rows, out += FGEMM_MR * out_stride) {
        FGEMM_VECTOR sums[FGEMM_MR][FGEMM_REGISTERS];
        FGEMM_SUMS(taps, channels, rows, weights, sums);
        if (pixels - m >= FGEMM_MR && filters == FGEMM_REGISTERS * FGEMM_LANES && residual == NULL)
            FGEMM_FINISH(1, FGEMM_MR, filters, sums, bias, NULL, minimum, maximum, out, out_stride);
        else
            FGEMM_FINISH(0, pixels - m, filters, sums, bias, residual, minimum, maximum, out, out_stride);
        residual = residual == NULL ? NULL : residual + FGEMM_MR * out_stride;
    }
}

#undef FGEMM_FINISH
#undef FGEMM_AFFINE_NAME
#undef FGEMM_SPREAD
#undef FGEMM_ADD
#undef FGEMM_LARGER
#undef FGEMM_SMALLER
#undef FGEMM_LOAD_SOME
#undef FGEMM_STORE_SOME
#endif

#undef FGEMM_SUMS
#undef FGEMM_OWN
#undef FGEMM_JOIN
#undef FGEMM_NAME
#undef FGEMM_MR
#undef FGEMM_REGISTERS
#undef FGEMM_VECTOR
#undef FGEMM_LANES
#undef FGEMM_ZERO
#undef FGEMM_LOAD
#undef FGEMM_STORE
#undef FGEMM_MULTIPLY_ADD
