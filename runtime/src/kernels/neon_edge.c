/* 64-bit ARM: bgemm_edge for four pixels by sixteen filters, its instructions in an order that is laid down here.
 *
 * A register holds a word of two filters, or one of a pixel twice. Two pixels by four registers of filters, eight
 * cells, are computed at a time; of two words a cell takes five instructions:
 *
 *   o1 = pixel1 ^ filter1;  o2 = pixel2 ^ filter2;  c = o1 ? ~o2 : last;  sum += popcount(c);  last = o2
 *
 * No instruction complements and selects. So the second word of every other pair is complemented in the pixels, once
 * for all filters: that pair gives c, and a complemented last; the pair after it gives ~c, whose count is subtracted,
 * and a last as it should be. What a subtraction lacks is eight for each byte.
 *
 * A core that executes in order waits for every result it needs. So the instructions of a cell are spread over four
 * rows, among those of its neighbours, and loads stand long before their use; other cores lose nothing by it. */
#include "declarations.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#include "tile.h"

#pragma GCC diagnostic ignored "-Woverlength-strings"

/* Four words, two pairs, are a quad. The sum of a byte grows by at most 8 a pair and falls by at most 8 a quad, and may
 * grow by two more words that fill no quad. Of few words, two bytes of ones, less 16 for each byte and quad, fit one.
 */
enum { MR = 4, NR = 16, CELLS = 8, QUADS = 13, FEW_WORDS = 13 };

#define FILTER_BYTES "128" /* a word of all filters */
#define PIXEL_BYTES "128"  /* two words of all pixels, each twice */
#define STEP "x17"         /* a register of its own, since operands are counted */

/* clang-format off */
#define XOR(o, pixel, filter) "eor v" #o ".16b, v" #pixel ".16b, v" #filter ".16b\n"
#define START(o2, o1, pixel1, pixel2, filter1, filter2)                                                                \
    XOR(o2, pixel2, filter2) XOR(o1, pixel1, filter1)
#define CHOOSE(o1, o2, last) "bsl v" #o1 ".16b, v" #o2 ".16b, v" #last ".16b\n"
#define COUNT_TO(sum, c) "cnt v" #sum ".16b, v" #c ".16b\n"
#define COUNT(c) COUNT_TO(c, c)
#define ADD(sum, count) "add v" #sum ".16b, v" #sum ".16b, v" #count ".16b\n"
#define SUBTRACT(sum, count) "sub v" #sum ".16b, v" #sum ".16b, v" #count ".16b\n"

#define LOAD_BOTH(a, b, base, offset) "ldp q" #a ", q" #b ", [%[" #base "], #" offset "]\n"
#define LOAD(a, base, offset) "ldr q" #a ", [%[" #base "], #" offset "]\n"
#define FILTER(a, word, byte) LOAD(a, filters, FILTER_BYTES "*" #word "+" #byte)
#define PIXEL(a, pair, byte) LOAD(a, pixels, PIXEL_BYTES "*" #pair "+" #byte)

/* To the next quad; after the last one all stay where they are, since nothing beyond them may be read. */
#define COUNT_QUAD "subs %[quads], %[quads], #1\n"
#define CHOOSE_STEP "csel " STEP ", " STEP ", xzr, ne\n"
#define ADVANCE_PIXELS "add %[pixels], %[pixels], " STEP ", lsr #1\n"
#define ADVANCE_FILTERS "add %[filters], %[filters], " STEP "\n"

/* Sums are v0-v7, last ones v8-v15 where a quad begins, two of v8-v17 free; o1, then c and its count v18-v21; filters
 * v22-v27; pixels v28-v31. What is LATE belongs to the quad before. */
