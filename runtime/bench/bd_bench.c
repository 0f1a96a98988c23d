/* bd_bench: run a plan on a target without Python: images in, logits and integers out, times as JSON.
 *
 *   bd_bench model.bd [--input FILE [--output FILE] [--integers FILE]] [--isa NAME] [--threads N] [--warmup N]
 *            [--runs N] [--json]
 *
 * FILEs are raw, of this machine's byte order: float32 images [C,H,W] back to back; float32 outputs; for each image and
 * each binary convolution, in the order they run, int32 [H][W][F]. Exit status 0, or 2 with one line on stderr. */
#define _POSIX_C_SOURCE 200809L

#include "../include/bindeploy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct options {
    const char *plan, *input, *output, *integers, *isa;
    size_t threads, warmup, runs;
    int json;
};

static void quit(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void quit(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("bd_bench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL)
        quit("no memory for %zu times %zu bytes", count, size);
    return memory;
}

static size_t parse_count(const char *option, const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != 0 || value > 10000000)
        quit("%s `%s` is no count: 0 to 10000000", option, text);
    return (size_t)value;
}

static struct options parse_options(int count, char **words) {
    struct options options = {.threads = 1, .warmup = 3};
    for (int i = 1; i < count; i++) {
        const char *word = words[i];
        if (strncmp(word, "--", 2) != 0) {
            if (options.plan != NULL)
                quit("`%s` is one plan too many", word);
            options.plan = word;
            continue;
        }
        if (strcmp(word, "--json") == 0) {
            options.json = 1;
            continue;
        }
        if (i + 1 == count)
            quit("`%s` needs a value, or is unknown: --input, --output, --integers, --isa, --threads, --warmup, "
                 "--runs, --json",
                 word);
        const char *value = words[++i];
        if (strcmp(word, "--input") == 0)
            options.input = value;
        else if (strcmp(word, "--output") == 0)
            options.output = value;
        else if (strcmp(word, "--integers") == 0)
            options.integers = value;
        else if (strcmp(word, "--isa") == 0)
            options.isa = value;
        else if (strcmp(word, "--threads") == 0)
            options.threads = parse_count(word, value);
        else if (strcmp(word, "--warmup") == 0)
            options.warmup = parse_count(word, value);
        else if (strcmp(word, "--runs") == 0)
            options.runs = parse_count(word, value);
        else
            quit("unknown option `%s`: --input, --output, --integers, --isa, --threads, --warmup, --runs, --json",
                 word);
    }
    if (options.plan == NULL)
        quit("no plan: bd_bench model.bd [--input FILE --output FILE] [--runs N] [--json]");
    if (options.input == NULL && (options.output != NULL || options.integers != NULL))
        quit("--output and --integers need --input");
    if (options.input == NULL && options.runs == 0 && !options.json)
        quit("nothing to do: give --input, --runs or --json");
    return options;
}

static size_t elements(const uint32_t shape[4]) {
    return (size_t)shape[0] * shape[1] * shape[2] * shape[3];
}

static FILE *open_file(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (file == NULL)
        quit("cannot open `%s`: %s", path, strerror(errno));
    return file;
}

static void write_all(const void *data, size_t size, size_t count, FILE *file, const char *path) {
    if (fwrite(data, size, count, file) != count)
        quit("cannot write `%s`: %s", path, strerror(errno));
}

static void close_written(FILE *file, const char *path) {
    if (file != NULL && fclose(file) != 0)
        quit("cannot write `%s`: %s", path, strerror(errno));
}

/* The integers of one image, a map [H][W][F] for each binary convolution; NULL for other nodes. */
struct integers {
    const bd_model *model;
    size_t nodes;
    int32_t **maps;
};

static void record_tile(void *user, size_t node, size_t first_pixel, size_t pixels, size_t first_filter, size_t filters,
                        const int32_t *dots, size_t stride) {
    const struct integers *integers = user;
    bd_node described;
    bd_node_at(integers->model, node, &described);
    size_t channels = described.output_shape[3];
    for (size_t m = 0; m < pixels; m++)
        memcpy(integers->maps[node] + (first_pixel + m) * channels + first_filter, dots + m * stride,
               filters * sizeof *dots);
}

static int gives_integers(const char *op) {
    static const char *const ops[] = {"binary_conv", "binary_conv_threshold", "saturating_conv",
                                      "saturating_conv_threshold"};
    int gives = 0;
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        gives |= strcmp(op, ops[i]) == 0;
    return gives;
}

static struct integers observe(bd_model *model, size_t nodes) {
    struct integers integers = {.model = model, .nodes = nodes, .maps = allocate(nodes, sizeof(int32_t *))};
    for (size_t i = 0; i < nodes; i++) {
        bd_node node;
        bd_node_at(model, i, &node);
        if (gives_integers(node.op))
            integers.maps[i] = allocate(elements(node.output_shape), sizeof(int32_t));
    }
    return integers;
}

static void write_integers(const struct integers *integers, FILE *file, const char *path) {
    for (size_t i = 0; i < integers->nodes; i++) {
        bd_node node;
        bd_node_at(integers->model, i, &node);
        if (integers->maps[i] != NULL)
            write_all(integers->maps[i], sizeof(int32_t), elements(node.output_shape), file, path);
    }
}

static void free_integers(struct integers *integers) {
    for (size_t i = 0; i < integers->nodes; i++)
        free(integers->maps[i]);
    free(integers->maps);
}

/* Runs every image of the input file; `image` ends as the last one. */
static void run_images(const struct options *options, bd_model *model, const bd_description *about, float *image,
                       float *logits) {
    size_t image_size = elements(about->input_shape), logits_size = elements(about->output_shape);
    FILE *input = open_file(options->input, "rb");
    FILE *output = options->output ? open_file(options->output, "wb") : NULL;
    FILE *dots = options->integers ? open_file(options->integers, "wb") : NULL;
    struct integers integers = observe(model, dots ? about->node_count : 0);
    bd_observe(model, dots ? record_tile : NULL, &integers);
    size_t images = 0, got;
    while ((got = fread(image, 1, image_size * sizeof *image, input)) == image_size * sizeof *image) {
        bd_run(model, image, logits);
        if (output != NULL)
            write_all(logits, sizeof *logits, logits_size, output, options->output);
        if (dots != NULL)
            write_integers(&integers, dots, options->integers);
        images++;
    }
    if (got != 0 || images == 0 || ferror(input))
        quit("`%s` does not hold whole images of %zu bytes", options->input, image_size * sizeof *image);
    bd_observe(model, NULL, NULL);
    free_integers(&integers);
    fclose(input);
    close_written(output, options->output);
    close_written(dots, options->integers);
}

static double microseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The nearest-rank percentile of sorted times. */
static double percentile(const double *sorted, size_t count, size_t percent) {
    size_t rank = (count * percent + 99) / 100;
    return sorted[rank > 0 ? rank - 1 : 0];
}

/* Of each pair of runs one is timed as a whole and one node by node, so that reading the clock costs the total nothing.
 * nodes[i * runs + r] is run r of node i. */
static void measure(const struct options *options, bd_model *model, size_t node_count, const float *image,
                    float *logits, double *totals, double *nodes) {
    for (size_t i = 0; i < options->warmup; i++)
        bd_run(model, image, logits);
    for (size_t run = 0; run < options->runs; run++) {
        bd_profile(model, 0);
        double start = microseconds();
        bd_run(model, image, logits);
        totals[run] = microseconds() - start;
        bd_profile(model, 1);
        bd_run(model, image, logits);
        for (size_t i = 0; i < node_count; i++) {
            bd_node node;
            bd_node_at(model, i, &node);
            nodes[i * options->runs + run] = (double)node.nanoseconds * 1e-3;
        }
    }
    qsort(totals, options->runs, sizeof *totals, ascending);
    for (size_t i = 0; i < node_count; i++)
        qsort(nodes + i * options->runs, options->runs, sizeof *nodes, ascending);
}

static void print_string(const char *text) {
    putchar('"');
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
    putchar('"');
}

static void print_layers(const bd_model *model, size_t node_count, size_t runs, const double *nodes) {
    printf("\"layers\": [");
    for (size_t i = 0; i < node_count; i++) {
        bd_node node;
        bd_node_at(model, i, &node);
        printf("%s{\"name\": ", i ? ", " : "");
        print_string(node.name);
        printf(", \"op\": \"%s\", \"kernel\": \"%s\", \"macs\": %llu", node.op, node.kernel,
               (unsigned long long)node.macs);
        if (runs > 0)
            printf(", \"median_us\": %.3f", percentile(nodes + i * runs, runs, 50));
        printf("}");
    }
    printf("]");
}

static void print_report(const struct options *options, const bd_model *model, const bd_description *about,
                         const double *totals, const double *nodes) {
    size_t runs = options->runs;
    printf("{\"version\": \"%s\", \"isa\": \"%s\", \"threads\": %zu, ", bd_version(),
           options->isa ? options->isa : bd_isa(), options->threads);
    if (runs > 0)
        printf("\"total\": {\"median_us\": %.3f, \"p10_us\": %.3f, \"p90_us\": %.3f, \"runs\": %zu}, ",
               percentile(totals, runs, 50), percentile(totals, runs, 10), percentile(totals, runs, 90), runs);
    print_layers(model, about->node_count, runs, nodes);
    printf(
        ", \"memory\": {\"plan_bytes\": %zu, \"arena_bytes\": %zu, \"weights_bytes\": %zu, \"scratch_bytes\": %zu}}\n",
        about->plan_bytes, about->arena_bytes, about->weights_bytes, about->scratch_bytes);
}

/* Without an input file: numbers in [-1, 1) that are the same everywhere. */
static void fill_image(float *image, size_t count) {
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        image[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    }
}

int main(int count, char **words) {
    struct options options = parse_options(count, words);
    char error[BD_ERROR_BYTES];
    bd_model *model;
    bd_description about;
    bd_options how = {.isa = options.isa, .threads = (int)options.threads};
    if (bd_open(options.plan, &how, &model, error))
        quit("%s", error);
    bd_describe(model, &about);
    float *image = allocate(elements(about.input_shape), sizeof *image);
    float *logits = allocate(elements(about.output_shape), sizeof *logits);
    double *totals = allocate(options.runs, sizeof *totals);
    double *nodes = allocate(options.runs * about.node_count, sizeof *nodes);
    fill_image(image, elements(about.input_shape));
    if (options.input != NULL)
        run_images(&options, model, &about, image, logits);
    if (options.runs > 0)
        measure(&options, model, about.node_count, image, logits, totals, nodes);
    if (options.runs > 0 || options.json)
        print_report(&options, model, &about, totals, nodes);
    free(nodes);
    free(totals);
    free(logits);
    free(image);
    bd_close(model);
    return fflush(stdout) == 0 ? 0 : 2;
}
