"""Element by element: sums of two activations, rectifiers, clamps, signs."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from bindeploy.emit.plan_affine import (
    add_constant,
    as_long,
    constant_index,
    floats,
    is_unclamped,
    maps_twice,
    vector,
)
from bindeploy.emit.plan_builder import (
    CLAMPS,
    RESIDUALS,
    Builder,
    View,
    constant_array,
    name_of,
    operand,
    refusal,
)
from bindeploy.emit.plan_format import Node


def add(builder: Builder, node: ir.Node) -> View:
    """Add of a constant, or of two activations of one shape.

    A convolution that nothing else reads adds the other one itself: (scale * dot + bias) + other is
    rounded as often as by a node of its own.
    """
    if constant_index(node) is not None:
        return add_constant(builder, node)
    views = builder.view(node, 0), builder.view(node, 1)
    if views[0].shape == views[1].shape and views[0].layout is not views[1].layout:
        views = builder.last_as_channels(node, 0), builder.last_as_channels(node, 1)
    shapes = [view.activation.shape for view in views]
    if shapes[0] != shapes[1] or views[0].layout != views[1].layout:
        first, second = (list(view.shape) for view in views)
        raise refusal(node, f"inputs of {first} and {second}; the runtime adds equal shapes")
    name = name_of(node)
    inputs = [builder.floats(view, name) for view in views]
    convolutions = [(builder.maker(view, set(RESIDUALS)), i) for i, view in enumerate(views)]
    able = [
        (maker, i)
        for maker, i in convolutions
        if maker is not None and _adds_nothing(builder, maker)
    ]
    if not able:
        return builder.result(node, "add", tuple(inputs), shapes[0], views[0].layout)
    maker, index = max(able, key=lambda one: builder.nodes.index(one[0]))
    maker.inputs = (*maker.inputs, inputs[1 - index])
    if inputs[1 - index] in {later.output for later in builder.nodes[builder.nodes.index(maker) :]}:
        builder.put_off(maker)
    return builder.held_by(node, maker.output, shapes[0], views[0].layout)


def _adds_nothing(builder: Builder, maker: Node) -> bool:
    """Whether a convolution has room for a residual: it adds none yet, and has no limits after."""
    unlimited = is_unclamped(maker) or maps_twice(builder, maker)
    return len(maker.inputs) == RESIDUALS[maker.op] and unlimited


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
    if maker is None or maps_twice(builder, maker):
        inputs = (builder.floats(x, name_of(node)),)
        limits = {"minimum": lowest, "maximum": highest}
        return builder.result(node, "clip", inputs, x.activation.shape, x.layout, **limits)
    maker.minimum = min(max(maker.minimum, lowest), highest)
    maker.maximum = min(max(maker.maximum, lowest), highest)
    return builder.held_by(node, maker.output, x.activation.shape, x.layout)


def leaky_relu(builder: Builder, node: ir.Node) -> View:
    """x where x >= 0, else alpha * x."""
    return _rectify(builder, node, np.float32(node.attributes.get_float("alpha", 0.01)))


def prelu(builder: Builder, node: ir.Node) -> View:
    """x where x >= 0, else slope * x, the slope being a constant."""
    return _rectify(builder, node, builder.array(node, 1))


def _rectify(builder: Builder, node: ir.Node, slope: ArrayLike) -> View:
    """A prelu; a shift before it that nothing else reads is its own (RPReLU of ReActNet, 2020)."""
    x, name = builder.view(node, 0), name_of(node)
    slopes = vector(node, x, slope)
    shift = builder.maker(x, {"affine"})
    before = _shift(builder, shift) if shift is not None else None
    inputs: tuple[int | None, ...]
    if shift is None or before is None or len(before) < len(slopes):
        inputs = (builder.floats(x, name), builder.constant(slopes, f"{name}/slope"))
    else:
        builder.drop(shift)
        slope_tensor = builder.constant(as_long(slopes, before), f"{name}/slope")
        inputs = (shift.inputs[0], slope_tensor, shift.inputs[2])
    return builder.result(node, "prelu", inputs, x.activation.shape, x.layout)


def _shift(builder: Builder, affine: Node) -> np.ndarray | None:
    """The bias of an affine map that does no more than add it."""
    scale, bias = (floats(builder, index) for index in affine.inputs[1:])
    return bias if (scale == 1).all() and is_unclamped(affine) else None


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
    return _signs(builder, node, builder.picture_of(source, node))


def binary_sign(builder: Builder, node: ir.Node) -> View:
    """BinarySign: +1 where x >= 0, else -1."""
    return _signs(builder, node, builder.view(node, 0))


def _signs(builder: Builder, node: ir.Node, x: View) -> View:
    signs = builder.signs(x, name_of(node))
    return builder.held_by(node, signs, x.activation.shape, x.layout)
