/* A node of an ONNX graph, as onnxruntime hands it over: its layer and its tensors. */
#ifndef BD_ORT_ONNX_LAYER_H
#define BD_ORT_ONNX_LAYER_H

#include "onnxruntime_c_api.h"

#include "layer.h"

enum { BD_LARGEST_RANK = 16 };

struct bd_onnx_tensor {
    int64_t shape[BD_LARGEST_RANK];
    size_t rank;
    const void *data;
};

#define BD_TRY(call)                                                                                                   \
    do {                                                                                                               \
        OrtStatus *status_ = (call);                                                                                   \
        if (status_ != NULL)                                                                                           \
            return status_;                                                                                            \
    } while (0)

/* An error of one line; the second form begins with the node's name. */
OrtStatus *bd_onnx_fail(const OrtApi *api, const char *line);
OrtStatus *bd_onnx_fail_at(const OrtApi *api, const struct bd_layer *layer, const char *what);

OrtStatus *bd_onnx_tensor(const OrtApi *api, const OrtValue *value, struct bd_onnx_tensor *tensor);

/* The inputs after x, where `values` are of the operator's types. */
OrtStatus *bd_onnx_constants(const OrtApi *api, const struct bd_layer_kind *kind, const OrtValue *const *values,
                             struct bd_constant *constants);

/* Fills a layer of which only the kind is known from the node's attributes and constants, and tries it. What it has
 * taken is freed by bd_layer_close, also where it failed. */
OrtStatus *bd_onnx_layer(const OrtApi *api, const OrtKernelInfo *info, struct bd_layer *layer);

#endif
