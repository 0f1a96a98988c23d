/* bgemm and fgemm, and the same for one pixel. */
#include "check_kernels.h"

#define FLOAT_TOLERANCE 1e-6

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
    part.mr = mr;
    part.nr = nr;
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

/* rows[k] ^= rows[k - 1] from the second row of `columns` words on. */
static void accumulate(size_t rows, size_t columns, uint64_t *words) {
    for (size_t i = columns; i < rows * columns; i++)
        words[i] ^= words[i - columns];
}

/* The words of the rows in the kernel's order, and for kernels of edges both operands accumulated. */
static void run_bgemm(const struct bd_kernel *kernel, const struct tile *tile, void *out, size_t out_stride) {
    size_t words = tile->taps * tile->depth, mr = tile->mr, nr = tile->nr;
    uint64_t *packed = allocate(2 * words * mr, sizeof *packed), *weights = allocate(words * nr, sizeof *weights);
    for (size_t i = 0; i < words * mr; i++)
        packed[i] = ((const uint64_t *)tile->rows[i / mr / tile->depth * mr + i % mr])[i / mr % tile->depth];
    memcpy(weights, tile->weights, words * nr * sizeof *weights);
    if (!strcmp(kernel->op, "bgemm_edge")) {
        accumulate(words, mr, packed);
        accumulate(words, nr, weights);
        const struct bd_kernel *arrange = bd_choose("edge_tile", "u64", kernel->isa);
        if (arrange != NULL)
            arrange->run.edge_tile_u64(words, packed);
    }
    kernel->run.bgemm_i32(words, bits_of(tile), packed, weights, out, out_stride);
    free(packed);
    free(weights);
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
struct tally check_bgemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
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

/* ---- edge_tile ---- */

static int arranges(const struct bd_kernel *kernel, size_t words) {
    size_t mr = (size_t)kernel->mr, first = words % 4 > 0, end = first + words / 4 * 4, bytes = 2 * words * mr * 8;
    uint64_t *plain = allocate(words * mr, sizeof *plain), *expected = allocate(2 * words * mr, sizeof *expected);
    unsigned char *tile = guarded(bytes);
    fill_words((char *)plain, words * mr, RANDOM, 0);
    memcpy(tile, plain, bytes / 2);
    for (size_t i = 0; i < words * mr; i++) {
        size_t k = i / mr, m = i % mr, paired = k >= first && k < end, j = k - first;
        size_t to = paired ? (first + j / 2 * 2) * mr + m * 2 + j % 2 : i;
        expected[2 * to] = expected[2 * to + 1] = paired && j % 4 == 1 ? ~plain[i] : plain[i];
    }
    kernel->run.edge_tile_u64(words, (uint64_t *)(void *)tile);
    int right = !memcmp(tile, expected, bytes) && guards_hold(tile, 1, bytes, bytes);
    free(tile - GUARD);
    free(expected);
    free(plain);
    return right;
}

struct tally check_edge_tile(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t words = 1; words <= 70; words++, tally.cases++)
        tally.failed += !arranges(kernel, words);
    return tally;
}

/* ---- bgemm_threshold ---- */

/* Tiles that follow each other, and the integers of each of their pixels with each of NR filters. */
struct row_of_tiles {
    size_t words, tiles, mr, nr;
    size_t tile_words; /* of a tile, as the kernel wants it */
    uint64_t *pixels;  /* [tiles][tile_words], of which [words][mr] are read here */
    uint64_t *filters; /* [words][nr] */
    int32_t *dots;     /* [tiles * mr][nr] */
};

static int32_t dot_of(const struct row_of_tiles *row, size_t pixel, size_t filter) {
    const uint64_t *tile = row->pixels + pixel / row->mr * row->tile_words + pixel % row->mr;
    int32_t sum = (int32_t)row->words * 64;
    for (size_t k = 0; k < row->words; k++)
        sum -= 2 * __builtin_popcountll(tile[k * row->mr] ^ row->filters[k * row->nr + filter]);
    return sum;
}

