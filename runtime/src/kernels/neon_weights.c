/* ARM with NEON: sums of activations, found in tables by codes of packed weights.
 *
 * Of many pixels: a row of a table holds one entry for each of them, and a code says which row is added. Of one pixel:
 * a table is one register for each byte of an entry, and 16 filters find their bytes at once. */
#include "declarations.h"

#if defined(__ARM_NEON)

#include <arm_neon.h>
#include <string.h>

#include "../ops/nearest.h"
#include "tile.h"

enum { CODE_BITS = 4, CODES = 16, WORD_CODES = 8, BYTE_CODES = 2, ROW_BYTES = 64, TABLE_BYTES = CODES * ROW_BYTES };

/* Pixels of a row, filters that are turned together, and the distance of two pixels' sums. */
enum { FLOAT_PIXELS = 16, SHORT_PIXELS = 32, FOUR = 4, EIGHT = 8, NR = 64 };

/* One pixel: filters of a tile, and of a register of codes. */
enum { FLOAT_FILTERS = 16, SHORT_FILTERS = 64, LANES = 16 };

/* Codes whose sums fit in 16 bits whatever the activations are: one entry is at most 4 * 128. */
enum { SAFE_CODES = INT16_MAX / (CODE_BITS * 128) };

/* So that taking out bits is one instruction and finding a row another; unlike BD_FORGET it may be moved. */
#define KEEP_APART(value) __asm__("" : "+r"(value))

/* A row of a table, of floats or of integers of 16 bits; or of a filter's sums. */
struct row {
    uint32x4_t of[4];
};

/* One instruction for a row of a table; sums come and go by pairs of registers, wherever these are. */
BD_INLINE struct row load_row(const void *from) {
    struct row row;
#if defined(__aarch64__)
    uint32x4x4_t all = vld1q_u32_x4(from);
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        row.of[i] = all.val[i];
#else
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        row.of[i] = vld1q_u32((const uint32_t *)from + 4 * i);
#endif
    return row;
}

BD_INLINE struct row load_sums(const void *from) {
    struct row row;
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        row.of[i] = vld1q_u32((const uint32_t *)from + 4 * i);
    return row;
}

BD_INLINE void store_row(void *to, struct row row) {
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        vst1q_u32((uint32_t *)to + 4 * i, row.of[i]);
}

BD_INLINE uint32x4_t add(int floats, uint32x4_t a, uint32x4_t b) {
    if (floats)
        return vreinterpretq_u32_f32(vaddq_f32(vreinterpretq_f32_u32(a), vreinterpretq_f32_u32(b)));
    return vreinterpretq_u32_u16(vaddq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
}

BD_INLINE uint32x4_t negative(int floats, uint32x4_t a) {
    if (floats)
        return vreinterpretq_u32_f32(vnegq_f32(vreinterpretq_f32_u32(a)));
    return vreinterpretq_u32_s16(vnegq_s16(vreinterpretq_s16_u32(a)));
}

BD_INLINE struct row add_rows(int floats, struct row a, struct row b) {
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        a.of[i] = add(floats, a.of[i], b.of[i]);
    return a;
}

BD_INLINE struct row negative_row(int floats, struct row a) {
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        a.of[i] = negative(floats, a.of[i]);
    return a;
}

/* ---- rows become columns ---- */

BD_INLINE uint32x4_t low_halves(uint32x4_t a, uint32x4_t b) {
#if defined(__aarch64__)
    return vreinterpretq_u32_u64(vzip1q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)));
#else
    return vcombine_u32(vget_low_u32(a), vget_low_u32(b));
#endif
}

BD_INLINE uint32x4_t high_halves(uint32x4_t a, uint32x4_t b) {
#if defined(__aarch64__)
    return vreinterpretq_u32_u64(vzip2q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)));
#else
    return vcombine_u32(vget_high_u32(a), vget_high_u32(b));
#endif
}

