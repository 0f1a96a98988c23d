/* ARM with NEON, 64-bit and 32-bit: two filters a register.
 * The tiles fit the 32 or 16 registers there are, with room for a compiler to reorder loads. */
#include "declarations.h"

#if defined(__ARM_NEON)

#include <arm_neon.h>
#include <string.h>

#include "../affine.h"
#include "tile.h"

#if defined(__aarch64__)
#define BGEMM_NAME bd_bgemm_i32_3x8__neon
#define BGEMV_NAME bd_bgemv_i32_1x8__neon
enum { REGISTERS = 4 };
#else
#define BGEMM_NAME bd_bgemm_i32_3x4__neon
#define BGEMV_NAME bd_bgemv_i32_1x4__neon
enum { REGISTERS = 2 };
#endif

/* A byte counts at most 8 ones a word: 31 words fit before it must be widened. */
enum { MR = 3, LANES = 2, NR = REGISTERS * LANES, BYTE_WORDS = 31 };

/* out -= 2 * ones of the tile, and start the bytes anew: sums of eight bytes are a filter's count. */
BD_INLINE void subtract_ones(size_t mr, uint8x16_t bytes[MR][REGISTERS], int32_t *out, size_t out_stride) {
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++) {
            uint32x4_t halves = vpaddlq_u16(vpaddlq_u8(bytes[m][n]));
            int32x2_t ones = vreinterpret_s32_u32(vpadd_u32(vget_low_u32(halves), vget_high_u32(halves)));
            int32_t *dots = out + m * out_stride + n * LANES;
            vst1_s32(dots, vsub_s32(vld1_s32(dots), vadd_s32(ones, ones)));
            bytes[m][n] = vdupq_n_u8(0);
        }
    }
}

/* The sums stand in `out`, so that the registers hold nothing but bytes and weights. */
BD_INLINE void bgemm(size_t mr, size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights,
                     int32_t *out, size_t out_stride) {
    uint8x16_t bytes[MR][REGISTERS];
    BD_UNROLL
    for (size_t m = 0; m < mr; m++) {
        BD_UNROLL
        for (size_t n = 0; n < REGISTERS; n++) {
            vst1_s32(out + m * out_stride + n * LANES, vdup_n_s32(depth));
            bytes[m][n] = vdupq_n_u8(0);
        }
    }
    for (size_t first = 0; first < words; first += BYTE_WORDS) {
        size_t end = words - first < BYTE_WORDS ? words : first + BYTE_WORDS;
        if (first > 0)
            subtract_ones(mr, bytes, out, out_stride);
        for (size_t k = first; k < end; k++, weights += NR, tile += mr) {
            uint8x16_t filters[REGISTERS];
            BD_UNROLL
            for (size_t n = 0; n < REGISTERS; n++)
                filters[n] = vreinterpretq_u8_u64(vld1q_u64(weights + n * LANES));
            BD_UNROLL
            for (size_t m = 0; m < mr; m++) {
                uint8x16_t pixel = vreinterpretq_u8_u64(vld1q_dup_u64(tile + m));
                BD_UNROLL
                for (size_t n = 0; n < REGISTERS; n++)
                    bytes[m][n] = vaddq_u8(bytes[m][n], vcntq_u8(veorq_u8(pixel, filters[n])));
            }
        }
    }
    subtract_ones(mr, bytes, out, out_stride);
}

void BGEMM_NAME(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                size_t out_stride) {
    bgemm(MR, words, depth, tile, weights, out, out_stride);
}

void BGEMV_NAME(size_t words, int32_t depth, const uint64_t *tile, const uint64_t *weights, int32_t *out,
                size_t out_stride) {
    bgemm(1, words, depth, tile, weights, out, out_stride);
}

enum { EDGE_MR = 4 };

/* A word of all pixels, each twice. */
struct doubled {
    uint64x2_t of[EDGE_MR];
};

BD_INLINE struct doubled doubled(const uint64_t *word) {
    struct doubled twice;
#if defined(__aarch64__)
    uint64x2x4_t loaded = vld4q_dup_u64(word);
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++)
        twice.of[m] = loaded.val[m];
