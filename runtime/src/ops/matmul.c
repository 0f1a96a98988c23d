/* Products of two activations, head by head: queries by keys, weights by values. No operand is transposed or copied
 * whole: a is read through row pointers, b is packed [block][depth][NR] once a run, and y is written with steps of its
 * own. */
#include "matmul.h"

#include <string.h>

enum { ROWS_AT_ONCE = 64 };

/* Whether first + (count_0 - 1) * step_0 + ... stays below `floats`; counts and steps are at most 2^24. */
static int stays_inside(const struct bd_tensor *tensor, int64_t first, const int32_t *counts, const int32_t *steps,
                        int axes) {
    int64_t last = first;
    for (int i = 0; i < axes; i++)
        last += (int64_t)(counts[i] - 1) * steps[i];
    return first >= 0 && (uint64_t)last < tensor->bytes / sizeof(float);
}

int bd_check_steps(const struct bd_step *step, const struct bd_tensor *tensor, int32_t first, const int32_t *counts,
                   const int32_t *steps, int axes, char *error) {
    for (int i = 0; i < axes; i++)
        if (counts[i] < 1 || counts[i] > BD_MAX_STEP || steps[i] < 0 || steps[i] > BD_MAX_STEP)
            return bd_fail_at(step, error, "%d elements every %d: 1 to %d and 0 to %d are possible", counts[i],
                              steps[i], BD_MAX_STEP, BD_MAX_STEP);
    if (!stays_inside(tensor, first, counts, steps, axes))
        return bd_fail_at(step, error, "it reads or writes beyond `%.60s`", tensor->name);
    return 0;
}

static const struct bd_matmul_shape *shape_of(const struct bd_step *step) {
    return step->in[2]->data;
}

static int check_matmul(struct bd_step *step, char *error) {
    if (bd_check_vector(step, 2, sizeof(struct bd_matmul_shape) / sizeof(int32_t), error) ||
        bd_check_vector(step, 3, 1, error))
        return 1;
    const struct bd_matmul_shape *s = shape_of(step);
    int32_t a[3] = {s->heads, s->rows, s->depth}, b[3] = {s->heads, s->depth, s->columns};
    int32_t y[3] = {s->heads, s->rows, s->columns};
    if (bd_check_steps(step, step->in[0], s->a_first, a, (int32_t[]){s->a_head, s->a_row, 1}, 3, error) ||
        bd_check_steps(step, step->in[1], s->b_first, b, (int32_t[]){s->b_head, s->b_depth, s->b_column}, 3, error) ||
        bd_check_steps(step, step->out, 0, y, (int32_t[]){s->y_head, s->y_row, 1}, 3, error))
        return 1;
    int by_head = s->y_row == s->columns && s->y_head == (int64_t)s->rows * s->columns;
    int by_row = s->y_head == s->columns && s->y_row == (int64_t)s->heads * s->columns;
    if (!by_head && !by_row)
        return bd_fail_at(step, error, "its output has steps of %d and %d: heads or rows stand one after the other",
                          s->y_head, s->y_row);
    uint64_t outputs = (uint64_t)s->heads * (uint64_t)s->rows;
    if (outputs > step->out->bytes || outputs * (uint64_t)s->columns != step->out->bytes / sizeof(float))
        return bd_fail_at(step, error, "%d products of %d by %d are not its output of %llu bytes", s->heads, s->rows,
                          s->columns, (unsigned long long)step->out->bytes);
    step->macs = outputs * (uint64_t)s->columns * (uint64_t)s->depth;
    return 0;
}

static size_t blocks_of(const struct bd_step *step) {
    size_t nr = (size_t)step->kernel->nr;
    return ((size_t)shape_of(step)->columns + nr - 1) / nr;
}

/* Floats of one packed block. */
static size_t block_floats(const struct bd_step *step) {
    return (size_t)shape_of(step)->depth * (size_t)step->kernel->nr;
}

static void prepare_matmul(struct bd_model *model, struct bd_step *step) {
    uint64_t blocks = (uint64_t)shape_of(step)->heads * blocks_of(step);
    bd_share(model, BD_OPERAND, blocks * block_floats(step) * sizeof(float));
}

/* Columns of b -> [depth][NR], zeros where there are no more: 16 rows at a time where a column is contiguous, so that
 * lines of both are read and written whole. */
static void pack_block(const struct bd_matmul_shape *shape, const float *b, size_t columns, size_t nr, float *packed) {
    size_t depth = (size_t)shape->depth, down = (size_t)shape->b_depth, across = (size_t)shape->b_column;
    if (columns < nr)
        memset(packed, 0, depth * nr * sizeof *packed);
    if (across == 1) {
        for (size_t k = 0; k < depth; k++)
            memcpy(packed + k * nr, b + k * down, columns * sizeof *packed);
        return;
    }
    for (size_t first = 0; first < depth; first += 16)
        for (size_t n = 0; n < columns; n++)
            for (size_t k = first; k < depth && k < first + 16; k++)
                packed[k * nr + n] = b[k * down + n * across];
}

