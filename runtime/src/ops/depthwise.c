#include "depthwise.h"

#include <string.h>

/* Sums of one strip, and the binary digits that a count of taps can have. */
enum { CHANNELS = 64, DIGITS = 32 };

/* The input pixel that a tap reads; NULL in the padding. */
static const unsigned char *pixel_at(const struct bd_step *step, struct bd_corner corner, int ky, int kx) {
    const struct bd_window *window = &step->window;
    int y = corner.y + ky * window->dilation_y, x = corner.x + kx * window->dilation_x;
    if (y < 0 || y >= window->height || x < 0 || x >= window->width)
        return NULL;
    return step->tiled.source + ((size_t)y * (size_t)window->width + (size_t)x) * step->tiled.row_bytes;
}

static void multiply_add(size_t count, const float *restrict x, const float *restrict weights, float *restrict sums) {
    for (size_t i = 0; i < count; i++)
        sums[i] += x[i] * weights[i];
}

void bd_sum_floats(const struct bd_step *step, struct bd_corner corner, size_t first, size_t count, void *sums) {
    const float *weights = (const float *)(const void *)step->tiled.weights + first;
    memset(sums, 0, count * sizeof(float));
    for (int ky = 0; ky < step->window.kernel_height; ky++)
        for (int kx = 0; kx < step->window.kernel_width; kx++, weights += step->window.channels) {
            const unsigned char *pixel = pixel_at(step, corner, ky, kx);
            if (pixel != NULL)
                multiply_add(count, (const float *)(const void *)pixel + first, weights, sums);
        }
}

/* Adds one to each of 64 counters whose bit is set; digit k of all counters is digits[k]. */
static void add_ones(uint64_t ones, uint64_t *digits) {
    for (; ones != 0; digits++) {
        uint64_t carry = *digits & ones;
        *digits ^= ones;
        ones = carry;
    }
}

/* Bit i of eight, as byte i: the product copies them to each byte, which keeps its own, and a sum carries that one to
 * its highest bit. */
static uint64_t spread(uint64_t eight) {
    uint64_t own = eight * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
    return (own + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
}

/* sums[i] = taps - 2 * counter i of 64 counters, eight counters and eight digits at a time */
static void subtract_counts(int taps, const uint64_t *digits, int32_t *sums) {
    for (size_t i = 0; i < CHANNELS; i++)
        sums[i] = taps;
    for (int low = 0; taps >> low != 0; low += 8)
        for (size_t first = 0; first < CHANNELS; first += 8) {
            uint64_t counts = 0;
            for (int k = low; k < low + 8 && taps >> k != 0; k++)
                counts += spread(digits[k] >> first & 0xff) << (k - low);
            for (size_t i = 0; i < 8; i++)
                sums[first + i] -= (int32_t)(counts >> (8 * i) & 0xff) << (low + 1);
        }
}

void bd_sum_bits(const struct bd_step *step, struct bd_corner corner, size_t first, size_t count, void *sums) {
    const uint64_t *weights = (const uint64_t *)(const void *)step->tiled.weights + first / 64;
    uint64_t digits[DIGITS] = {0};
    int taps = 0;
    for (int ky = 0; ky < step->window.kernel_height; ky++)
        for (int kx = 0; kx < step->window.kernel_width; kx++, weights += bd_words(step->window.channels)) {
            const unsigned char *pixel = pixel_at(step, corner, ky, kx);
            if (pixel == NULL && step->node->pad_value == 0)
                continue;
            taps++;
            add_ones(*weights ^ (pixel == NULL ? 0 : ((const uint64_t *)(const void *)pixel)[first / 64]), digits);
        }
    (void)count;
    subtract_counts(taps, digits, sums);
}

void bd_convolve_depthwise(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                           bd_channel_sums *sum, bd_strip_function *finish) {
    const struct bd_window *window = &step->window;
    size_t channels = (size_t)window->channels;
    int32_t sums[CHANNELS];
    struct bd_strip strip = {.pixels = 1, .sums = sums, .stride = CHANNELS};
    struct bd_range rows = bd_share_of(worker, (size_t)window->out_height);
    strip.first_pixel = rows.first * (size_t)window->out_width;
    for (int row = (int)rows.first; row < (int)rows.end; row++)
        for (int column = 0; column < window->out_width; column++, strip.first_pixel++) {
            struct bd_corner corner = {row * window->stride_y - window->pad_top,
                                       column * window->stride_x - window->pad_left};
            for (size_t first = 0; first < channels; first += CHANNELS) {
                strip.first_filter = first;
                strip.filters = channels - first < CHANNELS ? channels - first : CHANNELS;
                sum(step, corner, first, strip.filters, sums);
                finish(model, step, &strip);
            }
        }
}