BD_INLINE void turn_four(uint32x4_t lines[4]) {
    uint32x4x2_t first = vtrnq_u32(lines[0], lines[1]), second = vtrnq_u32(lines[2], lines[3]);
    lines[0] = low_halves(first.val[0], second.val[0]);
    lines[1] = low_halves(first.val[1], second.val[1]);
    lines[2] = high_halves(first.val[0], second.val[0]);
    lines[3] = high_halves(first.val[1], second.val[1]);
}

/* Pairs of lines, then those pairs as words. */
BD_INLINE void turn_eight(uint16x8_t lines[8]) {
    uint32x4_t words[2][4];
    BD_UNROLL
    for (size_t i = 0; i < 4; i++) {
        uint16x8x2_t pair = vtrnq_u16(lines[2 * i], lines[2 * i + 1]);
        words[0][i] = vreinterpretq_u32_u16(pair.val[0]);
        words[1][i] = vreinterpretq_u32_u16(pair.val[1]);
    }
    turn_four(words[0]);
    turn_four(words[1]);
    BD_UNROLL
    for (size_t i = 0; i < 8; i++)
        lines[i] = vreinterpretq_u16_u32(words[i % 2][i / 2]);
}

/* ---- many pixels ---- */

/* Row `code` is the sum of four channels with the signs of its bits; all signs turned give its negative. */
BD_INLINE void make_table(int floats, const struct row channels[4], char *table) {
    struct row pairs[2][2];
    BD_UNROLL
    for (size_t i = 0; i < 2; i++) {
        pairs[i][0] = add_rows(floats, channels[2 * i], channels[2 * i + 1]);
        pairs[i][1] = add_rows(floats, channels[2 * i + 1], negative_row(floats, channels[2 * i]));
    }
    BD_UNROLL
    for (size_t code = 0; code < CODES / 2; code++) {
        struct row first = pairs[0][(code ^ code >> 1) & 1], second = pairs[1][code >> 2];
        if (code & 2)
            first = negative_row(floats, first);
        struct row sum = add_rows(floats, first, second);
        store_row(table + code * ROW_BYTES, sum);
        store_row(table + (CODES - 1 - code) * ROW_BYTES, negative_row(floats, sum));
    }
}

/* Channels that are not there are 0. */
BD_INLINE float32x4_t load_floats(const float *from, size_t some) {
    float present[4] = {0, 0, 0, 0};
    if (some >= 4)
        return vld1q_f32(from);
    memcpy(present, from, some * sizeof *from);
    return vld1q_f32(present);
}

