"""Small valid models of every kind that a conversion meets: what the fuzzers begin with."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WINDOW = dict(strides=[1, 1], pads=[1] * 4, dilations=[1, 1], group=1, pad_value=1.0)
QONNX = "qonnx.custom_op.general"


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def signs(*shape):
    """Weights of +-1/2."""
    return np.where(draw(*shape) >= 0, np.float32(0.5), np.float32(-0.5))


def node(op, inputs, output, domain="", **attributes):
    return helper.make_node(op, inputs.split(), [output], output, domain=domain, **attributes)


def model(nodes, constants, shape=(4, 6, 6), opset=20, functions=()):
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *"ABC"[: len(shape)]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    versions = {"": opset, "bindeploy.latent": 1, QONNX: 1, "mine": 1}
    imports = [helper.make_opsetid(*each) for each in versions.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def normalization(name, channels):
    keys = ("scale", "bias", "mean", "variance")
    return {f"{name}.{key}": np.abs(draw(channels, seed=n)) for n, key in enumerate(keys)}


def latent_network(opset=20):
    constants = {
        "a.weight": draw(6, 4, 3, 3), "a.s": np.abs(draw(6)), "a.b": draw(6),
        "b.weight": draw(5, 54), "b.s": np.abs(draw(5)), "b.b": draw(5),
        **normalization("n", 6), "low": np.float32(-1), "high": np.float32(1),
    }  # fmt: skip
    nodes = [
        node("BinaryConv2d", "x a.weight a.s a.b", "c", "bindeploy.latent", **WINDOW),
        node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("BatchNormalization", "p n.scale n.bias n.mean n.variance", "n"),
        node("Clip", "n low high", "l"),
        node("BinarySign", "l", "s", "bindeploy.latent"),
        node("Flatten", "s", "f"),
        node("BinaryLinear", "f b.weight b.s b.b", "d", "bindeploy.latent"),
        node("Softmax", "d", "y", axis=-1),
    ]
    proto = model(nodes, constants, opset=opset)
    del proto.graph.output[0].type.tensor_type.shape.dim[2:]
    return proto


def saturating_network():
    """The same with sums of 8 bits."""
    proto = latent_network()
    for each in proto.graph.node:
        if each.op_type in ("BinaryConv2d", "BinaryLinear"):
            each.op_type = f"Saturating{each.op_type}"
    return proto


def foreign_network(opset=20):
    constants = {
        "zero": np.float32(0), "one": np.float32(1), "minus": np.float32(-1),
        "w": signs(8, 4, 3, 3), "b": draw(8), "t": signs(8, 2, 2, 2), "m": signs(4, 8),
        "slope": np.abs(draw(8, 1, 1)), **normalization("n", 8), **normalization("o", 2),
    }  # fmt: skip
    nodes = [
        node("GreaterOrEqual", "x zero", "g"),
        node("Where", "g one minus", "s"),
        node("Conv", "s w b", "c", kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", "c n.scale n.bias n.mean n.variance", "n"),
        node("PRelu", "n slope", "p"),
        node("GreaterOrEqual", "p zero", "q"),
        node("Where", "q one minus", "r"),
        node("ConvTranspose", "r t", "u", strides=[2, 2]),
        node("BatchNormalization", "u o.scale o.bias o.mean o.variance", "v"),
        node("Relu", "v", "y"),
    ]
    return model(nodes, constants, opset=opset)


def quantized_network():
    constants = {
        "w": draw(4, 4, 3, 3), "s": np.float32(0.5), "z": np.float32(0), "bits": np.float32(8),
        "step": np.float32(0.1), "point": np.int8(0), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "fill": np.float32(1), "m": draw(8, 8), "i": np.array([0, -1]),
    }  # fmt: skip
    nodes = [
        node("Quant", "x s z bits", "q", QONNX, signed=1, narrow=0, rounding_mode="ROUND"),
        node("BipolarQuant", "q s", "a", QONNX),
        node("BipolarQuant", "w s", "v", QONNX),
        node("Pad", "a pads fill", "p"),
        node("Conv", "p v", "c", kernel_shape=[3, 3]),
        node("QuantizeLinear", "c step point", "t"),
        node("DequantizeLinear", "t step point", "d"),
        node("Relu", "d", "y"),
    ]
    return model(nodes, constants)


def row_network():
    """One-dimensional, with a residual, a matrix product and constants that are computed."""
    constants = {
        "w": draw(4, 4, 3), "zero": np.float32(0), "one": np.float32(1), "minus": np.float32(-1),
        "m": signs(8, 8), "axes": np.array([1, 2]),
    }  # fmt: skip
    nodes = [
        node("GreaterOrEqual", "w zero", "g"),
        node("Where", "g one minus", "v"),
        node("Abs", "w", "a"),
        node("ReduceMean", "a axes", "alpha"),
        node("Mul", "v alpha", "k"),
        node("Sign", "x", "s"),
        node("Conv", "s k", "c", pads=[1, 1]),
        node("Add", "c x", "r"),
        node("MatMul", "r m", "d"),
        node("Transpose", "d", "t", perm=[0, 2, 1]),
        node("Split", "t", "y", num_outputs=1, axis=1),
    ]
    return model(nodes, constants, shape=(4, 8))


def structured_network():
    """A branch, a function that calls another, a domain nobody knows, an optional input."""

    def branch(name, op):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 6, 6])
        return helper.make_graph([node(op, "h", name)], name, [], [value])

    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    inner = helper.make_function("mine", "F", ["a"], ["b"], [node("Elu", "a", "b")], imports)
    outer = helper.make_function(
        "mine", "G", ["a"], ["b"], [node("F", "a", "c", "mine"), node("Neg", "c", "b")], imports
    )
    nodes = [
        node("G", "x", "f", "mine"),
        node("BinaryConv2d", "f w s b", "h", "bindeploy.latent", **WINDOW),
        node("If", "yes", "i", then_branch=branch("p", "Relu"), else_branch=branch("q", "Abs")),
        helper.make_node("Foo", ["i", "", "s"], ["o", ""], "foo", domain="mine", level=[1, 2]),
        helper.make_node("Constant", [], ["k"], "k", value_floats=[1.0] * 6),
        node("Mul", "o k", "y"),
    ]
    constants = {"w": draw(4, 4, 3, 3), "s": np.ones(4, np.float32), "b": draw(4)}
    constants["yes"] = np.array(True)
    return model(nodes, constants, functions=[inner, outer])


MODELS = {
    "latent": latent_network(),
    "latent, opset 15": latent_network(15),
    "saturating": saturating_network(),
    "foreign": foreign_network(),
    "foreign, opset 24": foreign_network(24),
    "quantized": quantized_network(),
    "row": row_network(),
    "structured": structured_network(),
}


def copy(name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(MODELS[name])
    return proto
