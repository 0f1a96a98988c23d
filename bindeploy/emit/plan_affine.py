"""Arithmetic with constants: scale * x + bias, by channel or by element of a picture."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from bindeploy.emit.plan_builder import (
    RESIDUALS,
    UNCLAMPED,
    Builder,
    View,
    constant_array,
    name_of,
    operand,
    refusal,
)
from bindeploy.emit.plan_format import Node
from bindeploy.emit.plan_views import written

MAPS = {"binary_conv", "saturating_conv"}
"""Ops that may map their integers twice."""

BIAS = {"conv": 2, "binary_weight_conv": 3, "layer_norm": 2}
"""Ops that add a constant to every channel, and the input that is it."""

Vector = NDArray[np.float32]
"""Length C: one value a channel. Length H * W * C: one an element, in that order."""


def batch_normalization(builder: Builder, node: ir.Node) -> View:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, as one affine map."""
    if node.attributes.get_int("training_mode", 0):
        raise refusal(node, "training_mode is 1; export the model for inference")
    gamma, beta, mean, variance = (
        builder.array(node, index).astype(np.float64) for index in (1, 2, 3, 4)
    )
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    x = builder.view(node, 0)
    along = (-1, *[1] * (len(x.shape) - 1))
    return affine(builder, node, x, scale.reshape(along), (beta - mean * scale).reshape(along))


def add_constant(builder: Builder, node: ir.Node) -> View:
    """x + constant."""
    x, constant = _split(builder, node)
    return affine(builder, node, x, 1, constant)


def subtract(builder: Builder, node: ir.Node) -> View:
    """x - constant, or constant - x."""
    x, constant = _split(builder, node)
    if constant_index(node) == 0:
        return affine(builder, node, x, -1, constant)
    return affine(builder, node, x, 1, -constant)


def multiply(builder: Builder, node: ir.Node) -> View:
    """x * constant."""
    x, constant = _split(builder, node)
    return affine(builder, node, x, constant, 0)


def divide(builder: Builder, node: ir.Node) -> View:
    """x / constant."""
    x, constant = _split(builder, node)
    if constant_index(node) == 0 or not constant.all():
        raise refusal(node, "the runtime divides an activation by a constant other than 0")
    return affine(builder, node, x, 1 / constant, 0)


def negate(builder: Builder, node: ir.Node) -> View:
    """-x."""
    return affine(builder, node, builder.view(node, 0), -1, 0)


def hard_sigmoid(builder: Builder, node: ir.Node) -> View:
    """min(max(alpha * x + beta, 0), 1)."""
    attributes = node.attributes
    alpha, beta = attributes.get_float("alpha", 0.2), attributes.get_float("beta", 0.5)
    return affine(builder, node, builder.view(node, 0), alpha, beta, minimum=0.0, maximum=1.0)


def constant_index(node: ir.Node) -> int | None:
    """Which of a node's two inputs is a constant."""
    constant = [index for index in (0, 1) if constant_array(operand(node, index)) is not None]
    return constant[0] if constant else None


def _split(builder: Builder, node: ir.Node) -> tuple[View, NDArray[np.float64]]:
    """The activation and the constant of a node with two inputs."""
    index = constant_index(node)
    if index is None:
        raise refusal(node, "one input must be a constant")
    return builder.view(node, 1 - index), builder.array(node, index).astype(np.float64)


def affine(
    builder: Builder, node: ir.Node, x: View, scale: ArrayLike, bias: ArrayLike, **clamp: float
) -> View:
    """scale * x + bias; both broadcast against x as ONNX does.

    Where nothing else reads x, a bias alone joins the prelu that made x, and a map by channel the
    binary convolution that did: it maps twice then, with its limits in between.
    """
    name = name_of(node)
    factors, terms = (vector(node, x, values) for values in (scale, bias))
    layer = builder.maker(x, MAPS)
    if layer is not None and not clamp and _maps_once(builder, layer, factors, terms):
        _map_again(builder, layer, name, factors, terms)
        return builder.held_by(node, layer.output, x.activation.shape, x.layout)
    maker = builder.maker(x, {"prelu"})
    if maker is not None and not clamp and (factors == 1).all():
        after = builder.constant(terms, f"{name}/bias")
        if _takes(builder, maker, after):
            maker.inputs = (*maker.inputs, *[None] * (3 - len(maker.inputs)), after)
            return builder.held_by(node, maker.output, x.activation.shape, x.layout)
    if not clamp and (joined := _into_maker(builder, node, x, factors, terms)) is not None:
        return joined
    factors, terms = as_long(factors, terms), as_long(terms, factors)
    inputs = (
        builder.floats(x, name),
        builder.constant(factors, f"{name}/scale"),
        builder.constant(terms, f"{name}/bias"),
    )
    return builder.result(node, "affine", inputs, x.activation.shape, x.layout, **clamp)


