"""What a model costs: multiply-accumulates, parameters and bytes, layer by layer."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants, dialect, lower_weight_only, type_inference
from bindeploy.convert.name_layers import NameLayers

FLOAT_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
PARAMETRIC = FLOAT_LAYERS | {"BatchNormalization", "PRelu", "Add", "Mul", "QuantizeLinear"}
"""The standard operators whose constant floats are parameters."""
FLOAT_BYTES = 4

Row = dict[str, Any]


def inspect(model: ir.Model) -> dict[str, Any]:
    """Costs of one image: `layers`, a row for every node with parameters, and their `total`.

    A row has name, op, input_shape, output_shape (without the batch, None for an unknown
    dimension; [] where the rank is unknown), binary_macs, float_macs, binary_parameters,
    float_parameters and bytes. A multiply-accumulate is binary when both factors are signs; with
    a sign on one side alone, or 8-bit integers, it counts as float. A layer of unknown output size
    counts 0 of them. Every constant that is no binary weight counts as a float parameter,
    thresholds and directions among them. `total` has binary_macs, float_macs, parameters, bytes
    (of all initializers) and float_bytes, what the same parameters take as float32.
    """
    model = model.clone()
    NameLayers()(model)
    for _, op in dialect.layers(model):
        model.opset_imports.setdefault(op.domain, dialect.VERSION)
    type_inference.infer(model)
    rows = [cost(node) for node in model.graph if is_layer(node) or _parameters(node)]
    parameters = sum(row["binary_parameters"] + row["float_parameters"] for row in rows)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    total = {
        "binary_macs": sum(row["binary_macs"] for row in rows),
        "float_macs": sum(row["float_macs"] for row in rows),
        "parameters": parameters,
        "bytes": sum(tensor.nbytes for tensor in tensors if tensor is not None),
        "float_bytes": FLOAT_BYTES * parameters,
    }
    return {"layers": rows, "total": total}


def is_layer(node: ir.Node) -> bool:
    """Whether the node multiplies by weights: a convolution or dense layer of any kind."""
    if node.domain == "":
        return node.op_type in FLOAT_LAYERS
    return is_binary_layer(node) or is_int8_layer(node) or is_weight_only(node)


def is_binary_layer(node: ir.Node) -> bool:
    """Whether the node is a layer of the dialect, latent or packed."""
    op = dialect.op_of(node)
    return op is not None and bool({"bits", "weight"} & set(op.inputs))


def is_int8_layer(node: ir.Node) -> bool:
    """Whether the node is a layer of 8-bit integers."""
    op = dialect.op_of(node)
    return op is not None and "int8_weight" in op.inputs


def is_weight_only(node: ir.Node) -> bool:
    """Whether the node is a dense layer of few-bit weights, onnxruntime's own."""
    return (node.domain, node.op_type) == (lower_weight_only.DOMAIN, lower_weight_only.OP)


def cost(node: ir.Node) -> Row:
    """The row of one node, whose shapes are known as far as they can be."""
    op, parameters = dialect.op_of(node), _parameters(node)
    macs, stored = _macs(node), sum(array.size for array in parameters)
    weights, kept = 0, stored
    if is_binary_layer(node) and constants.read(node.inputs[1]) is not None:
        filters = _shape(node.inputs[1])[0]
        weights, kept = filters * _inputs_of_a_sum(node), stored - parameters[0].size
    elif is_weight_only(node) and len(parameters) > 1:
        filters = node.attributes.get_int("N", 0)
        weights, kept = filters * _inputs_of_a_sum(node), stored - parameters[0].size
    both_are_signs = op is not None and op.binarizes
    return {
        "name": node.name,
        "op": node.op_type,
        "input_shape": _shape(node.inputs[0])[1:],
        "output_shape": _shape(node.outputs[0])[1:],
        "binary_macs": macs if both_are_signs else 0,
        "float_macs": 0 if both_are_signs else macs,
        "binary_parameters": weights,
        "float_parameters": kept,
        "bytes": sum(array.nbytes for array in parameters),
    }


def _parameters(node: ir.Node) -> list[NDArray]:
    """The constant inputs of the node that are learned: all of a packed layer, floats elsewhere."""
    ours = dialect.op_of(node) is not None or is_weight_only(node)
    if not ours and not (node.domain == "" and node.op_type in PARAMETRIC):
        return []
    arrays = [constants.read(value) for value in node.inputs]
    return [array for array in arrays if array is not None and (ours or array.dtype.kind == "f")]


def _shape(value: ir.Value | None) -> list[Any]:
    """Dimensions, None for an unknown or symbolic one; [] for an unknown rank."""
    if value is None or value.shape is None:
        return []
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def _macs(node: ir.Node) -> int:
    """Multiply-accumulates for one image: outputs times the length of each one's sum.

    Of a transposed convolution: inputs times the outputs that each one adds to.
    """
    transposed = node.op_type == "ConvTranspose"
    output = _shape(node.inputs[0] if transposed else node.outputs[0])[1:]
    if not is_layer(node) or not output or None in output:
        return 0
    return math.prod(output) * _inputs_of_a_sum(node)


def _inputs_of_a_sum(node: ir.Node) -> int:
    """How many products make one output value; 0 where the shapes do not tell."""
    if is_weight_only(node):
        return node.attributes.get_int("K", 0) or 0
    weight = _shape(node.inputs[1])
    if "channels" in node.attributes:
        return node.attributes["channels"].as_int() * math.prod(weight[1:-1])
    if dialect.op_of(node) is not None or node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(weight[1:]) if weight and None not in weight else 0
    x = _shape(node.inputs[0])
    axis = 0 if node.attributes.get_int("transA", 0) else -1
    return (x[axis] or 0) if x else 0
