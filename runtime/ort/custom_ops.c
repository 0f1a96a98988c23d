/* The operators of domain `bindeploy` for onnxruntime: registered, its sessions run them by the runtime's kernels, and
 * the function bodies in the file stay unused. */
#include <stdlib.h>

#include "onnx_layer.h"

#define AFFINE .constants = {BD_U8, BD_F32, BD_F32}
#define THRESHOLD .constants = {BD_U8, BD_I32, BD_I8}
#define INT8_AFFINE .constants = {BD_I8, BD_F32, BD_F32, BD_F32}
#define INT8_THRESHOLD .constants = {BD_I8, BD_F32, BD_I32, BD_I8}

/* Every operator there is; a row gives it to onnxruntime. */
static const struct bd_layer_kind kinds[] = {
    {"BinaryConv2d", BD_CONVOLUTION, BD_OP_binary_conv, BD_BITS, BD_F32, AFFINE},
    {"BinaryConv2dThreshold", BD_CONVOLUTION, BD_OP_binary_conv_threshold, BD_BITS, BD_BITS, THRESHOLD},
    {"BinaryLinear", BD_LINEAR, BD_OP_binary_conv, BD_BITS, BD_F32, AFFINE},
    {"BinaryLinearThreshold", BD_LINEAR, BD_OP_binary_conv_threshold, BD_BITS, BD_BITS, THRESHOLD},
    {"BinaryWeightConv2d", BD_CONVOLUTION, BD_OP_binary_weight_conv, BD_F32, BD_F32, AFFINE},
    {"BinaryWeightLinear", BD_LINEAR, BD_OP_binary_weight_conv, BD_F32, BD_F32, AFFINE},
    {"Int8Conv2d", BD_CONVOLUTION, BD_OP_int8_conv, BD_F32, BD_F32, INT8_AFFINE},
    {"Int8Conv2dThreshold", BD_CONVOLUTION, BD_OP_int8_conv_threshold, BD_F32, BD_BITS, INT8_THRESHOLD},
    {"Int8Linear", BD_LINEAR, BD_OP_int8_conv, BD_F32, BD_F32, INT8_AFFINE},
    {"Int8LinearThreshold", BD_LINEAR, BD_OP_int8_conv_threshold, BD_F32, BD_BITS, INT8_THRESHOLD},
    {"SaturatingBinaryConv2d", BD_CONVOLUTION, BD_OP_saturating_conv, BD_BITS, BD_F32, AFFINE},
    {"SaturatingBinaryConv2dThreshold", BD_CONVOLUTION, BD_OP_saturating_conv_threshold, BD_BITS, BD_BITS, THRESHOLD},
    {"SaturatingBinaryLinear", BD_LINEAR, BD_OP_saturating_conv, BD_BITS, BD_F32, AFFINE},
    {"SaturatingBinaryLinearThreshold", BD_LINEAR, BD_OP_saturating_conv_threshold, BD_BITS, BD_BITS, THRESHOLD},
    {"BinaryMaxPool2d", BD_POOL, BD_OP_binary_max_pool, BD_BITS, BD_BITS, .constants = {BD_I8}},
};

enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* What onnxruntime calls with: its own part first, so that one address serves both. */
struct custom_op {
    OrtCustomOp onnx;
    const struct bd_layer_kind *kind;
};

struct kernel {
    const OrtApi *api;
    struct bd_layer *layer;
};

static OrtStatusPtr ORT_API_CALL create_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                               void **kernel) {
    struct kernel *made = calloc(1, sizeof *made);
    struct bd_layer *layer = calloc(1, sizeof *layer);
    if (made == NULL || layer == NULL) {
        free(made);
        free(layer);
        return bd_onnx_fail(api, "bindeploy: no memory");
    }
    layer->kind = ((const struct custom_op *)op)->kind;
    pthread_mutex_init(&layer->lock, NULL);
    OrtStatus *status = bd_onnx_layer(api, info, layer);
    if (status != NULL) {
        bd_layer_close(layer);
        free(made);
        return status;
    }
    *made = (struct kernel){.api = api, .layer = layer};
    *kernel = made;
    return NULL;
}

static void ORT_API_CALL destroy_kernel(void *kernel) {
    bd_layer_close(((struct kernel *)kernel)->layer);
    free(kernel);
}

static OrtStatus *make_output(const OrtApi *api, OrtKernelContext *context, const struct bd_onnx_tensor *y,
                              float **data) {
    OrtValue *output;
    void *written;
    BD_TRY(api->KernelContext_GetOutput(context, 0, y->shape, y->rank, &output));
    BD_TRY(api->GetTensorMutableData(output, &written));
    *data = written;
    return NULL;
}

/* [..., C] -> [..., F] */
static OrtStatus *compute_rows(const struct kernel *kernel, OrtKernelContext *context, const struct bd_onnx_tensor *x,
                               const struct bd_constant *constants) {
    struct bd_layer *layer = kernel->layer;
    struct bd_onnx_tensor y = *x;
    size_t rows = 1;
    float *data = NULL;
    char error[BD_ERROR_BYTES];
    if (x->rank == 0 || x->shape[x->rank - 1] != layer->channels)
        return bd_onnx_fail_at(kernel->api, layer, "x has another number of features than its weights");
    for (size_t axis = 0; axis + 1 < x->rank; axis++)
        rows *= (size_t)x->shape[axis];
    y.shape[y.rank - 1] = layer->filters;
    BD_TRY(make_output(kernel->api, context, &y, &data));
    return bd_layer_run_rows(layer, constants, rows, x->data, data, error) ? bd_onnx_fail(kernel->api, error) : NULL;
}