BD_INLINE uint16x8_t load_bytes(const int8_t *from, size_t some) {
    int8_t present[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (some >= 8)
        return vreinterpretq_u16_s16(vmovl_s8(vld1_s8(from)));
    memcpy(present, from, some);
    return vreinterpretq_u16_s16(vmovl_s8(vld1_s8(present)));
}

/* Up to four channels from `first` on. */
BD_INLINE void tabulate_floats(size_t some, const float *const *rows, size_t first, char *table) {
    struct row of[4];
    BD_UNROLL
    for (size_t i = 0; i < 4; i++) {
        uint32x4_t lines[4];
        BD_UNROLL
        for (size_t m = 0; m < 4; m++)
            lines[m] = vreinterpretq_u32_f32(load_floats(rows[4 * i + m] + first, some));
        turn_four(lines);
        BD_UNROLL
        for (size_t m = 0; m < 4; m++)
            of[m].of[i] = lines[m];
    }
    make_table(1, of, table);
}

/* Up to eight, of which one or two tables are made. */
BD_INLINE void tabulate_bytes(size_t some, const int8_t *const *rows, size_t first, char *table) {
    struct row of[8];
    for (size_t i = 0; i < 4; i++) {
        uint16x8_t lines[8];
        BD_UNROLL
        for (size_t m = 0; m < 8; m++)
            lines[m] = load_bytes(rows[8 * i + m] + first, some);
        turn_eight(lines);
        BD_UNROLL
        for (size_t m = 0; m < 8; m++)
            of[m].of[i] = vreinterpretq_u32_u16(lines[m]);
    }
    make_table(0, of, table);
    if (some > 4)
        make_table(0, of + 4, table + TABLE_BYTES);
}

void bd_slice_tables_f32_16x16__neon(size_t channels, const void *const *rows, size_t first, void *tables) {
    char *table = tables;
    size_t c = 0;
    for (; c + 4 <= channels; c += 4, table += TABLE_BYTES)
        tabulate_floats(4, (const float *const *)rows, first + c, table);
    if (c < channels)
        tabulate_floats(channels - c, (const float *const *)rows, first + c, table);
}

void bd_slice_tables_i16_32x16__neon(size_t channels, const void *const *rows, size_t first, void *tables) {
    char *table = tables;
    size_t c = 0;
    for (; c + 8 <= channels; c += 8, table += 2 * TABLE_BYTES)
        tabulate_bytes(8, (const int8_t *const *)rows, first + c, table);
    if (c < channels)
        tabulate_bytes(channels - c, (const int8_t *const *)rows, first + c, table);
}

BD_INLINE struct row find_row(const char *const *tables, size_t g, uint32_t codes) {
    size_t code = codes >> (CODE_BITS * g) & (CODES - 1);
    KEEP_APART(code);
    return load_row(tables[g] + code * ROW_BYTES);
}

/* Where each table begins stays in a register, so that a row is found by taking bits out and one sum. Two rows are
 * added to each other first, so that the next ones can be loaded meanwhile. */
BD_INLINE void add_codes(int floats, size_t filters, size_t groups, const char *tables, const uint32_t *codes,
                         char *sums) {
    const char *table[WORD_CODES];
    BD_UNROLL
    for (size_t g = 0; g < WORD_CODES; g++) {
        table[g] = tables + g * TABLE_BYTES;
        BD_FORGET(table[g], "r");
    }
    for (size_t n = 0; n < filters; n++, sums += ROW_BYTES) {
        struct row sum = load_sums(sums);
        BD_UNROLL
        for (size_t g = 0; g < WORD_CODES; g += 2)
            if (g + 1 < groups)
                sum = add_rows(floats, sum,
                               add_rows(floats, find_row(table, g, codes[n]), find_row(table, g + 1, codes[n])));
            else if (g < groups)
                sum = add_rows(floats, sum, find_row(table, g, codes[n]));
        store_row(sums, sum);
    }
}

BD_INLINE void slice_sums(int floats, size_t filters, size_t groups, const void *tables, const uint32_t *codes,
                          void *sums) {
    if (groups == WORD_CODES)
        add_codes(floats, filters, WORD_CODES, tables, codes, sums);
    else
        add_codes(floats, filters, groups, tables, codes, sums);
}

/* Four filters of four pixels at a time. */
static void turn_floats(size_t filters, float *sums, float *out) {
    for (size_t n = 0; n < filters; n += FOUR, sums += FOUR * FLOAT_PIXELS, out += FOUR)
        for (size_t m = 0; m < FLOAT_PIXELS; m += FOUR) {
            uint32x4_t lines[4];
            BD_UNROLL
            for (size_t i = 0; i < FOUR; i++) {
                lines[i] = vreinterpretq_u32_f32(vld1q_f32(sums + i * FLOAT_PIXELS + m));
                vst1q_f32(sums + i * FLOAT_PIXELS + m, vdupq_n_f32(0));
            }
            turn_four(lines);
            BD_UNROLL
            for (size_t i = 0; i < FOUR; i++) {
                float *to = out + (m + i) * NR;
                vst1q_f32(to, vaddq_f32(vld1q_f32(to), vreinterpretq_f32_u32(lines[i])));
            }
        }
}

/* Eight of eight, which become wide. */
static void turn_integers(size_t filters, uint16_t *sums, int32_t *out) {
    for (size_t n = 0; n < filters; n += EIGHT, sums += EIGHT * SHORT_PIXELS, out += EIGHT)
        for (size_t m = 0; m < SHORT_PIXELS; m += EIGHT) {
            uint16x8_t lines[8];
            BD_UNROLL
            for (size_t i = 0; i < EIGHT; i++) {
                lines[i] = vld1q_u16(sums + i * SHORT_PIXELS + m);
                vst1q_u16(sums + i * SHORT_PIXELS + m, vdupq_n_u16(0));
            }
            turn_eight(lines);
            BD_UNROLL
            for (size_t i = 0; i < EIGHT; i++) {
                int16x8_t line = vreinterpretq_s16_u16(lines[i]);
                int32_t *to = out + (m + i) * NR;
                vst1q_s32(to, vaddw_s16(vld1q_s32(to), vget_low_s16(line)));
                vst1q_s32(to + 4, vaddw_s16(vld1q_s32(to + 4), vget_high_s16(line)));
            }
        }
}

void bd_slice_sums_f32_16x64__neon(size_t filters, size_t groups, const void *tables, const uint32_t *codes, void *sums,
                                   void *out) {
    slice_sums(1, filters, groups, tables, codes, sums);
    if (out != NULL)
        turn_floats(filters, sums, out);
}

void bd_slice_sums_i16_32x64__neon(size_t filters, size_t groups, const void *tables, const uint32_t *codes, void *sums,
                                   void *out) {
    slice_sums(0, filters, groups, tables, codes, sums);
    if (out != NULL)
        turn_integers(filters, sums, out);
}

/* ---- one pixel ---- */

/* All 16 bytes that are found at `codes`, which are below 16. */
BD_INLINE uint8x16_t look_up(uint8x16_t table, uint8x16_t codes) {
#if defined(__aarch64__)
    return vqtbl1q_u8(table, codes);
#else
    uint8x8x2_t halves = {{vget_low_u8(table), vget_high_u8(table)}};
    return vcombine_u8(vtbl2_u8(halves, vget_low_u8(codes)), vtbl2_u8(halves, vget_high_u8(codes)));
#endif
}

/* Sums of four floats with the signs of each code's bits: first the lowest bytes of all, at last the highest. */
BD_INLINE void float_table(float32x4_t four, float *table) {
    static const float signs[2][4] = {{1, -1, 1, -1}, {1, 1, -1, -1}};
    float values[4], entries[CODES];
    vst1q_f32(values, four);
    float32x4_t low = vmulq_n_f32(vld1q_f32(signs[0]), values[0]);
    low = vaddq_f32(low, vmulq_n_f32(vld1q_f32(signs[1]), values[1]));
    vst1q_f32(entries, vaddq_f32(low, vdupq_n_f32(values[2] + values[3])));
    vst1q_f32(entries + 4, vaddq_f32(low, vdupq_n_f32(values[3] - values[2])));
    vst1q_f32(entries + 8, vaddq_f32(low, vdupq_n_f32(values[2] - values[3])));
    vst1q_f32(entries + 12, vsubq_f32(low, vdupq_n_f32(values[2] + values[3])));
    uint8x16x4_t bytes = vld4q_u8((const uint8_t *)entries);
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        vst1q_u8((uint8_t *)table + 16 * i, bytes.val[i]);
}

void bd_tables_f32_4x16__neon(size_t pixels, size_t channels, const float *x, float *tables) {
    for (size_t p = 0; p < pixels; p++, x += channels)
        for (size_t c = 0; c < channels; c += CODE_BITS, tables += CODES)
            float_table(load_floats(x + c, channels - c), tables);
}

/* The same of integers, in two registers. */
BD_INLINE void short_table(const int16_t four[4], int16_t *table) {
    static const int16_t signs[3][8] = {
        {1, -1, 1, -1, 1, -1, 1, -1}, {1, 1, -1, -1, 1, 1, -1, -1}, {1, 1, 1, 1, -1, -1, -1, -1}};
    int16x8_t low = vmulq_n_s16(vld1q_s16(signs[0]), four[0]);
    low = vmlaq_n_s16(low, vld1q_s16(signs[1]), four[1]);
    low = vmlaq_n_s16(low, vld1q_s16(signs[2]), four[2]);
    int16x8_t last = vdupq_n_s16(four[3]);
    uint8x16x2_t bytes =
        vuzpq_u8(vreinterpretq_u8_s16(vaddq_s16(low, last)), vreinterpretq_u8_s16(vsubq_s16(low, last)));
    vst1q_u8((uint8_t *)table, bytes.val[0]);
    vst1q_u8((uint8_t *)table + 16, bytes.val[1]);
}

void bd_tables_i16_4x16__neon(size_t pixels, size_t channels, const float *x, float scale, int16_t *tables) {
    for (size_t p = 0; p < pixels; p++, x += channels)
        for (size_t c = 0; c < channels; c += CODE_BITS, tables += CODES) {
            int16_t four[CODE_BITS] = {0, 0, 0, 0};
            for (size_t i = 0; i < CODE_BITS && c + i < channels; i++)
                four[i] = (int16_t)bd_quantized(x[c + i], scale);
            short_table(four, tables);
        }
}

/* The codes of table `g` among those of its byte. */
BD_INLINE uint8x16_t codes_of(size_t g, uint8x16_t bytes) {
    return g % 2 ? vshrq_n_u8(bytes, CODE_BITS) : vandq_u8(bytes, vdupq_n_u8(15));
}

/* Four bytes of each of 16 entries become four registers of four floats. */
BD_INLINE void add_floats(const uint8x16_t table[4], uint8x16_t codes, float32x4_t sums[4]) {
    uint8x16x2_t low = vzipq_u8(look_up(table[0], codes), look_up(table[1], codes));
    uint8x16x2_t high = vzipq_u8(look_up(table[2], codes), look_up(table[3], codes));
    BD_UNROLL
    for (size_t i = 0; i < 2; i++) {
        uint16x8x2_t words = vzipq_u16(vreinterpretq_u16_u8(low.val[i]), vreinterpretq_u16_u8(high.val[i]));
        sums[2 * i] = vaddq_f32(sums[2 * i], vreinterpretq_f32_u16(words.val[0]));
        sums[2 * i + 1] = vaddq_f32(sums[2 * i + 1], vreinterpretq_f32_u16(words.val[1]));
    }
}

/* Of a word of each filter the first bytes stand together, then the second ones, ... */
BD_INLINE void add_float_word(size_t groups, const uint8_t *tables, const uint8_t *weights,
                              float32x4_t sums[FLOAT_FILTERS / LANES][4]) {
    uint8x16x4_t codes[FLOAT_FILTERS / LANES];
    BD_UNROLL
    for (size_t n = 0; n < FLOAT_FILTERS / LANES; n++)
        codes[n] = vld4q_u8(weights + 4 * LANES * n);
    BD_UNROLL
    for (size_t g = 0; g < WORD_CODES; g++)
        if (g < groups) {
            uint8x16_t table[4];
            BD_UNROLL
            for (size_t i = 0; i < 4; i++)
                table[i] = vld1q_u8(tables + ROW_BYTES * g + 16 * i);
            BD_UNROLL
            for (size_t n = 0; n < FLOAT_FILTERS / LANES; n++)
                add_floats(table, codes_of(g, codes[n].val[g / 2]), sums[n]);
        }
}

void bd_wgemv_f32_1x16__neon(size_t taps, size_t groups, const void *const *rows, const void *weights, float *out,
                             size_t out_stride) {
    (void)out_stride;
    const uint8_t *words = weights;
    float32x4_t sums[FLOAT_FILTERS / LANES][4];
    BD_UNROLL
    for (size_t i = 0; i < FLOAT_FILTERS / 4; i++)
        sums[i / 4][i % 4] = vdupq_n_f32(0);
    for (size_t t = 0; t < taps; t++) {
        const uint8_t *tables = rows[t];
        size_t g = 0;
        for (; g + WORD_CODES <= groups; g += WORD_CODES, words += 4 * FLOAT_FILTERS)
            add_float_word(WORD_CODES, tables + ROW_BYTES * g, words, sums);
        if (g < groups) {
            add_float_word(groups - g, tables + ROW_BYTES * g, words, sums);
            words += 4 * FLOAT_FILTERS;
        }
    }
    BD_UNROLL
    for (size_t i = 0; i < FLOAT_FILTERS / 4; i++)
        vst1q_f32(out + 4 * i, sums[i / 4][i % 4]);
}

/* Low bytes are summed in 16 bits, high ones in eight, where they count modulo 256. */
struct byte_sums {
    uint16x8_t low[2];
    uint8x16_t high;
};

BD_INLINE struct byte_sums no_sums(void) {
    return (struct byte_sums){{vdupq_n_u16(0), vdupq_n_u16(0)}, vdupq_n_u8(0)};
}

/* Adds 16 sums to those of 32 bits, and begins anew. */
BD_INLINE void widen(struct byte_sums *sums, int32_t *out) {
    uint8x16x2_t high = vzipq_u8(vdupq_n_u8(0), sums->high);
    BD_UNROLL
    for (size_t i = 0; i < 2; i++) {
        int16x8_t sum = vreinterpretq_s16_u16(vaddq_u16(sums->low[i], vreinterpretq_u16_u8(high.val[i])));
        int32_t *to = out + 8 * i;
        vst1q_s32(to, vaddw_s16(vld1q_s32(to), vget_low_s16(sum)));
        vst1q_s32(to + 4, vaddw_s16(vld1q_s32(to + 4), vget_high_s16(sum)));
    }
    *sums = no_sums();
}

BD_INLINE void add_shorts(uint8x16_t low, uint8x16_t high, uint8x16_t codes, struct byte_sums *sums) {
    uint8x16_t bytes = look_up(low, codes);
    sums->low[0] = vaddw_u8(sums->low[0], vget_low_u8(bytes));
    sums->low[1] = vaddw_u8(sums->low[1], vget_high_u8(bytes));
    sums->high = vaddq_u8(sums->high, look_up(high, codes));
}

BD_INLINE void add_short_byte(size_t groups, const uint8_t *tables, const uint8_t *weights, struct byte_sums *sums) {
    uint8x16_t codes[SHORT_FILTERS / LANES];
    BD_UNROLL
    for (size_t n = 0; n < SHORT_FILTERS / LANES; n++)
        codes[n] = vld1q_u8(weights + LANES * n);
    BD_UNROLL
    for (size_t g = 0; g < BYTE_CODES; g++)
        if (g < groups) {
            uint8x16_t low = vld1q_u8(tables + 2 * CODES * g), high = vld1q_u8(tables + 2 * CODES * g + CODES);
            BD_UNROLL
            for (size_t n = 0; n < SHORT_FILTERS / LANES; n++)
                add_shorts(low, high, codes_of(g, codes[n]), sums + n);
        }
}

BD_INLINE void widen_all(struct byte_sums *sums, int32_t *out) {
    BD_UNROLL
    for (size_t n = 0; n < SHORT_FILTERS / LANES; n++)
        widen(sums + n, out + LANES * n);
}

void bd_wgemv_i32_1x64__neon(size_t taps, size_t groups, const void *const *rows, const void *weights, int32_t *out,
                             size_t out_stride) {
    (void)out_stride;
    const uint8_t *bytes = weights;
    struct byte_sums sums[SHORT_FILTERS / LANES];
    size_t pending = 0;
    memset(out, 0, SHORT_FILTERS * sizeof *out);
    BD_UNROLL
    for (size_t n = 0; n < SHORT_FILTERS / LANES; n++)
        sums[n] = no_sums();
    for (size_t t = 0; t < taps; t++) {
        const uint8_t *tables = rows[t];
        for (size_t g = 0; g < groups; g += BYTE_CODES, bytes += SHORT_FILTERS) {
            if (groups - g >= BYTE_CODES)
                add_short_byte(BYTE_CODES, tables + 2 * CODES * g, bytes, sums);
            else
                add_short_byte(1, tables + 2 * CODES * g, bytes, sums);
            pending += BYTE_CODES;
            if (pending + BYTE_CODES > SAFE_CODES) {
                widen_all(sums, out);
                pending = 0;
            }
        }
    }
    widen_all(sums, out);
}

#endif
