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

#include "tile.h"

#pragma GCC diagnostic ignored "-Woverlength-strings"

/* Four words, two pairs, are a quad. The sum of a byte grows by at most 8 a pair and falls by at most 8 a quad, and may
 * grow by two more words that fill no quad. */
enum { MR = 4, NR = 16, CELLS = 8, QUADS = 13, QUADS_DOUBLED = 5, WORDS_IN_PAIRS = 9 };

#define FILTER_BYTES "128" /* a word of all filters */
#define PIXEL_BYTES "128"  /* two words of all pixels, each twice */

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

/* To the next quad; after the last one the filters stay where they are, since nothing beyond them may be read. */
#define COUNT_QUAD "subs %[quads], %[quads], #1\n"
#define CHOOSE_STEP "csel %[step], %[step], xzr, ne\n"
#define ADVANCE_PIXELS "add %[pixels], %[pixels], #2*" PIXEL_BYTES "\n"
#define ADVANCE_FILTERS "add %[filters], %[filters], %[step]\n"

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
          "=w"(last0), "=w"(last1), "=w"(last2), "=w"(last3), "=w"(last4), "=w"(last5), "=w"(last6), "=w"(last7),      \
          [filters] "+r"(filters), [pixels] "+r"(pixels), [quads] "+r"(quads), [step] "+r"(step)                       \
        : [last_filters] "r"(last_filters), [last_pixels] "r"(last_pixels)                                             \
        : "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30",     \
          "v31", "cc", "memory"

