/* Every kernel this CPU can run, compared with the scalar one; the scalar one, with loops over bits and doubles.
 * Binarized values carry their bits from the start.
 *
 * Integers and bits must be equal. Floats are summed in another order and with fused products, so they may differ by
 * FLOAT_TOLERANCE times the sum of the products' magnitudes; where values are small integers, every sum is exact and
 * floats must be equal too. Operands end where their allocation ends, for AddressSanitizer to see a read beyond. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/kernel.h"

#define FLOAT_TOLERANCE 1e-6
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

enum { GUARD = 16, GUARD_BYTE = 0x5a };

struct tally {
    size_t cases, failed;
};

static uint64_t random_state = 88172645463325252u;

static uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void *allocate(size_t count, size_t size) {
    void *memory = malloc(count * size);
    if (!memory)
        exit(2);
    return memory;
}

/* An output between guards: whatever a kernel does not own keeps GUARD_BYTE. */
static unsigned char *guarded(size_t bytes) {
    unsigned char *memory = allocate(bytes + 2 * GUARD, 1);
    memset(memory, GUARD_BYTE, bytes + 2 * GUARD);
    return memory + GUARD;
}

static int untouched(const unsigned char *from, const unsigned char *to) {
    while (from < to)
        if (*from++ != GUARD_BYTE)
            return 0;
    return 1;
}

/* Whether nothing was written around `bytes` of output, nor between its lines. */
static int guards_hold(const unsigned char *out, size_t lines, size_t line_bytes, size_t stride_bytes) {
    int hold = untouched(out - GUARD, out);
    for (size_t i = 0; i < lines; i++)
        hold &= untouched(out + i * stride_bytes + line_bytes, out + (i + 1) * stride_bytes);
    return hold & untouched(out + lines * stride_bytes, out + lines * stride_bytes + GUARD);
}

/* ---- matrix kernels: the operands of one tile ---- */

struct tile {
    size_t taps, depth; /* depth: words or channels of a tap */
    size_t mr, nr, stride;
    size_t size;       /* of an element: a word or a float */
    char *activations; /* [row][depth] */
    const void **rows; /* [tap][mr]: rows of activations, out of order and some of them twice */
    char *weights;     /* [tap][depth][nr] */
};

static struct tile make_tile(const struct bd_kernel *kernel, size_t taps, size_t depth, size_t size) {
    struct tile tile = {taps, depth, (size_t)kernel->mr, (size_t)kernel->nr, 0, size, NULL, NULL, NULL};
    size_t rows = taps * tile.mr;
    tile.stride = tile.nr + random_bits() % 4;
    tile.activations = allocate(rows * depth, size);
    tile.rows = allocate(rows, sizeof *tile.rows);
    tile.weights = allocate(taps * depth * tile.nr, size);
    for (size_t i = 0; i < rows; i++)
        tile.rows[i] = tile.activations + random_bits() % rows * depth * size;
    tile.rows[random_bits() % rows] = tile.activations + (rows - 1) * depth * size;
    return tile;
}

static void free_tile(struct tile *tile) {
    free(tile->activations);
    free(tile->rows);
    free(tile->weights);
}

typedef void run_tile(const struct bd_kernel *kernel, const struct tile *tile, void *out, size_t out_stride);

/* The kernel's tile computed by another kernel, in tiles of its own: pixels and filters past the end repeat the last.
 */
static void run_in_tiles_of(const struct bd_kernel *other, run_tile *run, const struct tile *tile, char *out) {
    size_t mr = (size_t)other->mr, nr = (size_t)other->nr, lines = tile->taps * tile->depth;
    struct tile part = *tile;
    part.rows = allocate(tile->taps * mr, sizeof *part.rows);
    part.weights = allocate(lines * nr, tile->size);
    char *part_out = allocate(mr * nr, 4);
    for (size_t m = 0; m < tile->mr; m += mr)
        for (size_t n = 0; n < tile->nr; n += nr) {
            for (size_t i = 0; i < tile->taps * mr; i++) {
                size_t pixel = m + i % mr < tile->mr ? m + i % mr : tile->mr - 1;
                part.rows[i] = tile->rows[i / mr * tile->mr + pixel];
            }
            for (size_t i = 0; i < lines * nr; i++) {
                size_t filter = n + i % nr < tile->nr ? n + i % nr : tile->nr - 1;
                const char *from = tile->weights + (i / nr * tile->nr + filter) * tile->size;
                memcpy(part.weights + i * tile->size, from, tile->size);
            }
            run(other, &part, part_out, nr);
            for (size_t i = 0; i < mr * nr; i++)
                if (m + i / nr < tile->mr && n + i % nr < tile->nr)
                    memcpy(out + ((m + i / nr) * tile->nr + n + i % nr) * 4, part_out + i * 4, 4);
        }
    free(part.rows);
    free(part.weights);
    free(part_out);
}

