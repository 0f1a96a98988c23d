/* 32-bit ARM: bgemm_edge in sixteen registers, two pixels by four filters at a time. What a quad is, why every other
 * pair is subtracted and where a byte is full: neon_edge.c. */
#include "declarations.h"

#if defined(__ARM_NEON) && !defined(__aarch64__)

#include <arm_neon.h>

#include "tile.h"

enum { MR = 4, NR = 16, COLUMNS = 4, QUADS = 13, FEW_WORDS = 13 };

/* Two pixels by two registers of two filters each. */
struct cells {
    int8x16_t sums[2][2];
    uint8x16_t last[2][2];
};

BD_INLINE uint8x16_t two_filters(const uint64_t *filters, size_t n) {
    return vreinterpretq_u8_u64(vld1q_u64(filters + 2 * n));
}

BD_INLINE void start(int with_word, const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        cells->last[i / 2][i % 2] = with_word ? veorq_u8(pixels[i / 2], two_filters(filters, i % 2)) : vdupq_n_u8(0);
}

/* Sums are q0-q3 for pixels 0 0 1 1, last ones q4-q7 where a quad begins, and one of q4-q8 free; q9 is o1, then c and
 * its count; filters q10-q13; a pixel q14-q15. The second pair goes through the pixels from last to first. */
/* clang-format off */
#define CELL(o2, last, sum, filter1, filter2, sign)                                                                    \
    "veor q" #o2 ", q15, q" #filter2 "\n"                                                                              \
    "veor q9, q14, q" #filter1 "\n"                                                                                    \
    "vbsl q9, q" #o2 ", q" #last "\n"                                                                                  \
    "vcnt.8 q9, q9\n"                                                                                                  \
    "v" #sign ".i8 q" #sum ", q" #sum ", q9\n"
#define TWO_WORDS                                                                                                      \
    "vld1.64 {d20-d23}, [%[filters]], %[word]\n"                                                                       \
    "vld1.64 {d24-d27}, [%[filters]], %[word]\n"
#define PIXEL(to) "vld1.64 {d28-d31}, [%[pixels]], %[" #to "]\n"
#define QUAD                                                                                                           \
    TWO_WORDS                                                                                                          \
    PIXEL(next) CELL(8, 4, 0, 10, 12, add) CELL(4, 5, 1, 11, 13, add)                                                  \
    PIXEL(pair) CELL(5, 6, 2, 10, 12, add) CELL(6, 7, 3, 11, 13, add)                                                  \
    TWO_WORDS                                                                                                          \
    PIXEL(back) CELL(7, 6, 3, 11, 13, sub) CELL(6, 5, 2, 10, 12, sub)                                                  \
    PIXEL(pair) CELL(5, 4, 1, 11, 13, sub) CELL(4, 8, 0, 10, 12, sub)
/* clang-format on */

enum { PIXEL_BYTES = 2 * sizeof(uint8x16_t), PAIR_BYTES = MR * PIXEL_BYTES };

BD_INLINE void run_quads(size_t quads, const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    register int8x16_t sum0 __asm__("q0") = vdupq_n_s8(0), sum1 __asm__("q1") = sum0;
    register int8x16_t sum2 __asm__("q2") = sum0, sum3 __asm__("q3") = sum0;
    register uint8x16_t last0 __asm__("q4") = cells->last[0][0], last1 __asm__("q5") = cells->last[0][1];
    register uint8x16_t last2 __asm__("q6") = cells->last[1][0], last3 __asm__("q7") = cells->last[1][1];
    if (quads > 0)
        __asm__ volatile("1:\n" QUAD "subs %[quads], #1\n"
                         "bne 1b\n"
                         : "+w"(sum0), "+w"(sum1), "+w"(sum2), "+w"(sum3), "+w"(last0), "+w"(last1), "+w"(last2),
                           "+w"(last3), [filters] "+r"(filters), [pixels] "+r"(pixels), [quads] "+r"(quads)
                         : [word] "r"(NR * sizeof *filters), [next] "r"(PIXEL_BYTES), [pair] "r"(PAIR_BYTES),
                           [back] "r"(-PIXEL_BYTES)
                         : "q8", "q9", "q10", "q11", "q12", "q13", "q14", "q15", "cc", "memory");
    *cells = (struct cells){{{sum0, sum1}, {sum2, sum3}}, {{last0, last1}, {last2, last3}}};
}