#define QUAD(LATE, FIRST_COUNT, FIRST_ADD)                                                                             \
    START(16, 18, 28, 29, 22, 24) LATE(CHOOSE(21, 9, 17)) FILTER(26, 0, 32) LATE(COUNT(20)) FILTER(27, 0, 48) LATE(SUBTRACT(3, 19)) \
    START(17, 19, 30, 31, 22, 24) CHOOSE(18, 16, 8) FILTER(22, 1, 32) LATE(COUNT(21)) FILTER(24, 1, 48) LATE(SUBTRACT(0, 20)) \
    START(8, 20, 28, 29, 23, 25) CHOOSE(19, 17, 9) FIRST_COUNT(0, 18) LATE(SUBTRACT(1, 21))                            \
    START(9, 21, 30, 31, 23, 25) CHOOSE(20, 8, 10) FIRST_COUNT(1, 19) FIRST_ADD(0, 18)                                 \
    START(10, 18, 28, 29, 26, 22) CHOOSE(21, 9, 11) FILTER(23, 2, 32) FIRST_COUNT(2, 20) FILTER(25, 2, 48) FIRST_ADD(1, 19) \
    START(11, 19, 30, 31, 26, 22) CHOOSE(18, 10, 12) FILTER(22, 3, 32) FIRST_COUNT(3, 21) FILTER(26, 3, 48) FIRST_ADD(2, 20) \
    START(12, 20, 28, 29, 27, 24) CHOOSE(19, 11, 13) PIXEL(28, 1, 0) FIRST_COUNT(4, 18) PIXEL(29, 1, 16) FIRST_ADD(3, 21) \
    START(13, 21, 30, 31, 27, 24) CHOOSE(20, 12, 14) PIXEL(30, 1, 32) FIRST_COUNT(5, 19) PIXEL(31, 1, 48) FIRST_ADD(4, 18) \
    START(14, 18, 28, 29, 25, 26) CHOOSE(21, 13, 15) FILTER(27, 2, 0) FIRST_COUNT(6, 20) FILTER(24, 2, 16) FIRST_ADD(5, 19) \
    START(15, 19, 30, 31, 25, 26) CHOOSE(18, 14, 12) FILTER(26, 3, 0) FIRST_COUNT(7, 21) FILTER(25, 3, 16) FIRST_ADD(6, 20) \
    START(12, 20, 28, 29, 23, 22) CHOOSE(19, 15, 13) COUNT_QUAD COUNT(18) CHOOSE_STEP FIRST_ADD(7, 21)                 \
    START(13, 21, 30, 31, 23, 22) CHOOSE(20, 12, 10) ADVANCE_FILTERS COUNT(19) ADVANCE_PIXELS SUBTRACT(6, 18)          \
    START(10, 18, 28, 29, 24, 25) CHOOSE(21, 13, 11) FILTER(22, 0, 0) COUNT(20) FILTER(23, 0, 16) SUBTRACT(7, 19)      \
    START(11, 19, 30, 31, 24, 25) CHOOSE(18, 10, 8) FILTER(24, 1, 0) COUNT(21) FILTER(25, 1, 16) SUBTRACT(4, 20)       \
    START(8, 20, 28, 29, 27, 26) CHOOSE(19, 11, 9) PIXEL(28, 0, 0) COUNT(18) PIXEL(29, 0, 16) SUBTRACT(5, 21)          \
    START(9, 21, 30, 31, 27, 26) CHOOSE(20, 8, 16) PIXEL(30, 0, 32) COUNT(19) PIXEL(31, 0, 48) SUBTRACT(2, 18)                

#define NOTHING(text)
#define THE_TEXT(text) text
#define COUNT_IN_PLACE(sum, c) COUNT(c)
#define ALREADY_ADDED(sum, count)

#define OPERANDS                                                                                                       \
        : "=w"(sum0), "=w"(sum1), "=w"(sum2), "=w"(sum3), "=w"(sum4), "=w"(sum5), "=w"(sum6), "=w"(sum7),              \
          "+w"(last0), "+w"(last1), "+w"(last2), "+w"(last3), "+w"(last4), "+w"(last5), "+w"(last6), "+w"(last7),      \
          [filters] "+r"(filters), [pixels] "+r"(pixels), [quads] "+r"(quads) \
        :                                                                                                              \
        : "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30",     \
          "v31", STEP, "cc", "memory"

