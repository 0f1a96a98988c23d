/* The plan file, byte for byte. Little endian; emit/plan.py writes it, load.c checks it.
 *
 *   header | tensors | nodes | names | zero padding to 64 | constants, each at a multiple of 64
 */
#ifndef BD_MODEL_H
#define BD_MODEL_H

#include <stdint.h>

#define BD_PLAN_MAGIC "BDPLAN\r\n"
#define BD_PLAN_VERSION 2u
#define BD_NONE UINT32_MAX

enum bd_type { BD_F32 = 1, BD_I32 = 2, BD_U8 = 3, BD_I8 = 4, BD_BITS = 5 };
enum bd_place { BD_ARENA = 0, BD_CONSTANT = 1 };

struct bd_plan_header { /* 64 bytes */
    char magic[8];
    uint32_t version;
    uint32_t checksum; /* CRC-32 (polynomial 0xEDB88320) of every byte after the header */
    uint64_t file_bytes;
    uint64_t arena_bytes;
    uint32_t tensor_count;
    uint32_t node_count;
    uint32_t input;  /* tensor: f32, as the caller hands it */
    uint32_t output; /* tensor: f32, as the caller gets it */
    uint32_t names_bytes;
    uint32_t input_rank;  /* axes that the ONNX model gave the input: 2, 3 or 4; 0 where that is not known */
    uint32_t output_rank; /* and the output: the runtime hands on both and looks at neither */
    uint32_t reserved;
};

/* Activations are [1, H, W, C]; a node's output never overlaps a tensor still needed. The input and output tensors are
 * [1, C, H, W] where to_nhwc and to_nchw turn them, and [1, H, W, C] where the caller has channels last. A row of bits
 * (one pixel) is ceil(C / 64) words of 64 bits, pad bits 0. u8 weights are [F, KH, KW, 4 * ceil(C / group / 32)]:
 * packed rows as in the ONNX file. Vectors are [n, 1, 1, 1]. */
struct bd_plan_tensor { /* 48 bytes */
    uint32_t type;
    uint32_t place;
    uint32_t shape[4];
    uint64_t offset; /* from the start of the arena or of the file; a multiple of 64 */
    uint64_t bytes;
    uint32_t name; /* byte offset into names */
    uint32_t reserved;
};

struct bd_plan_node { /* 108 bytes; fields an op does not use are 0 */
    uint32_t op;
    uint32_t name;
    uint32_t inputs[8]; /* tensors, BD_NONE where absent */
    uint32_t output;
    int32_t kernel[2]; /* of convolutions and pools; the block of depth_to_space and space_to_depth */
    int32_t strides[2];
    int32_t pads[4];      /* top, left, bottom, right; crop_pad uses the first two, negative to crop */
    int32_t dilations[2]; /* of convolutions; pools have none */
    int32_t group;
    int32_t pad_value; /* binary and saturating convolutions: 1 or 0 */
    int32_t channel_offset;
    uint32_t flags;
    float minimum; /* clamp of binary_conv, saturating_conv, binary_weight_conv, conv, int8_conv, affine, add, clip and
                      prelu: */
    float maximum; /* -inf and +inf where there is none; minimum <= maximum */
};

/* What a matmul reads of a and b and writes of y, in floats: for h < heads, m < rows, n < columns
 *   y[h * y_head + m * y_row + n] = factor * sum over k < depth of
 *       a[a_first + h * a_head + m * a_row + k] * b[b_first + h * b_head + k * b_depth + n * b_column] */
struct bd_matmul_shape {
    int32_t heads, rows, depth, columns;
    int32_t a_first, a_head, a_row;
    int32_t b_first, b_head, b_depth, b_column;
    int32_t y_head, y_row;
};

/* y is written in order: y[i0][i1]...[i5] = factor * x[first + sum of i[axis] * steps[axis]], i[axis] < sizes[axis]. */
enum { BD_AXES = 6 };
struct bd_rearrange_shape {
    int32_t sizes[BD_AXES], steps[BD_AXES];
    int32_t first;
};

#endif