/* ---- bgemm ---- */

/* Every channel word is full here: the kernels know no channels, only words. */
static int32_t bits_of(const struct tile *tile) {
    return (int32_t)(tile->taps * tile->depth * 64);
}

static void run_bgemm(const struct bd_kernel *kernel, const struct tile *tile, void *out, size_t out_stride) {
    kernel->run.bgemm_i32(tile->taps, tile->depth, bits_of(tile), (const uint64_t *const *)(const void *)tile->rows,
                          (const uint64_t *)(const void *)tile->weights, out, out_stride);
}

/* sum of a * w over single bits, each -1 where it is set. */
static void bgemm_by_bits(const struct tile *tile, int32_t *out) {
    const uint64_t *weights = (const uint64_t *)(const void *)tile->weights;
    for (size_t m = 0; m < tile->mr; m++)
        for (size_t n = 0; n < tile->nr; n++) {
            int32_t sum = 0;
            for (size_t t = 0; t < tile->taps; t++)
                for (size_t c = 0; c < tile->depth * 64; c++) {
                    uint64_t a = ((const uint64_t *)tile->rows[t * tile->mr + m])[c / 64];
                    uint64_t w = weights[(t * tile->depth + c / 64) * tile->nr + n];
                    sum += (a >> c % 64 & 1) == (w >> c % 64 & 1) ? 1 : -1;
                }
            out[m * tile->nr + n] = sum;
        }
}

/* Random words, or words that are all ones in the activations, the weights, neither or both. */
enum pattern { RANDOM, EQUAL_ZEROS, EQUAL_ONES, ONES_AGAINST_ZEROS, ZEROS_AGAINST_ONES, PATTERNS };

static void fill_words(char *bytes, size_t count, enum pattern pattern, int ones) {
    for (size_t i = 0; i < count; i++) {
        uint64_t word = pattern == RANDOM ? random_bits() : ones ? ~UINT64_C(0) : 0;
        memcpy(bytes + i * sizeof word, &word, sizeof word);
    }
}

static int bgemm_agrees(const struct bd_kernel *kernel, const struct bd_kernel *scalar, size_t taps, size_t words,
                        enum pattern pattern) {
    struct tile tile = make_tile(kernel, taps, words, sizeof(uint64_t));
    fill_words(tile.activations, taps * tile.mr * words, pattern,
               pattern == EQUAL_ONES || pattern == ONES_AGAINST_ZEROS);
    fill_words(tile.weights, taps * words * tile.nr, pattern, pattern == EQUAL_ONES || pattern == ZEROS_AGAINST_ONES);

    int32_t *expected = allocate(tile.mr * tile.nr, sizeof *expected);
    if (kernel == scalar)
        bgemm_by_bits(&tile, expected);
    else
        run_in_tiles_of(scalar, run_bgemm, &tile, (char *)expected);

    unsigned char *out = guarded(tile.mr * tile.stride * 4);
    run_bgemm(kernel, &tile, out, tile.stride);
    int agrees = guards_hold(out, tile.mr, tile.nr * 4, tile.stride * 4);
    for (size_t m = 0; m < tile.mr; m++)
        agrees &= !memcmp(out + m * tile.stride * 4, expected + m * tile.nr, tile.nr * 4);

    free(out - GUARD);
    free(expected);
    free_tile(&tile);
    return agrees;
}

/* Words up to 9, and more than a byte can count: 31 and 32 are the edge, 41 and 70 need a second widening. */
static struct tally check_bgemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t words[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 41, 70};
    struct tally tally = {0, 0};
    for (size_t taps = 1; taps <= 25; taps++)
        for (size_t i = 0; i < LENGTH(words); i++) {
            int all_patterns = taps == 1 || taps == 9;
            for (enum pattern pattern = RANDOM; pattern < (all_patterns ? PATTERNS : EQUAL_ZEROS); pattern++) {
                if (taps > 9 && words[i] > 9 && taps % 8 != 1)
                    continue;
                tally.failed += !bgemm_agrees(kernel, scalar, taps, words[i], pattern);
                tally.cases++;
            }
        }
    return tally;
}

