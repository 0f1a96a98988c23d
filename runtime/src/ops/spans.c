#include "spans.h"

/* Taps of one axis that lie in the input. */
struct seen {
    int first, count;
};

/* Tap t is at begin + t * dilation of `size`. */
static struct seen seen_from(int begin, int dilation, int taps, int size) {
    int first = begin < 0 ? (dilation - 1 - begin) / dilation : 0;
    int end = begin < size ? (size - 1 - begin) / dilation + 1 : 0;
    end = end < taps ? end : taps;
    return (struct seen){first, first < end ? end - first : 0};
}

static struct seen seen_in_row(const struct bd_window *window, int x) {
    return seen_from(x * window->stride_x - window->pad_left, window->dilation_x, window->kernel_width, window->width);
}

/* Pixels from x on that see the whole width of the kernel; 1 where x itself does not. */
static int pixels_from(const struct bd_window *window, int x) {
    int reach = (window->kernel_width - 1) * window->dilation_x, last = window->width - 1 - reach + window->pad_left;
    int end = last < 0 ? 0 : last / window->stride_x + 1;
    end = end < window->out_width ? end : window->out_width;
    return x * window->stride_x >= window->pad_left && x < end ? end - x : 1;
}

static void slide_row(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker,
                      size_t channels, int y, bd_span_function *run, const void *user) {
    const struct bd_window *window = &step->window;
    int top = y * window->stride_y - window->pad_top, pixels;
    struct seen rows = seen_from(top, window->dilation_y, window->kernel_height, window->height);
    for (int x = 0; x < window->out_width; x += pixels) {
        pixels = pixels_from(window, x);
        struct seen columns = seen_in_row(window, x);
        int input_y = top + rows.first * window->dilation_y;
        int input_x = x * window->stride_x - window->pad_left + columns.first * window->dilation_x;
        int sees = rows.count > 0 && columns.count > 0;
        struct bd_span span = {.first_pixel = (size_t)y * (size_t)window->out_width + (size_t)x,
                               .pixels = (size_t)pixels,
                               .input =
                                   sees ? ((size_t)input_y * (size_t)window->width + (size_t)input_x) * channels : 0,
                               .tap_y = (size_t)rows.first,
                               .tap_x = (size_t)columns.first,
                               .taps = {.channels = channels,
                                        .height = sees ? (size_t)rows.count : 0,
                                        .width = sees ? (size_t)columns.count : 0,
                                        .row = (size_t)window->dilation_y * (size_t)window->width * channels,
                                        .column = (size_t)window->dilation_x * channels,
                                        .weight_row = (size_t)window->kernel_width * channels,
                                        .pixel = (size_t)window->stride_x * channels}};
        run(model, step, &span, worker, user);
    }
}

/* Threads divide the rows. */
void bd_slide(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker, size_t channels,
              bd_span_function *run, const void *user) {
    struct bd_range rows = bd_share_of(worker, (size_t)step->window.out_height);
    for (size_t y = rows.first; y < rows.end; y++)
        slide_row(model, step, worker, channels, (int)y, run, user);
}
