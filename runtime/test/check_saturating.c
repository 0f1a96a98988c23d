/* sgemm and sgemv, the scalar rows too, against sums that are clamped word by word. */
#include "check_kernels.h"

struct operands {
    size_t mr, nr, words;
    uint32_t *pixels, *filters; /* [words][MR], [words][NR] */
    int8_t *depths;
    uint64_t *tile;
    uint8_t *weights;
};

/* A word in which few bits are set. */
static uint32_t sparse(void) {
    return (uint32_t)(random_bits() & random_bits() & random_bits());
}

/* Pixels and filters are nearly alike, or nearly opposite for some words in a row, so that sums reach both ends; or
 * random words. */
static void fill(struct operands *of, int alike) {
    uint32_t opposite = 0;
    for (size_t k = 0; k < of->words; k++) {
        uint32_t word = (uint32_t)random_bits();
        opposite = random_bits() % 8 == 0 ? ~opposite : opposite;
        of->depths[k] = (int8_t)(random_bits() % 4 == 0 ? random_bits() % 32 + 1 : 32);
        uint32_t there = ~UINT32_C(0) >> (32 - of->depths[k]);
        for (size_t m = 0; m < of->mr; m++)
            of->pixels[k * of->mr + m] = (alike ? word ^ sparse() : (uint32_t)random_bits()) & there;
        for (size_t n = 0; n < of->nr; n++)
            of->filters[k * of->nr + n] = (alike ? word ^ opposite ^ sparse() : (uint32_t)random_bits()) & there;
    }
}

static void lay_out(const struct operands *of) {
    for (size_t i = 0; i < of->words * of->mr; i++)
        of->tile[i] = (uint64_t)of->pixels[i] << 32 | of->pixels[i];
    for (size_t i = 0; i < of->words * 4 * of->nr; i++) {
        size_t k = i / of->nr / 4, turn = i / of->nr % 4, n = i % of->nr;
        of->weights[i] = (uint8_t)(of->filters[k * of->nr + n] >> (8 * ((n + turn) % 4)));
    }
}

static int32_t sum_of(const struct operands *of, size_t m, size_t n, int32_t sum) {
    for (size_t k = 0; k < of->words; k++) {
        for (int bit = 0; bit < of->depths[k]; bit++)
            sum += (of->pixels[k * of->mr + m] ^ of->filters[k * of->nr + n]) >> bit & 1 ? -1 : 1;
        sum = sum > 127 ? 127 : sum < -128 ? -128 : sum;
    }
    return sum;
}

/* In place where sums have a start. */
static int agrees(const struct bd_kernel *kernel, const struct operands *of, int started) {
    size_t stride = of->nr + random_bits() % 4;
    int32_t *expected = allocate(of->mr * of->nr, sizeof *expected);
    unsigned char *out = guarded(of->mr * stride * 4);
    for (size_t i = 0; i < of->mr * of->nr; i++) {
        int32_t start = started ? (int32_t)(random_bits() % 256) - 128 : 0;
        if (started)
            memcpy(out + (i / of->nr * stride + i % of->nr) * 4, &start, 4);
        expected[i] = sum_of(of, i / of->nr, i % of->nr, start);
    }
    kernel->run.sgemm_i32(of->words, of->depths, of->tile, of->weights, started ? (int32_t *)(void *)out : NULL,
                          (int32_t *)(void *)out, stride);
    int right = guards_hold(out, of->mr, of->nr * 4, stride * 4);
    for (size_t m = 0; m < of->mr; m++)
        right &= !memcmp(out + m * stride * 4, expected + m * of->nr, of->nr * 4);
    free(out - GUARD);
    free(expected);
    return right;
}

struct tally check_sgemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    struct tally tally = {0, 0};
    (void)scalar;
    for (size_t words = 1; words <= 150; words += words < 40 ? 1 : 29) {
        struct operands of = {(size_t)kernel->mr, (size_t)kernel->nr, words, NULL, NULL, NULL, NULL, NULL};
        of.pixels = allocate(words * of.mr, sizeof *of.pixels);
        of.filters = allocate(words * of.nr, sizeof *of.filters);
        of.depths = allocate(words, 1);
        of.tile = allocate(words * of.mr, sizeof *of.tile);
        of.weights = allocate(words * 4 * of.nr, 1);
        for (int way = 0; way < 4; way++, tally.cases++) {
            fill(&of, way % 2);
            lay_out(&of);
            tally.failed += !agrees(kernel, &of, way / 2);
        }
        free(of.weights);
        free(of.tile);
        free(of.depths);
        free(of.filters);
        free(of.pixels);
    }
    return tally;
}