BD_INLINE void add_word(const uint64_t *filters, const uint8x16_t *pixels, struct cells *cells) {
    BD_UNROLL
    for (size_t i = 0; i < 4; i++) {
        uint8x16_t *last = &cells->last[i / 2][i % 2], o = veorq_u8(pixels[i / 2], two_filters(filters, i % 2));
        int8x16_t *sum = &cells->sums[i / 2][i % 2];
        *sum = vaddq_s8(*sum, vreinterpretq_s8_u8(vcntq_u8(vbicq_u8(*last, o))));
        *last = o;
    }
}

/* Twice the sums of one pixel, of each of four filters. */
BD_INLINE int16x4_t sums_of(const struct cells *cells, size_t m) {
    int16x8_t first = vpaddlq_s8(cells->sums[m][0]), second = vpaddlq_s8(cells->sums[m][1]);
    int16x4_t sums = vpadd_s16(vpadd_s16(vget_low_s16(first), vget_high_s16(first)),
                               vpadd_s16(vget_low_s16(second), vget_high_s16(second)));
    return vshl_n_s16(sums, 1);
}

BD_INLINE int8x8_t add_pairs(int8x16_t bytes) {
    return vpadd_s8(vget_low_s8(bytes), vget_high_s8(bytes));
}

BD_INLINE int16x4_t add_four(int8x8_t first, int8x8_t second) {
    int16x8_t sums = vpaddlq_s8(vcombine_s8(first, second));
    return vpadd_s16(vget_low_s16(sums), vget_high_s16(sums));
}

/* Twice the sums plus the ones of last. */
BD_INLINE int16x4_t ones_of(int few, const struct cells *cells, size_t m) {
    int8x16_t first = vreinterpretq_s8_u8(vcntq_u8(cells->last[m][0]));
    int8x16_t second = vreinterpretq_s8_u8(vcntq_u8(cells->last[m][1]));
    if (!few)
        return vadd_s16(sums_of(cells, m), add_four(add_pairs(first), add_pairs(second)));
    first = vmlaq_s8(first, cells->sums[m][0], vdupq_n_s8(2));
    second = vmlaq_s8(second, cells->sums[m][1], vdupq_n_s8(2));
    return add_four(add_pairs(first), add_pairs(second));
}

/* Pixels m and m + 1 by four filters; where the words are few, two bytes of ones fit one. */
BD_INLINE void run_cells(int few, size_t words, int32x4_t dots, const uint64_t *filters, const uint8x16_t *pixels,
                         size_t m, int32_t *out, size_t out_stride) {
    size_t quads = words / 4, rest = words % 4;
    struct cells cells;
    int32x4_t first = dots, second = dots;
    start(rest > 0, filters, pixels + m, &cells);
    if (rest > 0)
        filters += NR, pixels += MR;
    for (; !few && quads > QUADS; quads -= QUADS, filters += QUADS * 4 * NR, pixels += QUADS * 4 * MR) {
        run_quads(QUADS, filters, pixels + 2 * m, &cells);
        first = vsubw_s16(first, vshl_n_s16(sums_of(&cells, 0), 1));
        second = vsubw_s16(second, vshl_n_s16(sums_of(&cells, 1), 1));
    }
    run_quads(quads, filters, pixels + 2 * m, &cells);
    filters += quads * 4 * NR, pixels += quads * 4 * MR;
    for (size_t k = 1; k < rest; k++, filters += NR, pixels += MR)
        add_word(filters, pixels + m, &cells);
    vst1q_s32(out, vsubw_s16(first, vshl_n_s16(ones_of(few, &cells, 0), 1)));
    vst1q_s32(out + out_stride, vsubw_s16(second, vshl_n_s16(ones_of(few, &cells, 1), 1)));
}

BD_INLINE void run_tile(int few, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *filters,
                        int32_t *out, size_t out_stride) {
    int32x4_t from = vdupq_n_s32(depth - (int32_t)(words / 4 * 256));
    for (size_t m = 0; m < MR; m += 2)
        for (size_t n = 0; n < NR; n += COLUMNS)
            run_cells(few, words, from, filters + n, (const uint8x16_t *)(const void *)tile, m,
                      out + m * out_stride + n, out_stride);
}

void bd_bgemm_edge_i32_4x16__neon(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                                  int32_t *out, size_t out_stride) {
    if (words <= FEW_WORDS)
        run_tile(1, words, depth, tile, weights, out, out_stride);
    else
        run_tile(0, words, depth, tile, weights, out, out_stride);
}

#endif
