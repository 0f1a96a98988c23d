/* wgemm, wgemv, slices and the tables that they read, against sums of single products: these rows have no scalar one.
 */
#include "check_kernels.h"

#define FLOAT_TOLERANCE 1e-6
#define STEP 0.03f

/* One tile of signed sums: the same weights as +-1 and as codes, activations between guards of their own. */
struct signs {
    const struct bd_kernel *kernel, *tables;
    size_t taps, channels, groups, mr, nr, entry;
    size_t stride;
    char *activations; /* [tap][mr][channels] */
    char *entries;     /* [tap][mr][groups][entries of a table] */
    const void **rows;
    int8_t *weights; /* [tap][channels][nr] */
    unsigned char *codes;
};

static size_t bits_of_word(const struct bd_kernel *tables) {
    return !strcmp(tables->out, "f32") ? 32 : tables->mr == 5 ? 16 : 8;
}

/* Sets the bits of the codes one by one. */
static void pack(struct signs *signs) {
    size_t code = (size_t)signs->tables->mr, bits = bits_of_word(signs->tables), in_word = bits / code;
    size_t words = (signs->groups + in_word - 1) / in_word;
    signs->codes = allocate(signs->taps * words * signs->nr, bits / 8);
    memset(signs->codes, 0, signs->taps * words * signs->nr * bits / 8);
    for (size_t t = 0; t < signs->taps; t++)
        for (size_t c = 0; c < signs->channels; c++)
            for (size_t n = 0; n < signs->nr; n++) {
                size_t group = c / code, bit = group % in_word * code + c % code;
                size_t word = (t * words + group / in_word) * signs->nr + n;
                unsigned char *byte = signs->codes + word * bits / 8 + bit / 8;
                if (signs->weights[(t * signs->channels + c) * signs->nr + n] < 0)
                    *byte = (unsigned char)(*byte | 1u << (bit % 8));
            }
}

static int is_float(const struct signs *signs) {
    return !strcmp(signs->kernel->out, "f32");
}

/* Floats all around the steps of STEP, and now and then far beyond them. */
static void fill_steps(char *bytes, size_t count, int extreme) {
    for (size_t i = 0; i < count; i++) {
        float steps = (float)(random_bits() % 1200) / 4 - 150;
        float value = extreme ? -1e30f : random_bits() % 50 ? steps * STEP : random_bits() % 2 ? 1e30f : (float)NAN;
        memcpy(bytes + i * sizeof value, &value, sizeof value);
    }
}

static struct signs make_signs(const struct bd_kernel *kernel, size_t taps, size_t channels, int extreme) {
    int floats = !strcmp(kernel->out, "f32");
    const struct bd_kernel *tables = bd_choose("tables", floats ? "f32" : "i16", kernel->isa);
    size_t mr = (size_t)kernel->mr, nr = (size_t)kernel->nr, rows = taps * mr;
    struct signs signs = {kernel, tables, taps, channels, 0, mr, nr, floats ? 4 : 2, 0, NULL, NULL, NULL, NULL, NULL};
    signs.groups = (channels + (size_t)tables->mr - 1) / (size_t)tables->mr;
    signs.stride = nr + random_bits() % 4;
    signs.activations = allocate(rows * channels, sizeof(float));
    signs.entries = allocate(rows * signs.groups * (size_t)tables->nr, signs.entry);
    signs.rows = allocate(rows, sizeof *signs.rows);
    signs.weights = allocate(taps * channels * nr, 1);
    for (size_t i = 0; i < taps * channels * nr; i++)
        signs.weights[i] = extreme || random_bits() % 2 ? 1 : -1;
    if (floats)
        fill_floats(signs.activations, rows * channels, extreme);
    else
        fill_steps(signs.activations, rows * channels, extreme);
    for (size_t i = 0; i < rows; i++)
        signs.rows[i] = signs.entries + i * signs.groups * (size_t)tables->nr * signs.entry;
    pack(&signs);
    return signs;
}

static void free_signs(struct signs *signs) {
    free(signs->activations);
    free(signs->entries);
    free(signs->rows);
    free(signs->weights);
    free(signs->codes);
}

static void run_signs(struct signs *signs, unsigned char *out) {
    size_t rows = signs->taps * signs->mr;
    if (is_float(signs)) {
        signs->tables->run.tables_f32(rows, signs->channels, (const float *)(const void *)signs->activations,
                                      (float *)(void *)signs->entries);
        signs->kernel->run.wgemm_f32(signs->taps, signs->groups, signs->rows, signs->codes, (float *)(void *)out,
                                     signs->stride);
    } else {
        signs->tables->run.tables_i16(rows, signs->channels, (const float *)(const void *)signs->activations, STEP,
                                      (int16_t *)(void *)signs->entries);
        signs->kernel->run.wgemm_i32(signs->taps, signs->groups, signs->rows, signs->codes, (int32_t *)(void *)out,
                                     signs->stride);
    }
}