/* The sums of `quads` quads, after the last ones there are. */
#define RUN_QUADS()                                                                                                    \
    __asm__ volatile(                                                                                                  \
        "mov " STEP ", #4*" FILTER_BYTES "\n"                                                                          \
        LOAD_BOTH(22, 23, filters, "0") LOAD_BOTH(24, 25, filters, FILTER_BYTES) LOAD_BOTH(28, 29, pixels, "0") LOAD_BOTH(30, 31, pixels, "32") \
        QUAD(NOTHING, COUNT_TO, ALREADY_ADDED)                                                                         \
        "b.eq 2f\n"                                                                                                    \
        "1:\n"                                                                                                         \
        QUAD(THE_TEXT, COUNT_IN_PLACE, ADD)                                                                            \
        "b.ne 1b\n"                                                                                                    \
        "2:\n"                                                                                                         \
        CHOOSE(21, 9, 17) COUNT(20) SUBTRACT(3, 19) COUNT(21) SUBTRACT(0, 20) SUBTRACT(1, 21)                          \
        OPERANDS)


/* The same cell after cell, in fewer instructions, since one loads four registers: for cores that reorder them. */
#define FOUR_FILTERS(a, b, c, d) LOAD_FOUR(a, b, c, d, filters)
#define TWO_PIXELS(a, b, c, d) LOAD_FOUR(a, b, c, d, pixels)
#define LOAD_FOUR(a, b, c, d, from)                                                                                    \
    "ld1 {v" #a ".2d, v" #b ".2d, v" #c ".2d, v" #d ".2d}, [%[" #from "]], " STEP "\n"
#define QUAD_OF_CELLS(FIRST_COUNT, FIRST_ADD)                                                                          \
    FOUR_FILTERS(20, 21, 22, 23) FOUR_FILTERS(24, 25, 26, 27) TWO_PIXELS(28, 29, 30, 31)                               \
    START(16, 17, 28, 29, 20, 24) CHOOSE(17, 16, 8) FIRST_COUNT(0, 17) FIRST_ADD(0, 17)                                \
    START(8, 18, 30, 31, 20, 24) CHOOSE(18, 8, 9) FIRST_COUNT(1, 18) FIRST_ADD(1, 18)                                  \
    START(9, 19, 28, 29, 21, 25) CHOOSE(19, 9, 10) FIRST_COUNT(2, 19) FIRST_ADD(2, 19)                                 \
    START(10, 17, 30, 31, 21, 25) CHOOSE(17, 10, 11) FIRST_COUNT(3, 17) FIRST_ADD(3, 17)                               \
    START(11, 18, 28, 29, 22, 26) CHOOSE(18, 11, 12) FIRST_COUNT(4, 18) FIRST_ADD(4, 18)                               \
    START(12, 19, 30, 31, 22, 26) CHOOSE(19, 12, 13) FIRST_COUNT(5, 19) FIRST_ADD(5, 19)                               \
    START(13, 17, 28, 29, 23, 27) CHOOSE(17, 13, 14) FIRST_COUNT(6, 17) FIRST_ADD(6, 17)                               \
    START(14, 18, 30, 31, 23, 27) CHOOSE(18, 14, 15) FIRST_COUNT(7, 18) FIRST_ADD(7, 18)                               \
    FOUR_FILTERS(20, 21, 22, 23) FOUR_FILTERS(24, 25, 26, 27) TWO_PIXELS(28, 29, 30, 31)                               \
    START(15, 19, 30, 31, 23, 27) CHOOSE(19, 15, 14) COUNT(19) SUBTRACT(7, 19)                                         \
    START(14, 17, 28, 29, 23, 27) CHOOSE(17, 14, 13) COUNT(17) SUBTRACT(6, 17)                                         \
    START(13, 18, 30, 31, 22, 26) CHOOSE(18, 13, 12) COUNT(18) SUBTRACT(5, 18)                                         \
    START(12, 19, 28, 29, 22, 26) CHOOSE(19, 12, 11) COUNT(19) SUBTRACT(4, 19)                                         \
    START(11, 17, 30, 31, 21, 25) CHOOSE(17, 11, 10) COUNT(17) SUBTRACT(3, 17)                                         \
    START(10, 18, 28, 29, 21, 25) CHOOSE(18, 10, 9) COUNT(18) SUBTRACT(2, 18)                                          \
    START(9, 19, 30, 31, 20, 24) CHOOSE(19, 9, 8) COUNT(19) SUBTRACT(1, 19)                                            \
    START(8, 17, 28, 29, 20, 24) CHOOSE(17, 8, 16) COUNT(17) SUBTRACT(0, 17)

