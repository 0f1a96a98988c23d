/* Convolutions of bits with bits whose sums have 8 bits: after each word of 32 channels of a tap they saturate.
 *
 *   sum = 0; tap by tap, word by word: sum = min(max(sum + channels - 2 popcount(a xor w), -128), 127)
 *
 * A padded tap reads +1, or adds nothing (pad_value 0). Everything but the sums is a binary convolution's. */
#include "binary_conv.h"
#include "saturating_tiles.h"

#include <string.h>

static void prepare_thresholds(struct bd_model *model, struct bd_step *step) {
    bd_prepare_saturating(model, step);
    bd_prepare_flips(model, step);
}

/* The sums of one tile whose pixels have padded taps, as listed. Taps that are padding for some pixels stand alone, and
 * what they make of these pixels' sums is not taken over. */
static void multiply_by_taps(const struct bd_step *step, const uint64_t *tile, const uint8_t *weights,
                             const struct bd_padding *padding, const struct bd_padding *padding_end, int32_t *sums) {
    int32_t added[BD_MAX_MR * BD_MAX_NR];
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, words = bd_half_words(step);
    size_t taps = (size_t)step->tiled.taps, next;
    memset(sums, 0, mr * nr * sizeof *sums);
    for (size_t tap = 0; tap < taps; tap = next) {
        int padded = padding < padding_end && padding->tap == tap;
        next = padded ? tap + 1 : padding < padding_end ? padding->tap : taps;
        step->kernel->run.sgemm_i32((next - tap) * words, step->tiled.depths + tap * words, tile + tap * words * mr,
                                    weights + tap * words * sizeof(uint32_t) * nr, sums, padded ? added : sums, nr);
        for (size_t m = 0; m < mr && padded; m++)
            if (padding < padding_end && padding->tap == tap && padding->pixel == m)
                padding++;
            else
                memcpy(sums + m * nr, added + m * nr, nr * sizeof *sums);
    }
}

/* The integers of one strip. */
static void multiply(const struct bd_step *step, const struct bd_strip *strip) {
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, rows = (size_t)step->tiled.taps * mr;
    const unsigned char *tile = strip->tiles;
    int32_t *sums = strip->sums;
    for (size_t i = 0; i < strip->count; i++, tile += strip->tile_bytes, sums += mr * nr) {
        const struct bd_padding *padding = strip->padding + i * rows;
        if (strip->padded[i] == 0)
            step->kernel->run.sgemm_i32(step->tiled.words, step->tiled.depths, (const void *)tile, strip->weights, NULL,
                                        sums, nr);
        else
            multiply_by_taps(step, (const void *)tile, strip->weights, padding, padding + strip->padded[i], sums);
    }
}

static void strip_to_floats(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    multiply(step, strip);
    bd_sums_to_floats(model, step, strip);
}

static void strip_to_bits(const struct bd_model *model, const struct bd_step *step, const struct bd_strip *strip) {
    multiply(step, strip);
    bd_sums_to_bits(model, step, strip);
}

static void run_saturating_conv(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_pack_doubled_words, bd_block_weights, strip_to_floats};
    bd_convolve(model, step, worker, &convolution);
}

static void run_saturating_conv_threshold(const struct bd_model *model, const struct bd_step *step,
                                          const struct bd_worker *worker) {
    static const struct bd_convolution convolution = {bd_pack_doubled_words, bd_block_weights, strip_to_bits};
    bd_convolve(model, step, worker, &convolution);
}

const struct bd_operator bd_operator_saturating_conv = {.name = "saturating_conv",
                                                        .in = {BD_BITS, BD_U8, BD_F32, BD_F32, BD_F32, BD_F32, BD_F32},
                                                        .out = BD_F32,
                                                        .constants_from = 1,
                                                        .optional_from = 4,
                                                        .residual = 4,
                                                        .rectifier = 5,
                                                        .rounding = 6,
                                                        .kernel_op = "sgemm",
                                                        .kernel_out = "i32",
                                                        .one_pixel_op = "sgemv",
                                                        .depthwise_op = "sgemm",
                                                        .transform_op = "affine",
                                                        .transform_out = "f32",
                                                        .after_op = "faffine",
                                                        .check = bd_check_binary_conv,
                                                        .prepare = bd_prepare_saturating,
                                                        .before = bd_lay_doubled_planes,
                                                        .run = run_saturating_conv};

const struct bd_operator bd_operator_saturating_conv_threshold = {.name = "saturating_conv_threshold",
                                                                  .in = {BD_BITS, BD_U8, BD_I32, BD_I8},
                                                                  .out = BD_BITS,
                                                                  .constants_from = 1,
                                                                  .kernel_op = "sgemm",
                                                                  .kernel_out = "i32",
                                                                  .one_pixel_op = "sgemv",
                                                                  .depthwise_op = "sgemm",
                                                                  .transform_op = "threshold",
                                                                  .transform_out = "b1",
                                                                  .check = bd_check_binary_conv_threshold,
                                                                  .prepare = prepare_thresholds,
                                                                  .before = bd_lay_doubled_planes,
                                                                  .run = run_saturating_conv_threshold};