/* The sums of `quads` quads; `start` and the filters before the first quad give the first last ones. */
#define RUN_QUADS()                                                                                                    \
    __asm__ volatile(                                                                                                  \
        LOAD_BOTH(22, 23, last_filters, "0") LOAD_BOTH(24, 25, last_filters, "32") LOAD_BOTH(28, 29, last_pixels, "0") \
        XOR(8, 28, 22) XOR(9, 29, 22) XOR(10, 28, 23) XOR(11, 29, 23)                                                  \
        XOR(12, 28, 24) XOR(13, 29, 24) XOR(14, 28, 25) XOR(15, 29, 25)                                                \
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
    "ld1 {v" #a ".2d, v" #b ".2d, v" #c ".2d, v" #d ".2d}, [%[" #from "]], %[step]\n"
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
        LOAD_BOTH(22, 23, last_filters, "0") LOAD_BOTH(24, 25, last_filters, "32")                                     \
        LOAD_BOTH(28, 29, last_pixels, "0")                                                                            \
        XOR(8, 28, 22) XOR(9, 29, 22) XOR(10, 28, 23) XOR(11, 29, 23)                                                  \
        XOR(12, 28, 24) XOR(13, 29, 24) XOR(14, 28, 25) XOR(15, 29, 25)                                                \
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

/* The pixels of some quads and of what comes before and after them, each word twice. Loads go one quad too far. */
struct pixels {
    uint8x16_t last[MR], quads[QUADS + 1][2][MR][2], rest[2][MR];
};

/* Eight cells: [pixel + 2 * register of filters] */
struct cells {
    int8x16_t sums[CELLS];
    uint8x16_t last[CELLS];
};

BD_INLINE void lay_out_word(const uint64_t *tile, uint8x16_t *out) {
    uint64x2x4_t word = vld4q_dup_u64(tile);
    BD_UNROLL
    for (size_t m = 0; m < MR; m++)
        out[m] = vreinterpretq_u8_u64(word.val[m]);
}

/* By hand, since compilers use no post-increment here and add an instruction for each address. */
BD_INLINE void lay_out_quads(const uint64_t *tile, size_t quads, uint8x16_t *pixels) {
    if (quads > 0)
        __asm__ volatile("1:\n"
                         "ld4r {v0.2d, v1.2d, v2.2d, v3.2d}, [%[tile]], #32\n"
                         "ld4r {v4.2d, v5.2d, v6.2d, v7.2d}, [%[tile]], #32\n"
                         "ld4r {v16.2d, v17.2d, v18.2d, v19.2d}, [%[tile]], #32\n"
                         "ld4r {v20.2d, v21.2d, v22.2d, v23.2d}, [%[tile]], #32\n"
                         "mvn v4.16b, v4.16b\n"
                         "mvn v5.16b, v5.16b\n"
                         "mvn v6.16b, v6.16b\n"
                         "mvn v7.16b, v7.16b\n"
                         "subs %[quads], %[quads], #1\n"
                         "stp q0, q4, [%[pixels]]\n"
                         "stp q1, q5, [%[pixels], #32]\n"
                         "stp q2, q6, [%[pixels], #64]\n"
                         "stp q3, q7, [%[pixels], #96]\n"
                         "stp q16, q20, [%[pixels], #128]\n"
                         "stp q17, q21, [%[pixels], #160]\n"
                         "stp q18, q22, [%[pixels], #192]\n"
                         "stp q19, q23, [%[pixels], #224]\n"
                         "add %[pixels], %[pixels], #256\n"
                         "b.ne 1b\n"
                         : [tile] "+r"(tile), [quads] "+r"(quads), [pixels] "+r"(pixels)
                         :
                         : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21",
                           "v22", "v23", "cc", "memory");
}

BD_INLINE void lay_out(const uint64_t *last, const uint64_t *tile, size_t quads, size_t rest, struct pixels *pixels) {
    lay_out_word(last, pixels->last);
    lay_out_quads(tile, quads, pixels->quads[0][0][0]);
    tile += 4 * quads * MR;
    for (size_t k = 0; k < rest; k++, tile += MR)
        lay_out_word(tile, pixels->rest[k]);
}

BD_INLINE void run_quads(int wide, size_t quads, const uint64_t *last_filters, const uint64_t *filters,
                         const uint8x16_t *last_pixels, const uint8x16_t *pixels, struct cells *cells) {
    register int8x16_t sum0 __asm__("v0"), sum1 __asm__("v1"), sum2 __asm__("v2"), sum3 __asm__("v3");
    register int8x16_t sum4 __asm__("v4"), sum5 __asm__("v5"), sum6 __asm__("v6"), sum7 __asm__("v7");
    register uint8x16_t last0 __asm__("v8"), last1 __asm__("v9"), last2 __asm__("v10"), last3 __asm__("v11");
    register uint8x16_t last4 __asm__("v12"), last5 __asm__("v13"), last6 __asm__("v14"), last7 __asm__("v15");
    size_t step = wide ? NR * sizeof *filters : 4 * NR * sizeof *filters;
    if (wide)
        RUN_QUADS_OF_CELLS();
    else
        RUN_QUADS();
    *cells = (struct cells){{sum0, sum1, sum2, sum3, sum4, sum5, sum6, sum7},
                            {last0, last1, last2, last3, last4, last5, last6, last7}};
}

/* Where there is no quad. */
BD_INLINE void start(const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    BD_UNROLL
    for (size_t i = 0; i < CELLS; i++) {
        cells->sums[i] = vdupq_n_s8(0);
        cells->last[i] = veorq_u8(pixels[i % 2], vreinterpretq_u8_u64(vld1q_u64(filters + i / 2 * 2)));
    }
}

BD_INLINE void add_word(const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    BD_UNROLL
    for (size_t i = 0; i < CELLS; i++) {
        uint8x16_t o = veorq_u8(pixels[i % 2], vreinterpretq_u8_u64(vld1q_u64(filters + i / 2 * 2)));
        uint8x16_t falling = vbicq_u8(cells->last[i], o);
        cells->sums[i] = vaddq_s8(cells->sums[i], vreinterpretq_s8_u8(vcntq_u8(falling)));
        cells->last[i] = o;
    }
}

BD_INLINE int16x8_t add_pairs(int16x8_t a, int16x8_t b, int16x8_t c, int16x8_t d) {
    return vpaddq_s16(vpaddq_s16(a, b), vpaddq_s16(c, d));
}

/* Twice each byte of the sums plus the ones of last, added up for each of eight filters of one pixel; as bytes while
 * they fit one. */
BD_INLINE int16x8_t ones_in_pairs(const struct cells *cells, size_t m) {
    int8x16_t ones[4];
    BD_UNROLL
    for (size_t n = 0; n < 4; n++)
        ones[n] =
            vmlaq_s8(vreinterpretq_s8_u8(vcntq_u8(cells->last[m + 2 * n])), cells->sums[m + 2 * n], vdupq_n_s8(2));
    return vpaddq_s16(vpaddlq_s8(vpaddq_s8(ones[0], ones[1])), vpaddlq_s8(vpaddq_s8(ones[2], ones[3])));
}

BD_INLINE int16x8_t ones_doubled(const struct cells *cells, size_t m) {
    int16x8_t ones[4];
    BD_UNROLL
    for (size_t n = 0; n < 4; n++)
        ones[n] = vpaddlq_s8(
            vmlaq_s8(vreinterpretq_s8_u8(vcntq_u8(cells->last[m + 2 * n])), cells->sums[m + 2 * n], vdupq_n_s8(2)));
    return add_pairs(ones[0], ones[1], ones[2], ones[3]);
}

BD_INLINE int16x8_t ones_widened(const struct cells *cells, size_t m, int ends) {
    int16x8_t sums[4];
    int8x16_t ones[4];
    BD_UNROLL
    for (size_t n = 0; n < 4; n++) {
        sums[n] = vpaddlq_s8(cells->sums[m + 2 * n]);
        ones[n] = vreinterpretq_s8_u8(vcntq_u8(cells->last[m + 2 * n]));
    }
    int16x8_t sum = add_pairs(sums[0], sums[1], sums[2], sums[3]);
    sum = vaddq_s16(sum, sum);
    if (!ends)
        return sum;
    return vpadalq_s8(sum, vpaddq_s8(vpaddq_s8(ones[0], ones[1]), vpaddq_s8(ones[2], ones[3])));
}

BD_INLINE void subtract_twice(int16x8_t ones, int32x4_t low, int32x4_t high, int32_t *out) {
    ones = vshlq_n_s16(ones, 1);
    vst1q_s32(out, vsubw_s16(low, vget_low_s16(ones)));
    vst1q_s32(out + 4, vsubw_high_s16(high, ones));
}

/* How the ones of a part are added up: known when the loop over its cells is compiled, whose branches they are. */
enum sums { IN_PAIRS, DOUBLED, WIDENED };

struct part {
    size_t quads, rest;
    int begins, ends; /* whether it has the first words of a filter, and the last ones */
    enum sums sums;
};

BD_INLINE int16x8_t ones_of(struct part part, const struct cells *cells, size_t m) {
    if (part.sums == IN_PAIRS)
        return ones_in_pairs(cells, m);
    return part.sums == DOUBLED ? ones_doubled(cells, m) : ones_widened(cells, m, part.ends);
}

/* out -= 2 * ones; or depth - 2 * ones where the words begin. */
BD_INLINE void put_dots(struct part part, int32_t depth, const struct cells *cells, int32_t *out, size_t out_stride) {
    int32x4_t lacking = vdupq_n_s32(256 * (int32_t)part.quads), from = vsubq_s32(vdupq_n_s32(depth), lacking);
    BD_UNROLL
    for (size_t m = 0; m < 2; m++, out += out_stride) {
        int16x8_t ones = ones_of(part, cells, m);
        if (part.begins)
            subtract_twice(ones, from, from, out);
        else
            subtract_twice(ones, vsubq_s32(vld1q_s32(out), lacking), vsubq_s32(vld1q_s32(out + 4), lacking), out);
    }
}

/* All cells of the part of some words, two pixels by eight filters at a time. */
BD_INLINE void run_part(int wide, struct part part, int32_t depth, const uint64_t *last_filters,
                        const uint64_t *filters, const struct pixels *pixels, int32_t *out, size_t out_stride) {
    for (size_t n = 0; n < NR; n += 8, last_filters += 8, filters += 8, out += 8)
        for (size_t m = 0; m < MR; m += 2) {
            struct cells cells;
            if (part.quads > 0)
                run_quads(wide, part.quads, last_filters, filters, pixels->last + m, pixels->quads[0][0][m], &cells);
            else
                start(last_filters, pixels->last + m, &cells);
            for (size_t k = 0; k < part.rest; k++)
                add_word(filters + (4 * part.quads + k) * NR, pixels->rest[k] + m, &cells);
            put_dots(part, depth, &cells, out + m * out_stride, out_stride);
        }
}

BD_INLINE struct part part_of(size_t quads, size_t rest, int begins) {
    struct part part = {.quads = quads < QUADS ? quads : QUADS, .begins = begins, .sums = WIDENED};
    part.ends = part.quads == quads;
    part.rest = part.ends ? rest : 0;
    if (part.ends && part.quads <= QUADS_DOUBLED)
        part.sums = 4 * part.quads + part.rest < WORDS_IN_PAIRS ? IN_PAIRS : DOUBLED;
    return part;
}

/* Words = a first one, quads, and up to two more; or quads alone, before which o is 0. */
BD_INLINE void bgemm_edge(int wide, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *filters,
                          int32_t *out, size_t out_stride) {
    static const uint64_t zeros[NR] = {0};
    const uint64_t *last_word = zeros, *last_filters = zeros;
    size_t quads = words / 4, rest = words % 4;
    struct pixels pixels;
    struct part part = {.ends = 0};
    if (rest > 0) {
        last_word = tile, last_filters = filters;
        tile += MR, filters += NR, rest--;
    }
    for (int begins = 1; !part.ends; begins = 0) {
        part = part_of(quads, rest, begins);
        lay_out(last_word, tile, part.quads, part.rest, &pixels);
#define RUN_PART(...)                                                                                                  \
    run_part(wide, (struct part){part.quads, part.rest, __VA_ARGS__}, depth, last_filters, filters, &pixels, out,      \
             out_stride)
        if (part.begins && part.sums == IN_PAIRS)
            RUN_PART(1, 1, IN_PAIRS);
        else if (part.begins && part.sums == DOUBLED)
            RUN_PART(1, 1, DOUBLED);
        else if (part.begins && part.ends)
            RUN_PART(1, 1, WIDENED);
        else if (part.begins)
            RUN_PART(1, 0, WIDENED);
        else
            RUN_PART(0, part.ends, WIDENED);
#undef RUN_PART
        quads -= part.quads;
        tile += 4 * part.quads * MR, filters += 4 * part.quads * NR;
        last_word = tile - MR, last_filters = filters - NR;
    }
}

void bd_bgemm_edge_i32_4x16__neon(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                  int32_t *out, size_t out_stride) {
    bgemm_edge(0, words, depth, tile, weights, out, out_stride);
}

void bd_bgemm_edge_i32_4x16__neon_wide(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                       int32_t *out, size_t out_stride) {
    bgemm_edge(1, words, depth, tile, weights, out, out_stride);
}

#endif
