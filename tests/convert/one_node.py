"""Models of one dialect node, and what two engines make of them."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect

FILTERS = 6


def one_node(key, x, constants, attributes, name="layer"):
    """A model of one dialect node reading x and the constants."""
    op = dialect.OPS[key]
    source = ir.Value(
        name="x",
        type=ir.TensorType(ir.DataType.from_numpy(x.dtype)),
        shape=ir.Shape(["N", *x.shape[1:]]),
    )
    values = [
        ir.Value(
            name=given,
            const_value=ir.tensor(array, name=given),
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        for given, array in zip(op.inputs[1:], constants, strict=True)
    ]
    node = ir.node(op.name, [source, *values], attributes=attributes, domain=op.domain, name=name)
    (y,) = node.outputs
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * x.ndim)
    graph = ir.Graph(
        [source],
        [y],
        nodes=[node],
        initializers=values,
        opset_imports={"": dialect.OPSET, op.domain: 1},
        name="one",
    )
    model = ir.Model(graph, ir_version=dialect.IR_VERSION)
    dialect.attach_functions(model)
    return model


def both(key, x, constants, attributes):
    """The output of onnxruntime and of numpy; the checker and shape inference agree on the way."""
    model = one_node(key, x, constants, attributes)
    dialect.verify(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (ours,) = ReferenceEvaluator(proto, new_ops=dialect.REFERENCE_OPS).run(None, {"x": x})
    (theirs,) = session.run(None, {"x": x})
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph.output[0]
    dimensions = inferred.type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "N"
    assert [dim.dim_value for dim in dimensions][1:] == list(theirs.shape[1:])
    assert ours.dtype == theirs.dtype == np.float32
    return theirs, ours


def draw(channels, filters=FILTERS, kernel=(3, 2), seed=0):
    random = np.random.default_rng(seed)
    weight = random.normal(size=(filters, channels, *kernel)).astype(np.float32)
    scale = random.uniform(-0.2, 0.2, filters).astype(np.float32)
    bias = random.normal(size=filters).astype(np.float32)
    threshold = random.integers(-9, 9, filters).astype(np.int32)
    direction = random.choice([-1, 1], filters).astype(np.int8)
    return weight, (scale, bias), (threshold, direction)


def signed_zeros(x):
    """Zeros of both signs among the values, whose sign is +1."""
    x.reshape(-1)[::7] = 0.0
    x.reshape(-1)[::11] = -0.0
    return x


WINDOWS = {
    "plain": {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]},
    "padded": {"group": 1, "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]},
    "ragged": {"group": 2, "strides": [2, 1], "pads": [0, 2, 1, 1], "dilations": [1, 3]},
}