static struct row_of_tiles make_row_of_tiles(const struct bd_kernel *kernel, size_t words, size_t pixels) {
    size_t mr = (size_t)kernel->mr, nr = (size_t)kernel->nr, tiles = (pixels + mr - 1) / mr;
    const struct bd_kernel *arrange = bd_choose("edge_tile", "u64", kernel->isa);
    size_t tile_words = words * mr * (arrange == NULL ? 1 : 2);
    struct row_of_tiles row = {words, tiles, mr, nr, tile_words, NULL, NULL, NULL};
    row.pixels = allocate(tiles * tile_words, sizeof *row.pixels);
    row.filters = allocate(words * nr, sizeof *row.filters);
    row.dots = allocate(tiles * mr * nr, sizeof *row.dots);
    fill_words((char *)row.pixels, tiles * tile_words, RANDOM, 0);
    fill_words((char *)row.filters, words * nr, RANDOM, 0);
    for (size_t i = 0; i < tiles * mr * nr; i++)
        row.dots[i] = dot_of(&row, i / nr, i % nr);
    accumulate(words, nr, row.filters);
    for (size_t i = 0; i < tiles; i++) {
        accumulate(words, mr, row.pixels + i * tile_words);
        if (arrange != NULL)
            arrange->run.edge_tile_u64(words, row.pixels + i * tile_words);
    }
    return row;
}

/* Thresholds at an integer that occurs and beside it, and at both ends of what there is. */
static void fill_thresholds(const struct row_of_tiles *row, size_t filters, int32_t *thresholds) {
    for (size_t n = 0; n < filters; n++) {
        int32_t dot = row->dots[random_bits() % (row->tiles * row->mr) * row->nr + n];
        const int32_t near[] = {dot - 2, dot - 1, dot, dot + 1, dot + 2, INT32_MIN, INT32_MAX};
        thresholds[n] = near[random_bits() % LENGTH(near)];
    }
}

static int bgemm_threshold_agrees(const struct bd_kernel *kernel, size_t words, size_t pixels, size_t filters,
                                  size_t first) {
    struct row_of_tiles row = make_row_of_tiles(kernel, words, pixels);
    size_t stride = 1 + random_bits() % 3;
    uint64_t flips = random_bits() & (~UINT64_C(0) >> (64 - filters));
    uint64_t below_first = first ? ~UINT64_C(0) >> (64 - first) : 0;
    int32_t *thresholds = allocate(filters, sizeof *thresholds);
    fill_thresholds(&row, filters, thresholds);
    unsigned char *out = guarded(pixels * stride * sizeof(uint64_t));
    uint64_t *bits = (uint64_t *)(void *)out;
    for (size_t p = 0; p < pixels; p++)
        bits[p * stride] = first ? below_first : ~UINT64_C(0);
    kernel->run.bgemm_threshold_b1(pixels, filters, words, (int32_t)words * 64, row.pixels, row.filters, thresholds,
                                   flips, first, bits, stride);
    int agrees = guards_hold(out, pixels, sizeof *bits, stride * sizeof *bits);
    for (size_t p = 0; p < pixels; p++) {
        uint64_t expected = flips << first ^ below_first;
        for (size_t n = 0; n < filters; n++)
            expected ^= (uint64_t)(row.dots[p * row.nr + n] < thresholds[n]) << (first + n);
        agrees &= bits[p * stride] == expected;
    }
    free(out - GUARD);
    free(thresholds);
    free(row.dots);
    free(row.filters);
    free(row.pixels);
    return agrees;
}

struct tally check_bgemm_threshold(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t words[] = {1, 2, 3, 9, 30, 31, 32, 70};
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t i = 0; i < LENGTH(words); i++)
        for (size_t filters = 1; filters <= (size_t)kernel->nr; filters++)
            for (size_t first = 0; first + filters <= 64; first += 8)
                for (size_t pixels = 1; pixels <= 10; pixels += 3) {
                    tally.failed += !bgemm_threshold_agrees(kernel, words[i], pixels, filters, first);
                    tally.cases++;
                }
    return tally;
}