#define RUN_QUADS_OF_CELLS()                                                                                           \
    __asm__ volatile(                                                                                                  \
        "mov " STEP ", #" FILTER_BYTES "\n"                                                                            \
        QUAD_OF_CELLS(COUNT_TO, ALREADY_ADDED)                                                                         \
        "subs %[quads], %[quads], #1\n"                                                                                \
        "b.eq 2f\n"                                                                                                    \
        "1:\n"                                                                                                         \
        QUAD_OF_CELLS(COUNT_IN_PLACE, ADD)                                                                             \
        "subs %[quads], %[quads], #1\n"                                                                                \
        "b.ne 1b\n"                                                                                                    \
        "2:\n"                                                                                                         \
        OPERANDS)

/* clang-format on */

/* Eight cells: [pixel + 2 * register of filters] */
struct cells {
    int8x16_t sums[CELLS];
    uint8x16_t last[CELLS];
};

BD_INLINE void run_quads(int wide, size_t quads, const uint64_t *filters, const uint8x16_t *pixels,
                         struct cells *cells) {
    register int8x16_t sum0 __asm__("v0"), sum1 __asm__("v1"), sum2 __asm__("v2"), sum3 __asm__("v3");
    register int8x16_t sum4 __asm__("v4"), sum5 __asm__("v5"), sum6 __asm__("v6"), sum7 __asm__("v7");
    register uint8x16_t last0 __asm__("v8") = cells->last[0], last1 __asm__("v9") = cells->last[1];
    register uint8x16_t last2 __asm__("v10") = cells->last[2], last3 __asm__("v11") = cells->last[3];
    register uint8x16_t last4 __asm__("v12") = cells->last[4], last5 __asm__("v13") = cells->last[5];
    register uint8x16_t last6 __asm__("v14") = cells->last[6], last7 __asm__("v15") = cells->last[7];
    if (wide)
        RUN_QUADS_OF_CELLS();
    else
        RUN_QUADS();
    *cells = (struct cells){{sum0, sum1, sum2, sum3, sum4, sum5, sum6, sum7},
                            {last0, last1, last2, last3, last4, last5, last6, last7}};
}

BD_INLINE uint8x16_t compare(const uint64_t *filters, const uint8x16_t *pixels, size_t cell) {
    return veorq_u8(pixels[cell % 2], vreinterpretq_u8_u64(vld1q_u64(filters + cell / 2 * 2)));
}

BD_INLINE void start(int with_word, const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    BD_UNROLL
    for (size_t i = 0; i < CELLS; i++) {
        cells->sums[i] = vdupq_n_s8(0);
        cells->last[i] = with_word ? compare(filters, pixels, i) : vdupq_n_u8(0);
    }
}

BD_INLINE void add_word(const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    BD_UNROLL
    for (size_t i = 0; i < CELLS; i++) {
        uint8x16_t o = compare(filters, pixels, i), falling = vbicq_u8(cells->last[i], o);
        cells->sums[i] = vaddq_s8(cells->sums[i], vreinterpretq_s8_u8(vcntq_u8(falling)));
        cells->last[i] = o;
    }
}