#else
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++)
        twice.of[m] = vld1q_dup_u64(word + m);
#endif
    return twice;
}

BD_INLINE void double_word(const uint64_t *word, uint64_t *out) {
    struct doubled twice = doubled(word);
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++)
        vst1q_u64(out + 2 * m, twice.of[m]);
}

BD_INLINE uint64x2_t complement(uint64x2_t word) {
    return vreinterpretq_u64_u8(vmvnq_u8(vreinterpretq_u8_u64(word)));
}

/* All is read before it is written. */
BD_INLINE void double_quad(const uint64_t *words, uint64_t *out) {
    struct doubled twice[4];
    BD_UNROLL
    for (size_t k = 0; k < 4; k++)
        twice[k] = doubled(words + k * EDGE_MR);
    BD_UNROLL
    for (size_t m = 0; m < EDGE_MR; m++)
        twice[1].of[m] = complement(twice[1].of[m]);
    BD_UNROLL
    for (size_t i = 0; i < 4 * EDGE_MR; i++)
        vst1q_u64(out + 2 * i, twice[i / 8 * 2 + i % 2].of[i / 2 % EDGE_MR]);
}

/* In place, so from the last word on. */
void bd_edge_tile_u64_4x16__neon(size_t words, uint64_t *tile) {
    size_t rest = words % 4, first = rest > 0, k = words;
    for (; rest > 1; rest--, k--)
        double_word(tile + (k - 1) * EDGE_MR, tile + (k - 1) * EDGE_MR * 2);
    for (; k > first; k -= 4)
        double_quad(tile + (k - 4) * EDGE_MR, tile + (k - 4) * EDGE_MR * 2);
    if (first)
        double_word(tile, tile);
}

#if defined(__aarch64__)
#define FGEMM_NAME bd_fgemm_f32_8x8__neon
#define FGEMM_MR 8
#define FGEMM_MULTIPLY_ADD vfmaq_n_f32
#else
#define FGEMM_NAME bd_fgemm_f32_4x8__neon
#define FGEMM_MR 4
#define FGEMM_MULTIPLY_ADD vmlaq_n_f32
#endif
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 4
#define FGEMM_VECTOR float32x4_t
#define FGEMM_ZERO() vdupq_n_f32(0)
#define FGEMM_LOAD vld1q_f32
#define FGEMM_STORE vst1q_f32
#include "fgemm.h"

#define FGEMM_NAME bd_fgemv_f32_1x8__neon
#define FGEMM_MR 1
#if defined(__aarch64__)
#define FGEMM_MULTIPLY_ADD vfmaq_n_f32
#else
#define FGEMM_MULTIPLY_ADD vmlaq_n_f32
#endif
#define FGEMM_REGISTERS 2
#define FGEMM_LANES 4
#define FGEMM_VECTOR float32x4_t
#define FGEMM_ZERO() vdupq_n_f32(0)
#define FGEMM_LOAD vld1q_f32
#define FGEMM_STORE vst1q_f32
#include "fgemm.h"

/* All ones where !(value >= 0), asked of the bits as in scalar.c. */
BD_INLINE uint16x4_t negative(const float *values) {
    uint32x4_t x = vreinterpretq_u32_f32(vld1q_f32(values));
    uint32x4_t above = vcgtq_u32(x, vdupq_n_u32(0x7f800000u));
    uint32x4_t minus_zero = vceqq_u32(x, vdupq_n_u32(0x80000000u));
    return vmovn_u32(vbicq_u32(above, minus_zero));
}

/* The bits of 64 values: a byte a value holding its own bit of eight, then added in pairs three times. */
BD_INLINE uint64_t binarize_word(const float *values) {
    const uint8x8_t own = vcreate_u8(UINT64_C(0x8040201008040201));
    uint8x8_t sums[8];
    BD_UNROLL
    for (size_t i = 0; i < 8; i++)
        sums[i] = vand_u8(vmovn_u16(vcombine_u16(negative(values + 8 * i), negative(values + 8 * i + 4))), own);
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        sums[i] = vpadd_u8(sums[2 * i], sums[2 * i + 1]);
    BD_UNROLL
    for (size_t i = 0; i < 2; i++)
        sums[i] = vpadd_u8(sums[2 * i], sums[2 * i + 1]);
    return vget_lane_u64(vreinterpret_u64_u8(vpadd_u8(sums[0], sums[1])), 0);
}

