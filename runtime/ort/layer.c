#include "layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Loaded plans that a layer keeps while nobody runs them. */
enum { KEPT = 4 };

/* Rows of a linear layer that run as one picture. */
enum { ROWS = 256 };

static int64_t reach(const struct bd_layer *layer, int axis) {
    return (int64_t)layer->dilations[axis] * (layer->kernel[axis] - 1) + 1;
}

uint32_t bd_layer_output(const struct bd_layer *layer, int axis, uint32_t size) {
    int64_t room = (int64_t)size + layer->pads[axis] + layer->pads[axis + 2] - reach(layer, axis);
    return room < 0 ? 0 : (uint32_t)(room / layer->strides[axis] + 1);
}

static int is_linear(const struct bd_layer *layer) {
    return layer->kind->geometry == BD_LINEAR;
}

/* The runtime pads floats with 0; a picture of floats that is padded with 1 is padded here. */
static int is_padded_here(const struct bd_layer *layer) {
    int padded = 0;
    for (int i = 0; i < 4; i++)
        padded |= layer->pads[i] > 0;
    return padded && layer->kind->reads == BD_F32 && layer->pad_value == 1;
}

static struct bd_extent picture(uint32_t height, uint32_t width, uint32_t channels) {
    return (struct bd_extent){{height, width, channels}};
}

static void add_layer(struct bd_plan_writer *plan, const struct bd_layer *layer, const struct bd_constant *constants,
                      struct bd_extent output) {
    const struct bd_layer_kind *kind = layer->kind;
    struct bd_plan_node *node = bd_plan_node(plan, kind->op, kind->writes, output);
    int own_pads = !is_padded_here(layer);
    for (int i = 0; i < BD_CONSTANTS && kind->constants[i] != 0; i++)
        node->inputs[i + 1] = bd_plan_constant(plan, kind->constants[i], constants[i].shape, constants[i].data,
                                               constants[i].channels_first);
    memcpy(node->kernel, layer->kernel, sizeof node->kernel);
    memcpy(node->strides, layer->strides, sizeof node->strides);
    if (own_pads)
        memcpy(node->pads, layer->pads, sizeof node->pads);
    if (kind->geometry == BD_POOL)
        return;
    memcpy(node->dilations, layer->dilations, sizeof node->dilations);
    node->group = layer->group;
    node->pad_value = kind->reads == BD_BITS ? layer->pad_value : 0;
    node->minimum = -__builtin_inff();
    node->maximum = __builtin_inff();
}

static void *write_plan(const struct bd_layer *layer, const struct bd_constant *constants, uint32_t height,
                        uint32_t width, size_t *bytes) {
    struct bd_plan_writer plan;
    uint32_t channels = layer->channels, filters = layer->filters;
    int32_t above = is_padded_here(layer) ? layer->pads[0] + layer->pads[2] : 0;
    int32_t beside = is_padded_here(layer) ? layer->pads[1] + layer->pads[3] : 0;
    uint32_t in[2] = {height + (uint32_t)above, width + (uint32_t)beside};
    struct bd_extent inside = picture(in[0], in[1], channels);
    struct bd_extent outside = picture(bd_layer_output(layer, 0, height), bd_layer_output(layer, 1, width), filters);
    if (is_linear(layer))
        bd_plan_begin(&plan, layer->name, inside);
    else
        bd_plan_begin(&plan, layer->name, picture(channels, in[0], in[1]));
    if (!is_linear(layer))
        bd_plan_node(&plan, BD_OP_to_nhwc, BD_F32, inside);
    if (layer->kind->reads == BD_BITS)
        bd_plan_node(&plan, BD_OP_binarize, BD_BITS, inside);
    add_layer(&plan, layer, constants, outside);
    if (layer->kind->writes == BD_BITS)
        bd_plan_node(&plan, BD_OP_unpack, BD_F32, outside);
    if (!is_linear(layer))
        bd_plan_node(&plan, BD_OP_to_nchw, BD_F32, picture(filters, outside.sizes[0], outside.sizes[1]));
    return bd_plan_end(&plan, bytes);
}

static void unload(struct bd_loaded *loaded) {
    bd_close(loaded->model);
    free(loaded->plan);
    free(loaded);
}

static struct bd_loaded *load(const struct bd_layer *layer, const struct bd_constant *constants, uint32_t height,
                              uint32_t width, char *error) {
    size_t bytes = 0;
    struct bd_loaded *loaded = calloc(1, sizeof *loaded);
    if (loaded != NULL) {
        loaded->height = height;
        loaded->width = width;
        loaded->plan = write_plan(layer, constants, height, width, &bytes);
    }
    if (loaded == NULL || loaded->plan == NULL)
        snprintf(error, BD_ERROR_BYTES, "node `%.100s`: no memory for its plan", layer->name);
    else if (!bd_load(loaded->plan, bytes, NULL, &loaded->model, error))
        return loaded;
    if (loaded != NULL)
        unload(loaded);
    return NULL;
}