/* The sums of one pixel, of each of eight filters. */
BD_INLINE int16x8_t sums_of(const struct cells *cells, size_t m) {
    int16x8_t sums[4];
    BD_UNROLL
    for (size_t n = 0; n < 4; n++)
        sums[n] = vpaddlq_s8(cells->sums[m + 2 * n]);
    return vpaddq_s16(vpaddq_s16(sums[0], sums[1]), vpaddq_s16(sums[2], sums[3]));
}

/* Twice the sums plus the ones of last. */
BD_INLINE int16x8_t ones_of(const struct cells *cells, size_t m) {
    uint8x16_t ones[4];
    BD_UNROLL
    for (size_t n = 0; n < 4; n++)
        ones[n] = vcntq_u8(cells->last[m + 2 * n]);
    uint8x16_t pairs = vpaddq_u8(vpaddq_u8(ones[0], ones[1]), vpaddq_u8(ones[2], ones[3]));
    return vpadalq_s8(vshlq_n_s16(sums_of(cells, m), 1), vreinterpretq_s8_u8(pairs));
}

/* The same where two bytes of it fit one. */
BD_INLINE int16x8_t ones_of_few(const struct cells *cells, size_t m) {
    int8x16_t ones[4];
    BD_UNROLL
    for (size_t n = 0; n < 4; n++)
        ones[n] =
            vmlaq_s8(vreinterpretq_s8_u8(vcntq_u8(cells->last[m + 2 * n])), cells->sums[m + 2 * n], vdupq_n_s8(2));
    return vpaddq_s16(vpaddlq_s8(vpaddq_s8(ones[0], ones[1])), vpaddlq_s8(vpaddq_s8(ones[2], ones[3])));
}

/* Dot products of two pixels with eight filters. */
struct dots {
    int32x4_t of[2][2];
};

BD_INLINE struct dots subtract(struct dots dots, int16x8_t first, int16x8_t second) {
    return (struct dots){{{vsubw_s16(dots.of[0][0], vget_low_s16(first)), vsubw_high_s16(dots.of[0][1], first)},
                          {vsubw_s16(dots.of[1][0], vget_low_s16(second)), vsubw_high_s16(dots.of[1][1], second)}}};
}

/* Of few words bytes hold what is counted to the end, of some the registers; known when this is compiled. */
enum size { FEW, SOME, MANY };

/* Twice the sums plus the ones of last, of two pixels. */
struct ones {
    int16x8_t of[2];
};

/* Pixels m and m + 1 by eight filters; what many words have in all but the last quads is subtracted from the dots. */
BD_INLINE struct ones count_cells(int wide, enum size size, size_t words, const uint64_t *filters,
                                  const uint8x16_t *pixels, size_t m, struct dots *dots) {
    size_t quads = words / 4, rest = words % 4;
    struct cells cells;
    start(rest > 0, filters, pixels + m, &cells);
    if (rest > 0)
        filters += NR, pixels += MR;
    for (; size == MANY && quads > QUADS; quads -= QUADS, filters += QUADS * 4 * NR, pixels += QUADS * 4 * MR) {
        run_quads(wide, QUADS, filters, pixels + 2 * m, &cells);
        *dots = subtract(*dots, vshlq_n_s16(sums_of(&cells, 0), 2), vshlq_n_s16(sums_of(&cells, 1), 2));
    }
    if (quads > 0)
        run_quads(wide, quads, filters, pixels + 2 * m, &cells);
    filters += quads * 4 * NR, pixels += quads * 4 * MR;
    for (size_t k = 1; k < rest; k++, filters += NR, pixels += MR)
        add_word(filters, pixels + m, &cells);
    if (size == FEW)
        return (struct ones){{ones_of_few(&cells, 0), ones_of_few(&cells, 1)}};
    return (struct ones){{ones_of(&cells, 0), ones_of(&cells, 1)}};
}