void bd_binarize_b1_1x1__neon(size_t pixels, size_t channels, const float *values, uint64_t *bits) {
    for (size_t p = 0; p < pixels; p++, values += channels) {
        size_t c = 0;
        for (; c + 64 <= channels; c += 64)
            *bits++ = binarize_word(values + c);
        if (c < channels)
            bd_binarize_b1_1x1__scalar(1, channels - c, values + c, bits++);
    }
}

/* 64-bit ARM alone: NEON of 32-bit ARM flushes denormals to zero, so there the scalar row is the exact one. The clamp
 * compares and selects, since vmaxq_f32 would take -0 for less than 0. */
#if defined(__aarch64__)
void bd_affine_f32_1x1__neon(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride, const float *scale,
                             const float *bias, const float *residual, float minimum, float maximum, float *out,
                             size_t out_stride) {
    const float32x4_t lowest = vdupq_n_f32(minimum), highest = vdupq_n_f32(maximum);
    size_t n = 0;
    for (; n + 4 <= filters; n += 4) {
        float32x4_t factors = vld1q_f32(scale + n), terms = vld1q_f32(bias + n);
        for (size_t m = 0; m < pixels; m++) {
            float32x4_t product = vmulq_f32(factors, vcvtq_f32_s32(vld1q_s32(dots + m * dots_stride + n)));
            BD_ROUND_PRODUCT(product, "w");
            float32x4_t value = vaddq_f32(product, terms);
            if (residual != NULL)
                value = vaddq_f32(value, vld1q_f32(residual + m * out_stride + n));
            value = vbslq_f32(vcltq_f32(value, lowest), lowest, value);
            value = vbslq_f32(vcgtq_f32(value, highest), highest, value);
            vst1q_f32(out + m * out_stride + n, value);
        }
    }
    if (n < filters)
        bd_affine_f32_1x1__scalar(pixels, filters - n, dots + n, dots_stride, scale + n, bias + n,
                                  residual == NULL ? NULL : residual + n, minimum, maximum, out + n, out_stride);
}
#endif

/* Bit i of a byte where it is the i-th of eight. */
BD_INLINE uint8x16_t own_bits(void) {
    const uint8x8_t own = vcreate_u8(UINT64_C(0x8040201008040201));
    return vcombine_u8(own, own);
}

/* The low halves of a and b, and sums of neighbours in them. */
#if defined(__aarch64__)
#define NARROW_U32(a, b) vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b))
#define NARROW_U16(a, b) vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b))
#define ADD_PAIRS(a, b) vpaddq_u8(a, b)
#else
#define NARROW_U32(a, b) vcombine_u16(vmovn_u32(a), vmovn_u32(b))
#define NARROW_U16(a, b) vcombine_u8(vmovn_u16(a), vmovn_u16(b))
#define ADD_PAIRS(a, b)                                                                                                \
    vcombine_u8(vpadd_u8(vget_low_u8(a), vget_high_u8(a)), vpadd_u8(vget_low_u8(b), vget_high_u8(b)))
#endif

/* All ones in byte i where dots[i] < thresholds[i], of sixteen. */
BD_INLINE uint8x16_t below(const int32_t *dots, const int32x4_t thresholds[4]) {
    uint32x4_t words[4];
    BD_UNROLL
    for (size_t i = 0; i < 4; i++)
        words[i] = vcltq_s32(vld1q_s32(dots + 4 * i), thresholds[i]);
    return NARROW_U16(NARROW_U32(words[0], words[1]), NARROW_U32(words[2], words[3]));
}