/* ---- fgemm ---- */

static void run_fgemm(const struct bd_kernel *kernel, const struct tile *tile, void *out, size_t out_stride) {
    kernel->run.fgemm_f32(tile->taps, tile->depth, (const float *const *)(const void *)tile->rows,
                          (const float *)(const void *)tile->weights, out, out_stride);
}

/* The sums in double, and those of the magnitudes. */
static void fgemm_in_double(const struct tile *tile, double *sums, double *magnitudes) {
    const float *weights = (const float *)(const void *)tile->weights;
    for (size_t i = 0; i < tile->mr * tile->nr; i++) {
        sums[i] = magnitudes[i] = 0;
        for (size_t t = 0; t < tile->taps; t++)
            for (size_t c = 0; c < tile->depth; c++) {
                double a = ((const float *)tile->rows[t * tile->mr + i / tile->nr])[c];
                double product = a * weights[(t * tile->depth + c) * tile->nr + i % tile->nr];
                sums[i] += product;
                magnitudes[i] += fabs(product);
            }
    }
}

/* Floats in [-1, 1), or whole numbers from -4 to 4. */
static void fill_floats(char *bytes, size_t count, int whole) {
    for (size_t i = 0; i < count; i++) {
        float value = whole ? (float)(random_bits() % 9) - 4.0f : (float)(random_bits() >> 40) * 0x1p-23f - 1.0f;
        memcpy(bytes + i * sizeof value, &value, sizeof value);
    }
}

static int fgemm_agrees(const struct bd_kernel *kernel, const struct bd_kernel *scalar, size_t taps, size_t channels,
                        int whole) {
    struct tile tile = make_tile(kernel, taps, channels, sizeof(float));
    fill_floats(tile.activations, taps * tile.mr * channels, whole);
    fill_floats(tile.weights, taps * channels * tile.nr, whole);

    double *sums = allocate(tile.mr * tile.nr, sizeof *sums);
    double *magnitudes = allocate(tile.mr * tile.nr, sizeof *magnitudes);
    float *expected = allocate(tile.mr * tile.nr, sizeof *expected);
    fgemm_in_double(&tile, sums, magnitudes);
    run_in_tiles_of(scalar, run_fgemm, &tile, (char *)expected);

    unsigned char *out = guarded(tile.mr * tile.stride * 4);
    run_fgemm(kernel, &tile, out, tile.stride);
    int agrees = guards_hold(out, tile.mr, tile.nr * 4, tile.stride * 4);
    for (size_t i = 0; i < tile.mr * tile.nr; i++) {
        float value;
        memcpy(&value, out + (i / tile.nr * tile.stride + i % tile.nr) * 4, 4);
        double wanted = kernel == scalar ? sums[i] : (double)expected[i];
        double allowed = whole ? 0 : FLOAT_TOLERANCE * magnitudes[i];
        agrees &= fabs((double)value - wanted) <= allowed;
    }

    free(out - GUARD);
    free(expected);
    free(magnitudes);
    free(sums);
    free_tile(&tile);
    return agrees;
}

static struct tally check_fgemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t channels[] = {1, 2, 3, 4, 5, 7, 8, 16, 17, 64, 130, 520};
    struct tally tally = {0, 0};
    for (size_t taps = 1; taps <= 25; taps++)
        for (size_t i = 0; i < LENGTH(channels); i++)
            for (int whole = 0; whole <= 1; whole++) {
                if (channels[i] > 64 && taps % 8 != 1)
                    continue;
                tally.failed += !fgemm_agrees(kernel, scalar, taps, channels[i], whole);
                tally.cases++;
            }
    return tally;
}

/* ---- binarize ---- */

