#include "onnx_layer.h"

#include <stdio.h>
#include <stdlib.h>

OrtStatus *bd_onnx_fail(const OrtApi *api, const char *line) {
    return api->CreateStatus(ORT_INVALID_ARGUMENT, line);
}

OrtStatus *bd_onnx_fail_at(const OrtApi *api, const struct bd_layer *layer, const char *what) {
    char line[BD_ERROR_BYTES];
    snprintf(line, sizeof line, "node `%.100s`: %s", layer->name, what);
    return bd_onnx_fail(api, line);
}

static OrtStatus *read_shape(const OrtApi *api, const OrtTensorTypeAndShapeInfo *info, struct bd_onnx_tensor *tensor) {
    BD_TRY(api->GetDimensionsCount(info, &tensor->rank));
    if (tensor->rank > BD_LARGEST_RANK)
        return bd_onnx_fail(api, "bindeploy: a tensor has more than 16 axes");
    return api->GetDimensions(info, tensor->shape, tensor->rank);
}

OrtStatus *bd_onnx_tensor(const OrtApi *api, const OrtValue *value, struct bd_onnx_tensor *tensor) {
    OrtTensorTypeAndShapeInfo *info;
    void *data;
    BD_TRY(api->GetTensorTypeAndShape(value, &info));
    OrtStatus *status = read_shape(api, info, tensor);
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (status != NULL)
        return status;
    BD_TRY(api->GetTensorMutableData((OrtValue *)value, &data));
    tensor->data = data;
    return NULL;
}

/* Attributes, whose values the runtime's loader judges: only what would not fit its 32 bits is judged here. */
static OrtStatus *narrow(const OrtApi *api, const char *name, int64_t value, int32_t *out) {
    char line[BD_ERROR_BYTES];
    snprintf(line, sizeof line, "bindeploy: attribute `%s` is %lld, which is out of bounds", name, (long long)value);
    if (value < 0 || value > BD_LARGEST_SIZE)
        return bd_onnx_fail(api, line);
    *out = (int32_t)value;
    return NULL;
}

static OrtStatus *read_integer(const OrtApi *api, const OrtKernelInfo *info, const char *name, int32_t *out) {
    int64_t value;
    BD_TRY(api->KernelInfoGetAttribute_int64(info, name, &value));
    return narrow(api, name, value, out);
}

static OrtStatus *read_integers(const OrtApi *api, const OrtKernelInfo *info, const char *name, size_t count,
                                int32_t *out) {
    int64_t values[4];
    size_t found = count;
    BD_TRY(api->KernelInfoGetAttributeArray_int64(info, name, values, &found));
    if (found != count)
        return bd_onnx_fail(api, "bindeploy: strides, dilations and kernel_shape have 2 integers, pads has 4");
    for (size_t i = 0; i < count; i++)
        BD_TRY(narrow(api, name, values[i], &out[i]));
    return NULL;
}

/* The shape in a plan, of four axes. A row of a linear layer is a filter of one tap: [F, bytes] is [F, 1, 1, bytes]. */
static void read_plan_shape(const struct bd_onnx_tensor *tensor, struct bd_constant *constant) {
    for (size_t axis = 0; axis < 4; axis++)
        constant->shape[axis] = 1;
    for (size_t axis = 0; axis < tensor->rank; axis++) {
        int64_t size = tensor->shape[axis];
        size_t at = axis > 0 ? axis + 4 - tensor->rank : 0;
        if (constant->channels_first && axis > 0)
            at = axis == 1 ? 3 : axis - 1;
        constant->shape[at] = size > 0 && size <= BD_LARGEST_SIZE ? (uint32_t)size : 0;
    }
}

OrtStatus *bd_onnx_constants(const OrtApi *api, const struct bd_layer_kind *kind, const OrtValue *const *values,
                             struct bd_constant *constants) {
    for (int i = 0; i < BD_CONSTANTS && kind->constants[i] != 0; i++) {
        struct bd_onnx_tensor tensor;
        BD_TRY(bd_onnx_tensor(api, values[i], &tensor));
        if (tensor.rank > 4)
            return bd_onnx_fail(api, "bindeploy: weights and what stands beside them have at most 4 axes");
        constants[i].channels_first = i == 0 && kind->geometry == BD_CONVOLUTION && kind->constants[0] == BD_I8;
        constants[i].data = tensor.data;
        read_plan_shape(&tensor, &constants[i]);
    }
    return NULL;
}

static OrtStatus *constant_inputs(const OrtApi *api, const OrtKernelInfo *info, const struct bd_layer *layer,
                                  struct bd_constant *constants) {
    const OrtValue *values[BD_CONSTANTS] = {NULL};
    for (int i = 0; i < BD_CONSTANTS && layer->kind->constants[i] != 0; i++) {
        int is_constant = 0;
        BD_TRY(api->KernelInfoGetConstantInput_tensor(info, (size_t)i + 1, &is_constant, &values[i]));
        if (!is_constant || values[i] == NULL)
            return bd_onnx_fail_at(api, layer, "every input but the first one must be a constant");
    }
    return bd_onnx_constants(api, layer->kind, values, constants);
}

