/* Planes of floats to bits, written once: an ISA file names the function, BINARIZE_PLANES_NAME, and includes this; its
 * compiler makes vectors of pixels of the loops. */
#include "tile.h"

#include <string.h>

/* Pixels at a time, a few cache lines of each plane; and channels of a half word, since 32-bit lanes hold both a float
 * and the bits that it adds to. */
enum { PLANE_PIXELS = 64, HALF_WORD = 32 };

/* Bit i of ones[p] is 1 where !(values[i * plane + p] >= 0): as unsigned integers, those are the floats beyond
 * +infinity (a NaN or a negative) but -0, on every CPU, whatever its vectors do with tiny numbers. */
BD_INLINE void half_words(size_t pixels, size_t channels, size_t plane, const float *values, uint32_t *ones) {
    memset(ones, 0, PLANE_PIXELS * sizeof *ones);
    for (size_t i = 0; i < channels; i++, values += plane)
        for (size_t p = 0; p < pixels; p++) {
            uint32_t value;
            memcpy(&value, values + p, sizeof value);
            uint32_t negative = (value > UINT32_C(0x7f800000)) & (value != UINT32_C(0x80000000));
            ones[p] |= negative << i;
        }
}

BD_INLINE void plane_words(size_t pixels, size_t channels, size_t plane, const float *values, size_t words,
                           uint64_t *bits) {
    uint32_t low[PLANE_PIXELS], high[PLANE_PIXELS];
    half_words(pixels, channels < HALF_WORD ? channels : HALF_WORD, plane, values, low);
    half_words(pixels, channels < HALF_WORD ? 0 : channels - HALF_WORD, plane, values + HALF_WORD * plane, high);
    for (size_t p = 0; p < pixels; p++)
        bits[p * words] = (uint64_t)high[p] << HALF_WORD | low[p];
}

void BINARIZE_PLANES_NAME(size_t pixels, size_t channels, size_t plane, const float *values, uint64_t *bits) {
    size_t words = (channels + 63) / 64;
    for (size_t first = 0; first < pixels; first += PLANE_PIXELS)
        for (size_t word = 0; word < words; word++) {
            size_t left = channels - word * 64, some = left < 64 ? left : 64;
            const float *from = values + word * 64 * plane + first;
            uint64_t *to = bits + first * words + word;
            if (pixels - first >= PLANE_PIXELS)
                plane_words(PLANE_PIXELS, some, plane, from, words, to);
            else
                plane_words(pixels - first, some, plane, from, words, to);
        }
}