static double activation(const struct signs *signs, size_t index) {
    float value;
    memcpy(&value, signs->activations + index * sizeof value, sizeof value);
    if (is_float(signs))
        return (double)value;
    return value / STEP >= -128 ? fmin(rint((double)(value / STEP)), 127) : -128;
}

/* Whether out[m][n] is the sum of its products. */
static int sum_agrees(const struct signs *signs, size_t m, size_t n, const unsigned char *out, int exact) {
    double sum = 0, magnitudes = 0;
    for (size_t t = 0; t < signs->taps; t++)
        for (size_t c = 0; c < signs->channels; c++) {
            double value = activation(signs, (t * signs->mr + m) * signs->channels + c);
            sum += value * signs->weights[(t * signs->channels + c) * signs->nr + n];
            magnitudes += fabs(value);
        }
    float real;
    int32_t whole;
    memcpy(&real, out + (m * signs->stride + n) * 4, 4);
    memcpy(&whole, &real, 4);
    double found = is_float(signs) ? (double)real : (double)whole;
    return fabs(found - sum) <= (exact ? 0 : FLOAT_TOLERANCE * magnitudes);
}

static int signs_agree(const struct bd_kernel *kernel, size_t taps, size_t channels, int extreme) {
    struct signs signs = make_signs(kernel, taps, channels, extreme);
    unsigned char *out = guarded(signs.mr * signs.stride * 4);
    run_signs(&signs, out);
    int agrees = guards_hold(out, signs.mr, signs.nr * 4, signs.stride * 4);
    for (size_t m = 0; m < signs.mr; m++)
        for (size_t n = 0; n < signs.nr; n++)
            agrees &= sum_agrees(&signs, m, n, out, extreme || !is_float(&signs));
    free(out - GUARD);
    free_signs(&signs);
    return agrees;
}

/* Channels that fill no code, one word, a few and many: 255 and more are beyond what 16 bits can sum. */
struct tally check_wgemm(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t channels[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 16, 17, 30, 31, 32, 33, 64, 130, 255, 256, 700};
    struct tally tally = {0, 0};
    (void)scalar;
    for (size_t taps = 1; taps <= 25; taps += 4)
        for (size_t i = 0; i < LENGTH(channels); i++)
            for (int extreme = 0; extreme <= 1; extreme++) {
                if (channels[i] > 64 && taps % 8 != 1)
                    continue;
                tally.failed += !signs_agree(kernel, taps, channels[i], extreme);
                tally.cases++;
            }
    return tally;
}

/* Tables as wgemv reads them, since each instruction set has its own order of bytes. */
struct tally check_tables(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    return check_wgemm(bd_choose("wgemv", strcmp(kernel->out, "f32") ? "i32" : "f32", kernel->isa), scalar);
}

/* Slices of one tile: what slice_tables reads, and the codes of all filters. */
struct slices {
    const struct bd_kernel *kernel, *tables;
    size_t count, channels, filters; /* the last slice has `channels`, all others 32 */
    size_t mr, element;
    char *activations; /* [slice][mr][32] */
    int8_t *weights;   /* [slice][32][filters] */
    uint32_t *codes;   /* [slice][filters] */
};

enum { SLICE = 32, SAFE_SLICES = 7, TABLE_BYTES = 16 * 64 };

static struct slices make_slices(const struct bd_kernel *kernel, size_t count, size_t channels, size_t filters,
                                 int extreme) {
    int floats = !strcmp(kernel->out, "f32");
    struct slices slices = {kernel,         bd_choose("slice_tables", kernel->out, kernel->isa),
                            count,          channels,
                            filters,        (size_t)kernel->mr,
                            floats ? 4 : 1, NULL,
                            NULL,           NULL};
    size_t inputs = count * slices.mr * SLICE;
    slices.activations = allocate(inputs, slices.element);
    slices.weights = allocate(count * SLICE * filters, 1);
    slices.codes = allocate(count * filters, sizeof *slices.codes);
    if (floats)
        fill_floats(slices.activations, inputs, extreme);
    for (size_t i = 0; !floats && i < inputs; i++)
        slices.activations[i] = (char)(extreme ? -128 : (int)(random_bits() % 256) - 128);
    for (size_t i = 0; i < count * filters; i++)
        slices.codes[i] = 0;
    for (size_t i = 0; i < count * SLICE * filters; i++) {
        int negative = !extreme && random_bits() % 2;
        slices.weights[i] = negative ? -1 : 1;
        if (negative && (i / filters / SLICE + 1 < count || i / filters % SLICE < channels))
            slices.codes[i / filters / SLICE * filters + i % filters] |= UINT32_C(1) << i / filters % SLICE;
    }
    return slices;
}