BD_INLINE void run_tile(int wide, enum size size, size_t words, int32_t depth, const uint64_t *tile,
                        const uint64_t *filters, int32_t *out, size_t out_stride) {
    int32x4_t from = vdupq_n_s32(depth - (int32_t)(words / 4 * 256));
    const uint8x16_t *pixels = (const uint8x16_t *)(const void *)tile;
    for (size_t n = 0; n < NR; n += 8)
        for (size_t m = 0; m < MR; m += 2) {
            struct dots dots = {{{from, from}, {from, from}}};
            struct ones ones = count_cells(wide, size, words, filters + n, pixels, m, &dots);
            dots = subtract(dots, vshlq_n_s16(ones.of[0], 1), vshlq_n_s16(ones.of[1], 1));
            BD_UNROLL
            for (size_t i = 0; i < 4; i++)
                vst1q_s32(out + (m + i / 2) * out_stride + n + i % 2 * 4, dots.of[i / 2][i % 2]);
        }
}

BD_INLINE void bgemm_edge(int wide, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *filters,
                          int32_t *out, size_t out_stride) {
    if (words <= FEW_WORDS)
        run_tile(wide, FEW, words, depth, tile, filters, out, out_stride);
    else
        run_tile(wide, MANY, words, depth, tile, filters, out, out_stride);
}

/* depth - 2 * ones < threshold where ones > (depth - threshold) / 2, rounded down; less what the ones lack. */
BD_INLINE int16x4_t most_ones(size_t words, int32_t depth, const int32_t *thresholds) {
    int32x4_t most = vshrq_n_s32(vqsubq_s32(vdupq_n_s32(depth), vld1q_s32(thresholds)), 1);
    return vqmovn_s32(vsubq_s32(most, vdupq_n_s32((int32_t)(words / 4 * 128))));
}

/* A byte a filter that holds its own bit of eight, where there are more ones: of both pixels. */
BD_INLINE uint8x16_t bits_of(struct ones ones, int16x8_t most) {
    const uint8x8_t own = vcreate_u8(UINT64_C(0x8040201008040201));
    uint8x16_t first = vreinterpretq_u8_u16(vcgtq_s16(ones.of[0], most));
    uint8x16_t second = vreinterpretq_u8_u16(vcgtq_s16(ones.of[1], most));
    return vandq_u8(vuzp1q_u8(first, second), vcombine_u8(own, own));
}

/* The bits of sixteen filters, of each of four pixels. */
BD_INLINE uint16x4_t tile_bits(int wide, enum size size, size_t words, const int16x8_t most[2], const uint64_t *tile,
                               const uint64_t *filters) {
    const uint8x8_t in_order = vcreate_u8(UINT64_C(0x0705060403010200));
    const uint8x16_t *pixels = (const uint8x16_t *)(const void *)tile;
    uint8x16_t bits[2][2];
    for (size_t m = 0; m < 2; m++)
        for (size_t n = 0; n < 2; n++)
            bits[m][n] = bits_of(count_cells(wide, size, words, filters + 8 * n, pixels, 2 * m, NULL), most[n]);
    uint8x16_t halves = vpaddq_u8(vpaddq_u8(bits[0][0], bits[0][1]), vpaddq_u8(bits[1][0], bits[1][1]));
    return vreinterpret_u16_u8(vtbl1_u8(vpadd_u8(vget_low_u8(halves), vget_high_u8(halves)), in_order));
}

/* Sixteen filters that begin at a byte take two bytes of a word, those that begin it all of it. */
BD_INLINE void put_field(uint64_t *word, size_t first, int whole, uint16_t field) {
    if (whole)
        memcpy((char *)word + first / 8, &field, sizeof field);
    else
        bd_put_field(word, first, field);
}

BD_INLINE void put_fields(size_t pixels, size_t first, int whole, uint16x4_t fields, uint64_t *bits, size_t stride) {
    put_field(bits, first, whole, vget_lane_u16(fields, 0));
    if (pixels > 1)
        put_field(bits + stride, first, whole, vget_lane_u16(fields, 1));
    if (pixels > 2)
        put_field(bits + 2 * stride, first, whole, vget_lane_u16(fields, 2));
    if (pixels > 3)
        put_field(bits + 3 * stride, first, whole, vget_lane_u16(fields, 3));
}

