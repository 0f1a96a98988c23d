/* Pools: of floats, and of bits. Padding is outside every window's extremum, and counts in a mean where asked. Pads are
 * smaller than the kernel, so each window has at least one pixel of the input. */
#include "parameters.h"
#include "spans.h"

enum { COUNT_PADS = 1 };

static int check_pool(struct bd_step *step, char *error) {
    static const int32_t dense[2] = {1, 1};
    if (step->node->flags & ~(uint32_t)COUNT_PADS)
        return bd_fail_at(step, error, "flags %u are unknown", step->node->flags);
    for (int i = 0; i < 4; i++)
        if (step->node->pads[i] >= step->node->kernel[i % 2])
            return bd_fail_at(step, error, "pad is %d, and its kernel %d", step->node->pads[i],
                              step->node->kernel[i % 2]);
    return bd_check_window(step, dense, error) || bd_check_same_channels(step, error);
}

static int check_binary_pool(struct bd_step *step, char *error) {
    return check_pool(step, error) || bd_check_directions(step, 1, step->window.channels, error);
}

static void prepare_binary_pool(struct bd_model *model, struct bd_step *step) {
    size_t channels = (size_t)step->window.channels;
    step->tiled.flips = bd_take(&model->tables, bd_words(step->window.channels) * sizeof(uint64_t));
    if (model->memory != NULL)
        bd_pack_directions(channels, step->in[1]->data, step->tiled.flips);
}

/* The part of one output pixel's window that lies in the input. */
struct area {
    int y_begin, y_end, x_begin, x_end;
};

static struct area area_of(const struct bd_window *window, int out_y, int out_x) {
    int y = out_y * window->stride_y - window->pad_top, x = out_x * window->stride_x - window->pad_left;
    int y_end = y + window->kernel_height, x_end = x + window->kernel_width;
    return (struct area){.y_begin = y > 0 ? y : 0,
                         .y_end = y_end < window->height ? y_end : window->height,
                         .x_begin = x > 0 ? x : 0,
                         .x_end = x_end < window->width ? x_end : window->width};
}

static size_t pixel_at(const struct bd_window *window, int y, int x) {
    return (size_t)y * (size_t)window->width + (size_t)x;
}

static void largest(const struct bd_model *model, const struct bd_step *step, const struct bd_span *span,
                    const struct bd_worker *worker, const void *user) {
    (void)model;
    (void)worker;
    (void)user;
    float *y = (float *)step->out->data + span->first_pixel * span->taps.channels;
    step->kernel->run.fmax_f32(&span->taps, span->pixels, (const float *)step->in[0]->data + span->input, y);
}

static void run_max_pool(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    bd_slide(model, step, worker, (size_t)step->window.channels, largest, NULL);
}

static void mean(const struct bd_model *model, const struct bd_step *step, const struct bd_span *span,
                 const struct bd_worker *worker, const void *user) {
    (void)model;
    (void)worker;
    (void)user;
    const struct bd_window *window = &step->window;
    int pads = step->node->flags & COUNT_PADS;
    size_t taps = pads ? (size_t)(window->kernel_height * window->kernel_width) : span->taps.height * span->taps.width;
    float *y = (float *)step->out->data + span->first_pixel * span->taps.channels;
    step->kernel->run.fmean_f32(&span->taps, span->pixels, (const float *)step->in[0]->data + span->input, (float)taps,
                                y);
}

static void run_average_pool(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    bd_slide(model, step, worker, (size_t)step->window.channels, mean, NULL);
}

/* max is -1 where all are, so it is the AND of bits; min, where the direction is negative, the same of flipped bits. */
static void run_binary_max_pool(const struct bd_model *model, const struct bd_step *step,
                                const struct bd_worker *worker) {
    (void)model;
    const struct bd_window *window = &step->window;
    const uint64_t *input = step->in[0]->data, *flips = step->tiled.flips;
    size_t words = bd_words(window->channels);
    struct bd_range rows = bd_share_of(worker, (size_t)window->out_height);
    uint64_t *y = (uint64_t *)step->out->data + rows.first * (size_t)window->out_width * words;
    for (int row = (int)rows.first; row < (int)rows.end; row++)
        for (int column = 0; column < window->out_width; column++, y += words) {
            struct area area = area_of(window, row, column);
            for (size_t word = 0; word < words; word++) {
                uint64_t all = ~UINT64_C(0);
                for (int in_y = area.y_begin; in_y < area.y_end; in_y++)
                    for (int in_x = area.x_begin; in_x < area.x_end; in_x++)
                        all &= input[pixel_at(window, in_y, in_x) * words + word] ^ flips[word];
                y[word] = all ^ flips[word];
            }
        }
}

const struct bd_operator bd_operator_max_pool = {.name = "max_pool",
                                                 .in = {BD_F32},
                                                 .out = BD_F32,
                                                 .constants_from = 1,
                                                 .kernel_op = "fmax",
                                                 .kernel_out = "f32",
                                                 .check = check_pool,
                                                 .run = run_max_pool};

const struct bd_operator bd_operator_average_pool = {.name = "average_pool",
                                                     .in = {BD_F32},
                                                     .out = BD_F32,
                                                     .constants_from = 1,
                                                     .kernel_op = "fmean",
                                                     .kernel_out = "f32",
                                                     .check = check_pool,
                                                     .run = run_average_pool};

const struct bd_operator bd_operator_binary_max_pool = {.name = "binary_max_pool",
                                                        .in = {BD_BITS, BD_I8},
                                                        .out = BD_BITS,
                                                        .constants_from = 1,
                                                        .check = check_binary_pool,
                                                        .prepare = prepare_binary_pool,
                                                        .run = run_binary_max_pool};