/* ---- peak ---- */

/* Rounds count alike, each whole words. */
struct tally check_peak(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    (void)scalar;
    uint64_t once = kernel->run.peak_u64(1);
    int right = once > 0 && once % 64 == 0 && kernel->run.peak_u64(0) == 0 && kernel->run.peak_u64(3) == 3 * once;
    return (struct tally){1, !right};
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

struct tally check_fgemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
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

/* ---- fgemm_affine ---- */

/* Tiles whose rows stand a little apart, transformed by the scalar rows, bit by bit what fgemm of the same instruction
 * set and faffine give. */
static int fgemm_affine_agrees(const struct bd_kernel *kernel, size_t taps, size_t channels, size_t pixels,
                               size_t filters, int adds, float minimum, float maximum) {
    const struct bd_kernel *multiplies = bd_choose("fgemm", "f32", kernel->isa);
    const struct bd_kernel *transforms = bd_choose("faffine", "f32", "scalar");
    size_t mr = (size_t)kernel->mr, nr = (size_t)kernel->nr, tiles = (pixels + mr - 1) / mr;
    size_t tile_rows = taps * mr + random_bits() % 3, stride = filters + random_bits() % 4;
    float *activations = allocate(mr * channels, sizeof *activations);
    float *weights = allocate(taps * channels * nr, sizeof *weights), *bias = allocate(filters, sizeof *bias);
    float *residual = allocate((pixels - 1) * stride + filters, sizeof *residual);
    const float **rows = allocate((tiles - 1) * tile_rows + taps * mr, sizeof *rows);
    fill_floats((char *)activations, mr * channels, 0);
    fill_floats((char *)weights, taps * channels * nr, 0);
    fill_floats((char *)bias, filters, 0);
    fill_floats((char *)residual, (pixels - 1) * stride + filters, 0);
    for (size_t i = 0; i < (tiles - 1) * tile_rows + taps * mr; i++)
        rows[i] = activations + random_bits() % mr * channels;

    float *sums = allocate(tiles * mr * nr, sizeof *sums);
    float *expected = allocate((pixels - 1) * stride + filters, sizeof *expected);
    for (size_t tile = 0; tile < tiles; tile++)
        multiplies->run.fgemm_f32(taps, channels, rows + tile * tile_rows, weights, sums + tile * mr * nr, nr);
    transforms->run.faffine_f32(pixels, filters, sums, nr, NULL, bias, adds ? residual : NULL, minimum, maximum,
                                expected, stride);
    unsigned char *out = guarded(pixels * stride * sizeof(float));
    float *found = (float *)(void *)out;
    kernel->run.fgemm_affine_f32(pixels, filters, taps, channels, rows, tile_rows, weights, bias,
                                 adds ? residual : NULL, minimum, maximum, found, stride);
    int agrees = guards_hold(out, pixels, filters * sizeof(float), stride * sizeof(float));
    for (size_t m = 0; m < pixels; m++)
        agrees &= !memcmp(found + m * stride, expected + m * stride, filters * sizeof *found);

    free(out - GUARD);
    free(expected);
    free(sums);
    free(rows);
    free(residual);
    free(bias);
    free(weights);
    free(activations);
    return agrees;
}

struct tally check_fgemm_affine(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t shapes[][2] = {{1, 1}, {1, 16}, {3, 9}, {9, 3}, {2, 5}};
    (void)scalar;
    struct tally tally = {0, 0};
    for (size_t i = 0; i < LENGTH(shapes); i++)
        for (size_t filters = 1; filters <= (size_t)kernel->nr; filters++)
            for (size_t pixels = 1; pixels <= 3 * (size_t)kernel->mr; pixels++)
                for (int adds = 0; adds <= 1; adds++) {
                    float limit = random_bits() % 2 ? 0.25f : INFINITY;
                    tally.failed +=
                        !fgemm_affine_agrees(kernel, shapes[i][0], shapes[i][1], pixels, filters, adds, -limit, limit);
                    tally.cases++;
                }
    return tally;
}
