"""Arithmetic element by element: affine maps by channel, sums, clamps, signs."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from bindeploy.emit.plan_builder import (
    CLAMPS,
    Builder,
    View,
    constant_array,
    name_of,
    operand,
    refusal,
)


def batch_normalization(builder: Builder, node: ir.Node) -> View:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, as one affine map."""
    if node.attributes.get_int("training_mode", 0):
        raise refusal(node, "training_mode is 1; export the model for inference")
    gamma, beta, mean, variance = (
        builder.array(node, index).astype(np.float64) for index in (1, 2, 3, 4)
    )
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    x = builder.view(node, 0)
    if not x.flat:
        scale, beta, mean = (vector.reshape(1, -1, 1, 1) for vector in (scale, beta, mean))
    return _affine(builder, node, x, scale, beta - mean * scale)


def add(builder: Builder, node: ir.Node) -> View:
    """Add of a constant, or of two activations of one shape."""
    if _constant_index(node) is not None:
        x, constant = _split(builder, node)
        return _affine(builder, node, x, 1, constant)
    views = builder.view(node, 0), builder.view(node, 1)
    shapes = [view.activation.shape for view in views]
    if shapes[0] != shapes[1] or views[0].flat != views[1].flat:
        raise refusal(node, f"inputs of {shapes[0]} and {shapes[1]}; the runtime adds equal shapes")
    name = name_of(node)
    inputs = tuple(builder.floats(view, name) for view in views)
    return builder.result(node, "add", inputs, shapes[0], views[0].flat)


def subtract(builder: Builder, node: ir.Node) -> View:
    """x - constant, or constant - x."""
    x, constant = _split(builder, node)
    if _constant_index(node) == 0:
        return _affine(builder, node, x, -1, constant)
    return _affine(builder, node, x, 1, -constant)


def multiply(builder: Builder, node: ir.Node) -> View:
    """x * constant."""
    x, constant = _split(builder, node)
    return _affine(builder, node, x, constant, 0)


def divide(builder: Builder, node: ir.Node) -> View:
    """x / constant."""
    x, constant = _split(builder, node)
    if _constant_index(node) == 0 or not constant.all():
        raise refusal(node, "the runtime divides an activation by a constant other than 0")
    return _affine(builder, node, x, 1 / constant, 0)


def _constant_index(node: ir.Node) -> int | None:
    """Which of a node's two inputs is a constant."""
    constant = [index for index in (0, 1) if constant_array(operand(node, index)) is not None]
    return constant[0] if constant else None


def _split(builder: Builder, node: ir.Node) -> tuple[View, NDArray[np.float64]]:
    """The activation and the constant of a node with two inputs."""
    index = _constant_index(node)
    if index is None:
        raise refusal(node, "one input must be a constant")
    return builder.view(node, 1 - index), builder.array(node, index).astype(np.float64)


def _affine(builder: Builder, node: ir.Node, x: View, scale: ArrayLike, bias: ArrayLike) -> View:
    """scale * x + bias; both broadcast against x as ONNX does, constant within a channel."""
    name = name_of(node)
    vectors = (
        builder.constant(_by_channel(node, x, values), f"{name}/{label}")
        for values, label in ((scale, "scale"), (bias, "bias"))
    )
    inputs = (builder.floats(x, name), *vectors)
    return builder.result(node, "affine", inputs, x.activation.shape, x.flat)


def _by_channel(node: ir.Node, x: View, values: ArrayLike) -> NDArray[np.float32]:
    """Vector [C] of a constant that ONNX broadcasts against x, the channel axis being axis 1."""
    array = np.asarray(values, np.float64)
    channels = x.activation.shape[0]
    rank = 2 if x.flat else 4
    spread = x.flat and x.activation.features != channels
    shape = (1,) * (rank - array.ndim) + array.shape
    one_a_channel = shape == (1, channels, 1, 1)[:rank] and not spread
    if array.ndim > rank or not (array.size == 1 or one_a_channel):
        raise refusal(
            node, f"constant {list(array.shape)}: the runtime takes one value, or one a channel"
        )
    return np.broadcast_to(array.reshape(-1), channels).astype(np.float32)


def relu(builder: Builder, node: ir.Node) -> View:
    """max(x, 0)."""
    return _clamp(builder, node, 0.0, math.inf)


def clip(builder: Builder, node: ir.Node) -> View:
    """min(max(x, lowest), highest), the limits being constants or absent."""
    lowest, highest = (
        float(builder.array(node, index).item()) if operand(node, index) is not None else limit
        for index, limit in ((1, -math.inf), (2, math.inf))
    )
    if not lowest <= highest:
        raise refusal(node, f"its limits {lowest} and {highest} are not in order")
    return _clamp(builder, node, lowest, highest)


def _clamp(builder: Builder, node: ir.Node, lowest: float, highest: float) -> View:
    """Clamp in the node that made x where nothing else reads x, else in a clip of its own.

    A clamp after a clamp to [a, b] is a clamp to [a, b] clamped.
    """
    x = builder.view(node, 0)
    maker = builder.maker(x, CLAMPS)
    if maker is None:
        inputs = (builder.floats(x, name_of(node)),)
        limits = {"minimum": lowest, "maximum": highest}
        return builder.result(node, "clip", inputs, x.activation.shape, x.flat, **limits)
    maker.minimum = min(max(maker.minimum, lowest), highest)
    maker.maximum = min(max(maker.maximum, lowest), highest)
    return builder.held_by(node, maker.output, x.activation.shape, x.flat)


def sign_source(node: ir.Node) -> ir.Value | None:
    """x where a node is Where(x >= 0, 1, -1), else None."""
    test = node.inputs[0].producer() if node.inputs[0] is not None else None
    if test is None or test.op_type != "GreaterOrEqual":
        return None
    values = (test.inputs[1], node.inputs[1], node.inputs[2])
    expected = all(
        (array := constant_array(value)) is not None and array.size == 1 and array.item() == number
        for value, number in zip(values, (0, 1, -1), strict=True)
    )
    return test.inputs[0] if expected else None


def where(builder: Builder, node: ir.Node) -> View:
    """Where(x >= 0, 1, -1): the signs of x."""
    source = sign_source(node)
    if source is None or source not in builder.views:
        raise refusal(node, "the runtime takes Where(x >= 0, 1, -1) alone")
    return _signs(builder, node, builder.views[source])


def binary_sign(builder: Builder, node: ir.Node) -> View:
    """BinarySign: +1 where x >= 0, else -1."""
    return _signs(builder, node, builder.view(node, 0))


def _signs(builder: Builder, node: ir.Node, x: View) -> View:
    signs = builder.signs(x, name_of(node))
    return builder.held_by(node, signs, x.activation.shape, x.flat)