BD_INLINE void run_tiles(int wide, enum size size, size_t pixels, size_t filters, size_t words, int32_t depth,
                         const uint64_t *tile, const uint64_t *weights, const int32_t *thresholds, uint64_t flips,
                         size_t first, uint64_t *bits, size_t bits_stride) {
    int32_t wanted[NR] = {0};
    memcpy(wanted, thresholds, filters * sizeof *thresholds);
    const int16x8_t most[2] = {vcombine_s16(most_ones(words, depth, wanted), most_ones(words, depth, wanted + 4)),
                               vcombine_s16(most_ones(words, depth, wanted + 8), most_ones(words, depth, wanted + 12))};
    const uint16_t lanes = (uint16_t)((UINT32_C(1) << filters) - 1);
    const int whole = first > 0 && first % 8 == 0 && filters == NR;
    for (size_t pixel = 0; pixel < pixels; pixel += MR, tile += 2 * words * MR) {
        uint16x4_t fields = vand_u16(tile_bits(wide, size, words, most, tile, weights), vdup_n_u16(lanes));
        fields = veor_u16(fields, vdup_n_u16((uint16_t)flips));
        size_t left = pixels - pixel;
        if (whole && left >= MR)
            put_fields(MR, first, 1, fields, bits, bits_stride);
        else
            put_fields(left, first, 0, fields, bits, bits_stride);
        bits += MR * bits_stride;
    }
}

/* The integers, then the bits: where the words are so many that registers of 16 bits do not hold what is counted. */
BD_INLINE void run_one_by_one(int wide, size_t pixels, size_t filters, size_t words, int32_t depth,
                              const uint64_t *tile, const uint64_t *weights, const int32_t *thresholds, uint64_t flips,
                              size_t first, uint64_t *bits, size_t bits_stride) {
    int32_t dots[MR * NR];
    for (size_t pixel = 0; pixel < pixels; pixel += MR, tile += 2 * words * MR, bits += MR * bits_stride) {
        run_tile(wide, MANY, words, depth, tile, weights, dots, NR);
        bd_threshold_b1_1x1__neon(pixels - pixel < MR ? pixels - pixel : MR, filters, dots, NR, thresholds, flips,
                                  first, bits, bits_stride);
    }
}

#define BGEMM_THRESHOLD(name, wide)                                                                                    \
    void name(size_t pixels, size_t filters, size_t words, int32_t depth, const uint64_t *tile,                        \
              const uint64_t *weights, const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,        \
              size_t bits_stride) {                                                                                    \
        if (words <= FEW_WORDS)                                                                                        \
            run_tiles(wide, FEW, pixels, filters, words, depth, tile, weights, thresholds, flips, first, bits,         \
                      bits_stride);                                                                                    \
        else if (words < 4 * (QUADS + 1))                                                                              \
            run_tiles(wide, SOME, pixels, filters, words, depth, tile, weights, thresholds, flips, first, bits,        \
                      bits_stride);                                                                                    \
        else                                                                                                           \
            run_one_by_one(wide, pixels, filters, words, depth, tile, weights, thresholds, flips, first, bits,         \
                           bits_stride);                                                                               \
    }
BGEMM_THRESHOLD(bd_bgemm_threshold_b1_4x16__neon, 0)
BGEMM_THRESHOLD(bd_bgemm_threshold_b1_4x16__neon_wide, 1)

void bd_bgemm_edge_i32_4x16__neon(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                  int32_t *out, size_t out_stride) {
    bgemm_edge(0, words, depth, tile, weights, out, out_stride);
}

void bd_bgemm_edge_i32_4x16__neon_wide(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                       int32_t *out, size_t out_stride) {
    bgemm_edge(1, words, depth, tile, weights, out, out_stride);
}

#endif