static double slice_activation(const struct slices *slices, size_t slice, size_t m, size_t c) {
    size_t index = (slice * slices->mr + m) * SLICE + c;
    float value;
    if (slices->element == 1)
        return (double)(int8_t)slices->activations[index];
    memcpy(&value, slices->activations + index * sizeof value, sizeof value);
    return (double)value;
}

static size_t channels_of(const struct slices *slices, size_t slice) {
    return slice + 1 < slices->count ? (size_t)SLICE : slices->channels;
}

/* The channels of a slice end where their allocation ends; they begin at the last 32 of a row. */
static void run_slices(const struct slices *slices, unsigned char *tables, void *sums, void *out) {
    const void *rows[BD_MAX_MR];
    for (size_t s = 0; s < slices->count; s++) {
        size_t channels = channels_of(slices, s), bytes = channels * slices->element, first = s % 3;
        char *copies = allocate(slices->mr, bytes);
        for (size_t m = 0; m < slices->mr; m++) {
            memcpy(copies + m * bytes, slices->activations + (s * slices->mr + m) * SLICE * slices->element, bytes);
            rows[m] = (const void *)((uintptr_t)(copies + m * bytes) - first * slices->element);
        }
        void *at_last = (s + 1) % SAFE_SLICES == 0 || s + 1 == slices->count ? out : NULL;
        const uint32_t *codes = slices->codes + s * slices->filters;
        if (slices->element == 1) {
            slices->tables->run.slice_tables_i16(channels, rows, first, tables);
            slices->kernel->run.slice_sums_i16(slices->filters, (channels + 3) / 4, tables, codes, sums, at_last);
        } else {
            slices->tables->run.slice_tables_f32(channels, rows, first, tables);
            slices->kernel->run.slice_sums_f32(slices->filters, (channels + 3) / 4, tables, codes, sums, at_last);
        }
        free(copies);
    }
}

static int slice_sum_agrees(const struct slices *slices, size_t m, size_t n, const void *out, int extreme) {
    double sum = 0, magnitudes = 0;
    for (size_t s = 0; s < slices->count; s++)
        for (size_t c = 0; c < channels_of(slices, s); c++) {
            double value = slice_activation(slices, s, m, c);
            sum += value * slices->weights[(s * SLICE + c) * slices->filters + n];
            magnitudes += fabs(value);
        }
    size_t index = m * (size_t)slices->kernel->nr + n;
    double found = slices->element == 1 ? (double)((const int32_t *)out)[index] : (double)((const float *)out)[index];
    return fabs(found - sum) <= (extreme || slices->element == 1 ? 0 : FLOAT_TOLERANCE * magnitudes);
}

static int slices_agree(const struct bd_kernel *kernel, size_t count, size_t channels, size_t filters, int extreme) {
    struct slices slices = make_slices(kernel, count, channels, filters, extreme);
    size_t entries = slices.mr * (size_t)kernel->nr, sum_bytes = entries * (slices.element == 1 ? 2 : 4);
    unsigned char *tables = guarded(SLICE / 4 * TABLE_BYTES), *sums = guarded(sum_bytes), *out = guarded(entries * 4);
    memset(sums, 0, sum_bytes);
    memset(out, 0, entries * 4);
    run_slices(&slices, tables, sums, out);
    int agrees = guards_hold(tables, 1, SLICE / 4 * TABLE_BYTES, SLICE / 4 * TABLE_BYTES) &&
                 guards_hold(sums, 1, sum_bytes, sum_bytes) && guards_hold(out, 1, entries * 4, entries * 4);
    for (size_t i = 0; i < sum_bytes; i++)
        agrees &= sums[i] == 0;
    for (size_t m = 0; m < slices.mr; m++)
        for (size_t n = 0; n < filters; n++)
            agrees &= slice_sum_agrees(&slices, m, n, out, extreme);
    free(out - GUARD);
    free(sums - GUARD);
    free(tables - GUARD);
    free(slices.codes);
    free(slices.weights);
    free(slices.activations);
    return agrees;
}

/* As many slices as their sums can hold, and more. */
struct tally check_slices(const struct bd_kernel *kernel, const struct bd_kernel *scalar) {
    static const size_t counts[] = {1, 2, 7, 8, 15}, filters[] = {1, 3, 4, 7, 8, 33, 64};
    const struct bd_kernel *sums = bd_choose("slice_sums", kernel->out, kernel->isa);
    struct tally tally = {0, 0};
    (void)scalar;
    for (size_t i = 0; i < LENGTH(counts); i++)
        for (size_t k = 0; k < LENGTH(filters); k++)
            for (size_t channels = 1; channels <= SLICE; channels += channels < 10 ? 1 : 11)
                for (int extreme = 0; extreme <= 1; extreme++) {
                    tally.failed += !slices_agree(sums, counts[i], channels, filters[k], extreme);
                    tally.cases++;
                }
    return tally;
}