/* Blocks of all heads, counted together. */
static void pack_blocks(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    const struct bd_matmul_shape *shape = shape_of(step);
    size_t blocks = blocks_of(step), nr = (size_t)step->kernel->nr;
    const float *b = (const float *)step->in[1]->data + shape->b_first;
    float *packed = (float *)model->shared[BD_OPERAND];
    struct bd_range share = bd_share_of(worker, (size_t)shape->heads * blocks);
    for (size_t i = share.first; i < share.end; i++) {
        size_t column = i % blocks * nr, left = (size_t)shape->columns - column;
        pack_block(shape, b + i / blocks * (size_t)shape->b_head + column * (size_t)shape->b_column,
                   left < nr ? left : nr, nr, packed + i * block_floats(step));
    }
}

/* The part of a tile that is there. */
static void copy_tile(const float *sums, size_t nr, size_t rows, size_t columns, float *y, size_t y_row) {
    for (size_t m = 0; m < rows; m++)
        memcpy(y + m * y_row, sums + m * nr, columns * sizeof *y);
}

static void scale_rows(float factor, size_t rows, size_t columns, float *y, size_t y_row) {
    for (size_t m = 0; m < rows; m++)
        for (size_t n = 0; n < columns; n++)
            y[m * y_row + n] *= factor;
}

/* `rows` <= ROWS_AT_ONCE rows of one head by all of its blocks, each block while it is in the first-level cache. */
static void multiply_rows(const struct bd_step *step, const float *a, size_t rows, const float *packed, float *y) {
    const struct bd_matmul_shape *shape = shape_of(step);
    size_t mr = (size_t)step->kernel->mr, nr = (size_t)step->kernel->nr, depth = (size_t)shape->depth;
    size_t columns = (size_t)shape->columns, a_row = (size_t)shape->a_row, y_row = (size_t)shape->y_row;
    const float *pointers[ROWS_AT_ONCE + BD_MAX_MR];
    float sums[BD_MAX_MR * BD_MAX_NR];
    for (size_t m = 0; m < ROWS_AT_ONCE + BD_MAX_MR; m++)
        pointers[m] = a + (m < rows ? m : rows - 1) * a_row;
    for (size_t n = 0; n < columns; n += nr, packed += depth * nr)
        for (size_t m = 0; m < rows; m += mr) {
            size_t tile_rows = rows - m < mr ? rows - m : mr, tile_columns = columns - n < nr ? columns - n : nr;
            if (tile_rows == mr && tile_columns == nr) {
                step->kernel->run.fgemm_f32(1, depth, pointers + m, packed, y + m * y_row + n, y_row);
            } else {
                step->kernel->run.fgemm_f32(1, depth, pointers + m, packed, sums, nr);
                copy_tile(sums, nr, tile_rows, tile_columns, y + m * y_row + n, y_row);
            }
        }
}

/* Rows of all heads, counted together. */
static void run_matmul(const struct bd_model *model, const struct bd_step *step, const struct bd_worker *worker) {
    const struct bd_matmul_shape *shape = shape_of(step);
    size_t rows = (size_t)shape->rows, at_once = ROWS_AT_ONCE / (size_t)step->kernel->mr * (size_t)step->kernel->mr;
    size_t head_floats = blocks_of(step) * block_floats(step);
    float factor = *(const float *)step->in[3]->data;
    struct bd_range share = bd_share_of(worker, (size_t)shape->heads * rows);
    for (size_t row = share.first, some; row < share.end; row += some) {
        size_t head = row / rows, m = row % rows;
        some = rows - m < share.end - row ? rows - m : share.end - row;
        some = some < at_once ? some : at_once;
        const float *a = (const float *)step->in[0]->data + shape->a_first;
        float *y = (float *)step->out->data + head * (size_t)shape->y_head + m * (size_t)shape->y_row;
        multiply_rows(step, a + head * (size_t)shape->a_head + m * (size_t)shape->a_row, some,
                      (const float *)model->shared[BD_OPERAND] + head * head_floats, y);
        if (factor != 1)
            scale_rows(factor, some, (size_t)shape->columns, y, (size_t)shape->y_row);
    }
}

const struct bd_operator bd_operator_matmul = {.name = "matmul",
                                               .in = {BD_F32, BD_F32, BD_I32, BD_F32},
                                               .out = BD_F32,
                                               .constants_from = 2,
                                               .kernel_op = "fgemm",
                                               .kernel_out = "f32",
                                               .check = check_matmul,
                                               .prepare = prepare_matmul,
                                               .before = pack_blocks,
                                               .run = run_matmul};