static OrtStatus *read_window(const OrtApi *api, const OrtKernelInfo *info, struct bd_layer *layer) {
    BD_TRY(read_integers(api, info, "strides", 2, layer->strides));
    BD_TRY(read_integers(api, info, "pads", 4, layer->pads));
    if (layer->kind->geometry == BD_POOL)
        BD_TRY(read_integers(api, info, "kernel_shape", 2, layer->kernel));
    else
        BD_TRY(read_integers(api, info, "dilations", 2, layer->dilations));
    return layer->strides[0] > 0 && layer->strides[1] > 0 ? NULL
                                                          : bd_onnx_fail_at(api, layer, "strides must be positive");
}

static OrtStatus *read_pad_value(const OrtApi *api, const OrtKernelInfo *info, struct bd_layer *layer) {
    float value;
    BD_TRY(api->KernelInfoGetAttribute_float(info, "pad_value", &value));
    layer->pad_value = value == 1;
    return value == 0 || value == 1 ? NULL : bd_onnx_fail_at(api, layer, "pad_value must be 0 or 1");
}

/* Everything a layer is but its constants' values; a linear layer is a convolution with a window of one pixel. */
static OrtStatus *read_layer(const OrtApi *api, const OrtKernelInfo *info, struct bd_layer *layer,
                             struct bd_constant *constants) {
    BD_TRY(constant_inputs(api, info, layer, constants));
    const uint32_t *first = constants[0].shape;
    layer->filters = layer->channels = first[0];
    for (int axis = 0; axis < 2; axis++)
        layer->kernel[axis] = layer->strides[axis] = layer->dilations[axis] = 1;
    layer->group = 1;
    if (layer->kind->geometry != BD_LINEAR)
        BD_TRY(read_window(api, info, layer));
    if (layer->kind->geometry == BD_POOL)
        return NULL;
    int is_packed = layer->kind->constants[0] == BD_U8;
    int32_t channels = (int32_t)first[3];
    if (is_packed)
        BD_TRY(read_integer(api, info, "channels", &channels));
    if (layer->kind->geometry == BD_CONVOLUTION) {
        BD_TRY(read_integer(api, info, "group", &layer->group));
        layer->kernel[0] = (int32_t)first[1];
        layer->kernel[1] = (int32_t)first[2];
        if (is_packed)
            BD_TRY(read_pad_value(api, info, layer));
    }
    if ((int64_t)channels * layer->group > BD_LARGEST_SIZE)
        return bd_onnx_fail_at(api, layer, "it has too many channels");
    layer->channels = (uint32_t)(channels * layer->group);
    return NULL;
}

/* The node's name, in memory that the layer owns. */
static OrtStatus *read_name(const OrtApi *api, const OrtKernelInfo *info, struct bd_layer *layer) {
    size_t bytes = 0;
    BD_TRY(api->KernelInfo_GetNodeName(info, NULL, &bytes));
    layer->name = calloc(bytes + 1, 1);
    return layer->name == NULL ? bd_onnx_fail(api, "bindeploy: no memory")
                               : api->KernelInfo_GetNodeName(info, layer->name, &bytes);
}

/* Height and width of x where the graph tells them, else those of the smallest picture that the window takes. */
static OrtStatus *expected_size(const OrtApi *api, const OrtKernelInfo *info, const struct bd_layer *layer,
                                uint32_t size[2], int *is_known) {
    OrtTypeInfo *type;
    const OrtTensorTypeAndShapeInfo *tensor_info = NULL;
    struct bd_onnx_tensor x = {.rank = 0};
    BD_TRY(api->KernelInfo_GetInputTypeInfo(info, 0, &type));
    OrtStatus *status = api->CastTypeInfoToTensorInfo(type, &tensor_info);
    if (status == NULL && tensor_info != NULL)
        status = read_shape(api, tensor_info, &x);
    api->ReleaseTypeInfo(type);
    *is_known = 1;
    for (int axis = 0; axis < 2; axis++) {
        int64_t known = x.rank == 4 ? x.shape[2 + axis] : 0;
        int64_t least = (int64_t)layer->dilations[axis] * (layer->kernel[axis] - 1) + 1;
        int fits = known > 0 && known <= BD_LARGEST_SIZE && bd_layer_output(layer, axis, (uint32_t)known) > 0;
        size[axis] = (uint32_t)(fits ? known : least);
        *is_known &= fits;
    }
    return status;
}

OrtStatus *bd_onnx_layer(const OrtApi *api, const OrtKernelInfo *info, struct bd_layer *layer) {
    struct bd_constant constants[BD_CONSTANTS];
    char error[BD_ERROR_BYTES];
    uint32_t size[2] = {1, 1};
    int is_known = 1;
    BD_TRY(read_name(api, info, layer));
    BD_TRY(read_layer(api, info, layer, constants));
    if (layer->kind->geometry != BD_LINEAR)
        BD_TRY(expected_size(api, info, layer, size, &is_known));
    return bd_layer_prepare(layer, constants, size[0], size[1], is_known, error) ? bd_onnx_fail(api, error) : NULL;
}
