"""Activations of 8-bit integers: QuantizeLinear and DequantizeLinear, as one op of the plan.

    x -> q = saturate(round(x / scale)) -> q * scale

The plan has no tensor of integers: what stands between the two nodes is already q * scale there.
So QuantizeLinear does all the work, and is taken only where nothing but DequantizeLinear with the
same scale reads it. A layer of 1-bit weights rounds its input itself, and where nothing else reads
those floats there is no op at all; where something does, rounding them again changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bindeploy.emit.plan_builder import Builder, View, name_of, operand, refusal


def quantize_linear(builder: Builder, node: ir.Node) -> View:
    """QuantizeLinear to int8, around 0, with one scale for the whole tensor."""
    scale = _scale(builder, node)
    output = node.outputs[0]
    if output.is_graph_output() or any(not _undoes(*use) for use in output.uses()):
        raise refusal(node, "the runtime runs it where DequantizeLinear alone reads its integers")
    x, name = builder.view(node, 0), name_of(node)
    floats = [use.node.outputs[0] for use in output.uses()]
    if all(_rounded_by_layers(value) for value in floats):
        return builder.alias(node, x, x.layout)
    inputs = (builder.floats(x, name), builder.constant(scale, f"{name}/scale"))
    return builder.result(node, "quantize_int8", inputs, x.activation.shape, x.layout)


def dequantize_linear(builder: Builder, node: ir.Node) -> View:
    """DequantizeLinear of what QuantizeLinear gave, with its scale: nothing is left to do."""
    x = builder.view(node, 0)
    source = node.inputs[0]
    maker = source.producer() if source is not None else None
    if maker is None or (maker.domain, maker.op_type) != ("", "QuantizeLinear"):
        raise refusal(node, "the runtime runs it after QuantizeLinear alone")
    scale, other = _scale(builder, node).item(), _scale(builder, maker).item()
    if scale != other:
        raise refusal(node, f"its scale is {scale}, that of `{name_of(maker)}` {other}; use one")
    return builder.alias(node, x, x.layout)


def input_scale(builder: Builder, node: ir.Node) -> np.ndarray | None:
    """The scale of the integers that a layer's input stands for, float32 [1]; None of floats."""
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    if maker is None or (maker.domain, maker.op_type) != ("", "DequantizeLinear"):
        return None
    return _scale(builder, maker)


def _rounded_by_layers(floats: ir.Value) -> bool:
    layers = [use.node.op_type for use in floats.uses() if use.idx == 0]
    only = not floats.is_graph_output() and len(layers) == len(floats.uses())
    return only and all(name in ("BinaryWeightConv2d", "BinaryWeightLinear") for name in layers)


def _undoes(reader: ir.Node, index: int) -> bool:
    return (reader.domain, reader.op_type, index) == ("", "DequantizeLinear", 0)


def _scale(builder: Builder, node: ir.Node) -> np.ndarray:
    """The scale of a node, float32 [1], where its zero point is an int8 of 0."""
    scale = builder.array(node, 1)
    if scale.size != 1 or scale.dtype != np.float32:
        raise refusal(
            node,
            f"its scale is {scale.dtype.name} {list(scale.shape)}; the runtime has one float32 "
            "for the whole tensor",
        )
    if not 0 < scale.item() < math.inf:
        raise refusal(node, f"its scale is {scale.item()}; it must be finite and above 0")
    # Without a zero point QuantizeLinear gives uint8, and DequantizeLinear takes what it is given.
    default = np.uint8(0) if node.op_type == "QuantizeLinear" else np.int8(0)
    zero = builder.array(node, 2) if operand(node, 2) is not None else np.asarray(default)
    if zero.dtype != np.int8 or zero.any():
        raise refusal(
            node, f"its zero point is {zero.dtype.name} {zero.tolist()}; the runtime has int8 0"
        )
    return scale.reshape(1)