/* Takes a loaded plan for this size out of the idle ones, or loads one. */
static struct bd_loaded *take(struct bd_layer *layer, const struct bd_constant *constants, uint32_t height,
                              uint32_t width, char *error) {
    struct bd_loaded *found = NULL;
    pthread_mutex_lock(&layer->lock);
    for (struct bd_loaded **at = &layer->idle; *at != NULL && found == NULL; at = &(*at)->next)
        if ((*at)->height == height && (*at)->width == width) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_mutex_unlock(&layer->lock);
    return found != NULL ? found : load(layer, constants, height, width, error);
}

/* The plan becomes the first of the idle ones; the one that was idle longest goes when there are too many. */
static void give_back(struct bd_layer *layer, struct bd_loaded *loaded) {
    struct bd_loaded *oldest = NULL;
    int kept = 1;
    pthread_mutex_lock(&layer->lock);
    loaded->next = layer->idle;
    layer->idle = loaded;
    for (struct bd_loaded *at = loaded; at->next != NULL; at = at->next)
        if (++kept > KEPT) {
            oldest = at->next;
            at->next = NULL;
            break;
        }
    pthread_mutex_unlock(&layer->lock);
    if (oldest != NULL)
        unload(oldest);
}

int bd_layer_prepare(struct bd_layer *layer, const struct bd_constant *constants, uint32_t height, uint32_t width,
                     int keep, char *error) {
    struct bd_loaded *loaded = take(layer, constants, height, width, error);
    if (loaded == NULL)
        return 1;
    if (keep)
        give_back(layer, loaded);
    else
        unload(loaded);
    return 0;
}

/* Rows, as many at a time as fit in one picture. */
int bd_layer_run_rows(struct bd_layer *layer, const struct bd_constant *constants, size_t rows, const float *x,
                      float *y, char *error) {
    for (size_t left = rows; left > 0;) {
        uint32_t width = left < ROWS ? (uint32_t)left : ROWS;
        struct bd_loaded *loaded = take(layer, constants, 1, width, error);
        if (loaded == NULL)
            return 1;
        for (; left >= width; left -= width, x += (size_t)width * layer->channels, y += (size_t)width * layer->filters)
            bd_run(loaded->model, x, y);
        give_back(layer, loaded);
    }
    return 0;
}

static void pad(const struct bd_layer *layer, uint32_t height, uint32_t width, const float *x, float *padded) {
    size_t top = (size_t)layer->pads[0], left = (size_t)layer->pads[1];
    size_t rows = height + top + (size_t)layer->pads[2], columns = width + left + (size_t)layer->pads[3];
    for (size_t i = 0; i < layer->channels * rows * columns; i++)
        padded[i] = (float)layer->pad_value;
    for (size_t c = 0; c < layer->channels; c++)
        for (size_t row = 0; row < height; row++, x += width)
            memcpy(padded + (c * rows + top + row) * columns + left, x, width * sizeof *x);
}

/* Floats of a padded picture. */
static size_t padded_size(const struct bd_layer *layer, uint32_t height, uint32_t width) {
    return (size_t)layer->channels * (height + (size_t)layer->pads[0] + (size_t)layer->pads[2]) *
           (width + (size_t)layer->pads[1] + (size_t)layer->pads[3]);
}

int bd_layer_run_pictures(struct bd_layer *layer, const struct bd_constant *constants, size_t count, uint32_t height,
                          uint32_t width, const float *x, float *y, char *error) {
    size_t in = (size_t)layer->channels * height * width;
    size_t out = (size_t)layer->filters * bd_layer_output(layer, 0, height) * bd_layer_output(layer, 1, width);
    struct bd_loaded *loaded = take(layer, constants, height, width, error);
    if (loaded == NULL)
        return 1;
    float *padded = is_padded_here(layer) ? malloc(padded_size(layer, height, width) * sizeof *padded) : NULL;
    int failed = is_padded_here(layer) && padded == NULL;
    for (size_t i = 0; i < count && !failed; i++, x += in, y += out) {
        if (padded != NULL)
            pad(layer, height, width, x, padded);
        bd_run(loaded->model, padded != NULL ? padded : x, y);
    }
    free(padded);
    give_back(layer, loaded);
    if (failed)
        snprintf(error, BD_ERROR_BYTES, "node `%.100s`: no memory for its padding", layer->name);
    return failed;
}

void bd_layer_close(struct bd_layer *layer) {
    while (layer->idle != NULL) {
        struct bd_loaded *loaded = layer->idle;
        layer->idle = loaded->next;
        unload(loaded);
    }
    pthread_mutex_destroy(&layer->lock);
    free(layer->name);
    free(layer);
}