/* Sixteen bits of each of four pixels: bytes that hold their own bit, added in pairs three times. */
BD_INLINE uint16x4_t fields(const int32_t *dots, size_t dots_stride, const int32x4_t thresholds[4]) {
    const uint8x16_t own = own_bits();
    uint8x16_t bits[4];
    BD_UNROLL
    for (size_t m = 0; m < 4; m++)
        bits[m] = vandq_u8(below(dots + m * dots_stride, thresholds), own);
    uint8x16_t quarters = ADD_PAIRS(ADD_PAIRS(bits[0], bits[1]), ADD_PAIRS(bits[2], bits[3]));
    return vreinterpret_u16_u8(vpadd_u8(vget_low_u8(quarters), vget_high_u8(quarters)));
}

/* Puts the field of one pixel at bit `first` of a word that is written from its lowest bit on: as two bytes where they
 * are whole ones, whose place in the word is that of a little-endian machine. */
BD_INLINE void put_field(uint64_t *word, size_t first, uint16_t field) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (first > 0 && first % 8 == 0) {
        memcpy((char *)word + first / 8, &field, sizeof field);
        return;
    }
#endif
    bd_put_field(word, first, field);
}

BD_INLINE void put_fields(uint16x4_t fields, size_t first, uint64_t *bits, size_t stride) {
    put_field(bits, first, vget_lane_u16(fields, 0));
    put_field(bits + stride, first, vget_lane_u16(fields, 1));
    put_field(bits + 2 * stride, first, vget_lane_u16(fields, 2));
    put_field(bits + 3 * stride, first, vget_lane_u16(fields, 3));
}

/* Sixteen filters, from bit `first` on. */
BD_INLINE void threshold_sixteen(size_t pixels, const int32_t *dots, size_t dots_stride, const int32_t *thresholds,
                                 uint64_t flips, size_t first, uint64_t *bits, size_t bits_stride) {
    const int32x4_t wanted[4] = {vld1q_s32(thresholds), vld1q_s32(thresholds + 4), vld1q_s32(thresholds + 8),
                                 vld1q_s32(thresholds + 12)};
    const uint16x4_t flipped = vdup_n_u16((uint16_t)flips);
    size_t m = 0;
    for (; m + 4 <= pixels; m += 4, dots += 4 * dots_stride, bits += 4 * bits_stride)
        put_fields(veor_u16(fields(dots, dots_stride, wanted), flipped), first, bits, bits_stride);
    for (; m < pixels; m++, dots += dots_stride, bits += bits_stride)
        bd_put_field(bits, first, vget_lane_u16(veor_u16(fields(dots, 0, wanted), flipped), 0));
}

void bd_threshold_b1_1x1__neon(size_t pixels, size_t filters, const int32_t *dots, size_t dots_stride,
                               const int32_t *thresholds, uint64_t flips, size_t first, uint64_t *bits,
                               size_t bits_stride) {
    size_t n = 0;
    for (; n + 16 <= filters; n += 16)
        threshold_sixteen(pixels, dots + n, dots_stride, thresholds + n, flips >> n, first + n, bits, bits_stride);
    if (n < filters)
        bd_threshold_b1_1x1__scalar(pixels, filters - n, dots + n, dots_stride, thresholds + n, flips >> n, first + n,
                                    bits, bits_stride);
}

uint64_t bd_peak_u64_1x1__neon(size_t rounds) {
    enum { CHAINS = 8 };
    uint8x16_t ones[CHAINS], pixel = vdupq_n_u8(1), filters = vdupq_n_u8(0);
    BD_FORGET(filters, "w");
    BD_UNROLL
    for (size_t n = 0; n < CHAINS; n++)
        ones[n] = vdupq_n_u8(0);
    for (size_t i = 0; i < rounds; i++) {
        BD_UNROLL
        for (size_t n = 0; n < CHAINS; n++) {
            BD_FORGET(pixel, "w");
            ones[n] = vaddq_u8(ones[n], vcntq_u8(veorq_u8(pixel, filters)));
            BD_FORGET(ones[n], "w");
        }
    }
    return (uint64_t)rounds * CHAINS * 128;
}

#define BINARIZE_PLANES_NAME bd_binarize_planes_b1_1x1__neon
#include "planes.h"

#endif