/* [N, C, H, W] -> [N, F, H', W'] */
static OrtStatus *compute_pictures(const struct kernel *kernel, OrtKernelContext *context,
                                   const struct bd_onnx_tensor *x, const struct bd_constant *constants) {
    struct bd_layer *layer = kernel->layer;
    struct bd_onnx_tensor y = *x;
    uint32_t size[2];
    float *data = NULL;
    char error[BD_ERROR_BYTES];
    if (x->rank != 4 || x->shape[1] != layer->channels)
        return bd_onnx_fail_at(kernel->api, layer, "x is no [N, C, H, W] with as many channels as its weights have");
    y.shape[1] = layer->filters;
    for (int axis = 0; axis < 2; axis++) {
        if (x->shape[2 + axis] > BD_LARGEST_SIZE)
            return bd_onnx_fail_at(kernel->api, layer, "x is too large a picture");
        size[axis] = (uint32_t)x->shape[2 + axis];
        y.shape[2 + axis] = bd_layer_output(layer, axis, size[axis]);
        if (y.shape[2 + axis] == 0)
            return bd_onnx_fail_at(kernel->api, layer, "its window is larger than its padded input");
    }
    BD_TRY(make_output(kernel->api, context, &y, &data));
    size_t count = (size_t)x->shape[0];
    int failed = bd_layer_run_pictures(layer, constants, count, size[0], size[1], x->data, data, error);
    return failed ? bd_onnx_fail(kernel->api, error) : NULL;
}

static OrtStatusPtr ORT_API_CALL compute(void *state, OrtKernelContext *context) {
    const struct kernel *kernel = state;
    const struct bd_layer_kind *kind = kernel->layer->kind;
    const OrtValue *values[1 + BD_CONSTANTS] = {NULL};
    struct bd_constant constants[BD_CONSTANTS];
    struct bd_onnx_tensor x;
    for (size_t i = 0; i <= BD_CONSTANTS && (i == 0 || kind->constants[i - 1] != 0); i++)
        BD_TRY(kernel->api->KernelContext_GetInput(context, i, &values[i]));
    BD_TRY(bd_onnx_tensor(kernel->api, values[0], &x));
    BD_TRY(bd_onnx_constants(kernel->api, kind, values + 1, constants));
    return kind->geometry == BD_LINEAR ? compute_rows(kernel, context, &x, constants)
                                       : compute_pictures(kernel, context, &x, constants);
}

static const char *ORT_API_CALL get_name(const OrtCustomOp *op) {
    return ((const struct custom_op *)op)->kind->name;
}

static const char *ORT_API_CALL get_provider(const OrtCustomOp *op) {
    (void)op;
    return NULL; /* the CPU */
}

static ONNXTensorElementDataType ORT_API_CALL get_input_type(const OrtCustomOp *op, size_t index) {
    static const ONNXTensorElementDataType types[] = {[BD_F32] = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                      [BD_I32] = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
                                                      [BD_U8] = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
                                                      [BD_I8] = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8};
    return types[index == 0 ? BD_F32 : ((const struct custom_op *)op)->kind->constants[index - 1]];
}

static size_t ORT_API_CALL get_input_count(const OrtCustomOp *op) {
    const struct bd_layer_kind *kind = ((const struct custom_op *)op)->kind;
    size_t count = 0;
    while (count < BD_CONSTANTS && kind->constants[count] != 0)
        count++;
    return count + 1;
}

static ONNXTensorElementDataType ORT_API_CALL get_output_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    (void)index;
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

static size_t ORT_API_CALL get_output_count(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static OrtCustomOpInputOutputCharacteristic ORT_API_CALL get_characteristic(const OrtCustomOp *op, size_t index) {
    (void)op;
    (void)index;
    return INPUT_OUTPUT_REQUIRED;
}

static OrtMemType ORT_API_CALL get_memory_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    (void)index;
    return OrtMemTypeDefault;
}

static int ORT_API_CALL get_version(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static struct custom_op ops[KINDS];
static OrtCustomOpDomain *domain;
static OrtStatus *failure;
static const OrtApi *registered_with;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The domain is made once and never released: sessions of the whole process use it. */
static void make_domain(void) {
    failure = registered_with->CreateCustomOpDomain("bindeploy", &domain);
    for (int i = 0; i < KINDS && failure == NULL; i++) {
        ops[i] = (struct custom_op){.onnx = {.version = ORT_API_VERSION,
                                             .GetName = get_name,
                                             .GetExecutionProviderType = get_provider,
                                             .GetInputType = get_input_type,
                                             .GetInputTypeCount = get_input_count,
                                             .GetOutputType = get_output_type,
                                             .GetOutputTypeCount = get_output_count,
                                             .KernelDestroy = destroy_kernel,
                                             .GetInputCharacteristic = get_characteristic,
                                             .GetOutputCharacteristic = get_characteristic,
                                             .GetInputMemoryType = get_memory_type,
                                             .CreateKernelV2 = create_kernel,
                                             .KernelComputeV2 = compute,
                                             .GetStartVersion = get_version,
                                             .GetEndVersion = get_version},
                                    .kind = &kinds[i]};
        failure = registered_with->CustomOpDomain_Add(domain, &ops[i].onnx);
    }
}

/* onnxruntime calls this for `options.register_custom_ops_library(path)`. */
__attribute__((visibility("default"))) OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options,
                                                                                 const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_API_VERSION);
    if (api == NULL)
        return NULL; /* older than these headers: it has said so on its own */
    registered_with = api;
    pthread_once(&once, make_domain);
    return failure != NULL ? bd_onnx_fail(api, api->GetErrorMessage(failure)) : api->AddCustomOpDomain(options, domain);
}