/* Values with the bit each becomes, known as they are made: to compare floats here could be as wrong as a kernel. */
static void make_values(size_t pixels, size_t channels, float *values, uint64_t *bits) {
    static const struct {
        float value;
        uint64_t bit;
    } special[] = {{0.0f, 0},    {-0.0f, 0},    {NAN, 1},       {-NAN, 1},       {INFINITY, 0}, {-INFINITY, 1},
                   {FLT_MIN, 0}, {-FLT_MIN, 1}, {0x1p-149f, 0}, {-0x1p-149f, 1}, {FLT_MAX, 0},  {-FLT_MAX, 1}};
    size_t words = (channels + 63) / 64;
    memset(bits, 0, pixels * words * sizeof *bits);
    for (size_t i = 0; i < pixels * channels; i++) {
        int32_t number = (int32_t)(uint32_t)random_bits();
        uint64_t bit = number < 0;
        values[i] = (float)number;
        if (number % 4 == 0) {
            size_t which = random_bits() % LENGTH(special);
            values[i] = special[which].value;
            bit = special[which].bit;
        }
        bits[i / channels * words + i % channels / 64] |= bit << i % channels % 64;
    }
}

static int binarize_agrees(const struct bd_kernel *kernel, size_t pixels, size_t channels) {
    size_t words = pixels * ((channels + 63) / 64);
    float *values = allocate(pixels * channels, sizeof *values);
    uint64_t *expected = allocate(words, sizeof *expected);
    make_values(pixels, channels, values, expected);

    unsigned char *out = guarded(words * sizeof *expected);
    kernel->run.binarize_b1(pixels, channels, values, (uint64_t *)(void *)out);
    int agrees = guards_hold(out, 1, words * sizeof *expected, words * sizeof *expected);
    agrees &= !memcmp(out, expected, words * sizeof *expected);

    free(out - GUARD);
    free(expected);
    free(values);
    return agrees;
}

static struct tally check_binarize(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t channels = 1; channels <= 131; channels++)
        for (size_t pixels = 1; pixels <= 7; pixels += 3) {
            tally.failed += !binarize_agrees(kernel, pixels, channels <= 130 ? channels : 520);
            tally.cases++;
        }
    return tally;
}

/* ---- the table ---- */

/* The choice is a row the CPU has; holding to an ISA never gives a later one; an unknown ISA gives none. */
static struct tally check_choice(const struct bd_kernel *kernels, size_t count) {
    struct tally tally = {0, 0};
    for (size_t i = 0; i < count; i++) {
        const struct bd_kernel *kernel = &kernels[i];
        const struct bd_kernel *best = bd_choose(kernel->op, kernel->out, NULL);
        const struct bd_kernel *held = bd_choose(kernel->op, kernel->out, kernel->isa);
        int has = bd_cpu_has(kernel->isa);
        int fits = kernel->mr <= BD_MAX_MR && kernel->nr <= BD_MAX_NR;
        int right = fits && best && bd_cpu_has(best->isa) && (has ? held && held >= kernel && held <= best : !held);
        tally.failed += !right || (has && strcmp(held->isa, kernel->isa)) || (has && best < kernel);
        tally.failed += bd_choose(kernel->op, kernel->out, "nonsense") != NULL;
        tally.cases += 2;
    }
    return tally;
}

static int report(const char *name, struct tally tally) {
    if (tally.failed)
        printf("%s FAILED %zu of %zu cases\n", name, tally.failed, tally.cases);
    else
        printf("%s ok %zu cases\n", name, tally.cases);
    fflush(stdout);
    return tally.failed != 0;
}

int main(void) {
    static const struct {
        const char *op;
        struct tally (*check)(const struct bd_kernel *kernel, const struct bd_kernel *scalar);
    } checks[] = {{"bgemm", check_bgemm}, {"fgemm", check_fgemm}, {"binarize", check_binarize}};
    size_t count;
    const struct bd_kernel *kernels = bd_kernels(&count);
    int failed = report("bd_choose", check_choice(kernels, count)), passed = !failed;
    for (size_t i = 0; i < count; i++) {
        const struct bd_kernel *kernel = &kernels[i];
        if (!bd_cpu_has(kernel->isa)) {
            printf("%s skipped: this CPU has no %s\n", kernel->name, kernel->isa);
            continue;
        }
        for (size_t k = 0; k < LENGTH(checks); k++)
            if (!strcmp(checks[k].op, kernel->op)) {
                int bad = report(kernel->name, checks[k].check(kernel, bd_choose(kernel->op, kernel->out, "scalar")));
                failed += bad;
                passed += !bad;
            }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