def _maps_once(builder: Builder, layer: Node, factors: Vector, terms: Vector) -> bool:
    """Whether a layer can map by channel what it gives: it maps once yet and adds nothing after."""
    channels = builder.tensors[layer.output].shape[3]
    by_channel = len(factors) == len(terms) == channels
    return (
        by_channel and len(layer.inputs) == RESIDUALS[layer.op] and not maps_twice(builder, layer)
    )


def maps_twice(builder: Builder, node: Node) -> bool:
    """Whether a node is a layer with a second map, which no clamp may follow."""
    if node.op not in MAPS:
        return False
    scale = node.inputs[2]
    assert scale is not None
    return builder.tensors[scale].shape[0] == 2 * builder.tensors[node.output].shape[3]


def _map_again(builder: Builder, layer: Node, name: str, factors: Vector, terms: Vector) -> None:
    """Append the second map to the scale and the bias of a layer."""
    x, packed, *first = layer.inputs
    both = (
        builder.constant(np.concatenate([floats(builder, index), values]), f"{name}/{label}")
        for index, values, label in zip(first, (factors, terms), ("scales", "biases"), strict=True)
    )
    layer.inputs = (x, packed, *both)


def floats(builder: Builder, index: int | None) -> Vector:
    """What a constant of the plan holds."""
    assert index is not None
    return np.frombuffer(builder.tensors[index].constant or b"", "<f4")


def _into_maker(
    builder: Builder, node: ir.Node, x: View, factors: Vector, terms: Vector
) -> View | None:
    """x from a layer that takes the map in: a bias that was 0, or a LayerNorm that was plain."""
    maker = builder.maker(x, set(BIAS))
    if maker is None or len(maker.inputs) > BIAS[maker.op] + 1 + (maker.op == "layer_norm"):
        return None
    scale, bias = (floats(builder, maker.inputs[BIAS[maker.op] + i]) for i in (-1, 0))
    normalizes = maker.op == "layer_norm"
    may_scale = normalizes and (scale == 1).all()
    fits = len(factors) == len(terms) == len(bias) and (normalizes or is_unclamped(maker))
    if bias.any() or not fits or not (may_scale or (factors == 1).all()):
        return None
    inputs = [*maker.inputs]
    inputs[BIAS[maker.op]] = builder.constant(terms, f"{name_of(node)}/bias")
    if may_scale:
        inputs[BIAS[maker.op] - 1] = builder.constant(factors, f"{name_of(node)}/scale")
    maker.inputs = tuple(inputs)
    return builder.held_by(node, maker.output, x.activation.shape, x.layout)


def _takes(builder: Builder, prelu: Node, after: int) -> bool:
    """Whether a prelu of this plan can add `after`: it adds nothing yet and has no limits."""
    slope = prelu.inputs[1]
    assert slope is not None
    same_length = builder.tensors[slope].shape == builder.tensors[after].shape
    return len(prelu.inputs) < 4 and is_unclamped(prelu) and same_length


def is_unclamped(node: Node) -> bool:
    return (node.minimum, node.maximum) == tuple(UNCLAMPED.values())


def as_long(values: Vector, other: Vector) -> Vector:
    """One value a channel for each element, where `other` has one an element."""
    return np.tile(values, max(1, len(other) // len(values)))


def vector(node: ir.Node, x: View, values: ArrayLike) -> Vector:
    """What ONNX broadcasts against x, as the runtime reads it: one value a channel if it can be."""
    array = np.asarray(values, np.float64)
    try:
        whole = np.broadcast_to(array, (1, *x.shape))[0]
    except ValueError:
        shape = list(array.shape)
        raise refusal(node, f"constant {shape} does not fit its input {written(x)}") from None
    by_pixel = x.layout.channels_last(whole, x.activation.shape)
    first = by_pixel[0, 0]
    same = array.size == 1 or (by_pixel == first).all()
    return (first if same else by_pixel).reshape(-1).astype(np.float32)
