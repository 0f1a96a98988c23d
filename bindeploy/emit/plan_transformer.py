"""What transformers add to convolutional networks: attention, LayerNorm, softmax, a class token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_affine import constant_index, multiply
from bindeploy.emit.plan_blocks import concat as concat_channels
from bindeploy.emit.plan_builder import (
    Builder,
    View,
    constant_array,
    name_of,
    nhwc,
    operand,
    readers,
    refusal,
)
from bindeploy.emit.plan_convolutions import linear
from bindeploy.emit.plan_format import Node, Tensor, Type
from bindeploy.emit.plan_strided import BATCH, Axis, Run, Strided, joined, of_view
from bindeploy.emit.plan_views import Activation

Seen = View | Strided
LOGARITHM = 1
"""Flag of softmax: the logarithm of it."""


def matmul(builder: Builder, node: ir.Node) -> Seen:
    """MatMul: with constant weights a dense layer of every row, else a product of activations."""
    if constant_array(operand(node, 1)) is not None:
        return linear(builder, node, builder.array(node, 1).T, np.zeros(1))
    return _product(builder, node)


def scaled(builder: Builder, node: ir.Node, by: Callable[[Builder, ir.Node], View]) -> Seen:
    """Mul or Div by a constant; a number is kept for the matmul that reads a value in steps."""
    index = constant_index(node)
    seen = builder.seen(node, 1 - index) if index is not None else None
    if index is None or not isinstance(seen, Strided):
        return by(builder, node)
    constant = builder.array(node, index).astype(np.float64)
    if constant.size != 1 or (by is not multiply and index == 0):
        return by(builder, node)
    factor = constant.item() if by is multiply else 1 / constant.item()
    return builder.moved(node, replace(seen, factor=seen.factor * factor))[0]


def _product(builder: Builder, node: ir.Node) -> Seen:
    """a [..., M, K] by b [..., K, N]: both are read where they stand."""
    name = name_of(node)
    a, b = builder.strided(node, 0), builder.strided(node, 1)
    if len(a.axes) < 3 or len(a.axes) != len(b.axes) or not _same_images(a, b):
        raise refusal(node, f"products of {list(a.shape)} by {list(b.shape)} are not supported")
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise refusal(node, f"{list(a.shape)} and {list(b.shape)} do not fit")
    a = a if _is_read_in_steps(a) and _along(a.axes[-1]).step <= 1 else _copy(builder, a, name)
    b = b if _is_read_in_steps(b) else _copy(builder, b, name)
    heads, rows, depth, columns = _heads(a), a.shape[-2], a.shape[-1], b.shape[-1]
    picture = (heads.size * columns, 1, rows)
    y_head, y_row = columns, heads.size * columns
    axes = (*_stepped(a.axes[:-2], y_head), (Run(rows, y_row),), (Run(columns, 1),))
    if not _is_turned(node, axes):
        picture = (columns, heads.size, rows)
        y_head, y_row = rows * columns, columns
        axes = (*_stepped(a.axes[:-2], y_head), (Run(rows, y_row),), (Run(columns, 1),))
    shape = [heads.size, rows, depth, columns]
    shape += [a.first, heads.step, _along(a.axes[-2]).step]
    shape += [b.first, _heads(b).step, _along(b.axes[-2]).step, _along(b.axes[-1]).step]
    shape += [y_head, y_row]
    output = builder.tensor(Tensor(node.outputs[0].name or name, Type.F32, nhwc(picture)))
    inputs = (
        builder.floats(View(a.activation), name),
        builder.floats(View(b.activation), name),
        builder.constant(np.array(shape, np.int32), f"{name}/steps"),
        builder.constant(np.array([a.factor * b.factor], np.float32), f"{name}/factor"),
    )
    builder.add(Node("matmul", name, inputs, output))
    activation = Activation(name, picture, readers(node.outputs[0]), floats=output)
    y = Strided(activation, axes)
    return y.view() or y


def _same_images(a: Strided, b: Strided) -> bool:
    """Whether N stands at the same place before the last two axes of both."""
    places = [[i for i, axis in enumerate(x.axes) if BATCH in axis] for x in (a, b)]
    return places[0] == places[1] and places[0][0] < len(a.axes) - 2


def _along(axis: Axis) -> Run:
    """An axis of at most one run."""
    (run,) = joined(axis) or (Run(1, 0),)
    return run


def _heads(x: Strided) -> Run:
    """All axes before the last two as one run, N left out."""
    return _along(tuple(run for axis in x.axes[:-2] for run in axis if run != BATCH))


def _is_read_in_steps(x: Strided) -> bool:
    lead = tuple(run for axis in x.axes[:-2] for run in axis if run != BATCH)
    return all(len(joined(axis)) <= 1 for axis in (lead, *x.axes[-2:]))


def _stepped(axes: tuple[Axis, ...], step: int) -> tuple[Axis, ...]:
    """The same axes, of which the last run moves by `step` and each other one past those after."""
    stepped: list[Axis] = []
    for axis in reversed(axes):
        runs: list[Run] = []
        for run in reversed(axis):
            runs.insert(0, run if run == BATCH else Run(run.size, step))
            step *= run.size
        stepped.insert(0, tuple(runs))
    return tuple(stepped)


def _is_turned(node: ir.Node, axes: tuple[Axis, ...]) -> bool:
    """Whether all that reads a product is a Transpose that puts its axes in order."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Transpose":
        return False
    order = uses[0].node.attributes.get_ints("perm", ())
    if sorted(order) != [*range(len(axes))]:
        return False
    runs = (run for index in order for run in axes[index] if run != BATCH)
    return len(joined(tuple(runs))) == 1


def _copy(builder: Builder, x: Strided, name: str) -> Strided:
    return builder.in_order(x, name, 1)


def by_rows(row: Callable[[Builder, ir.Node], Seen]) -> Callable[[Builder, ir.Node], Seen]:
    """A lowering that treats every row alike, for values too whose first axis is not N.

    N goes to the front and all other axes become one, which changes no row.
    """

    def lowering(builder: Builder, node: ir.Node) -> Seen:
        constant = constant_index(node)
        value = operand(node, 1 if constant == 0 else 0)
        seen = builder.views.get(value) if value is not None else None
        alone = len(node.inputs) == 1 or constant is not None
        if not isinstance(seen, Strided) or seen.axes[0] == (BATCH,) or not alone:
            return row(builder, node)
        assert value is not None
        rows = tuple(run for axis in seen.axes[:-1] for run in axis if run != BATCH)
        lines = replace(seen, axes=((BATCH,), rows, seen.axes[-1]))
        builder.views[value] = lines
        result = row(builder, node)
        builder.views[value] = seen
        made = of_view(result) if isinstance(result, View) else result
        whole = Strided(made.activation, (*seen.axes[:-1], (Run(made.shape[-1], 1),)))
        return whole.in_order(made.activation)

    return lowering


def layer_normalization(builder: Builder, node: ir.Node) -> View:
    """LayerNormalization over the last axis."""
    x = builder.last_as_channels(node)
    axis = node.attributes.get_int("axis", -1)
    if axis not in (-1, len(x.shape)):
        raise refusal(node, f"axis {axis}; the runtime normalizes over the last one")
    scale = builder.array(node, 1).reshape(-1)
    given = operand(node, 2) is not None
    bias = builder.array(node, 2).reshape(-1) if given else np.zeros(1)
    return _layer_norm(builder, node, x, scale, bias, node.attributes.get_float("epsilon", 1e-5))


def _layer_norm(
    builder: Builder, node: ir.Node, x: View, scale: NDArray, bias: NDArray, epsilon: float
) -> View:
    name, channels = name_of(node), x.activation.shape[0]
    if scale.size not in (1, channels) or bias.size not in (1, channels):
        raise refusal(node, f"{scale.size} and {bias.size} parameters for {channels} channels")
    inputs = (
        builder.floats(x, name),
        builder.constant(np.broadcast_to(scale, channels).astype(np.float32), f"{name}/scale"),
        builder.constant(np.broadcast_to(bias, channels).astype(np.float32), f"{name}/bias"),
        builder.constant(np.array([epsilon], np.float32), f"{name}/epsilon"),
    )
    return builder.result(node, "layer_norm", inputs, x.activation.shape, x.layout)


def spelled_layer_norm(node: ir.Node) -> tuple[ir.Value, float] | None:
    """x and epsilon where a node is (x - mean) / sqrt(mean of (x - mean)^2 + epsilon)."""
    difference = _maker(node, 0, "Sub") if node.op_type == "Div" else None
    total = _maker(_maker(node, 1, "Sqrt"), 0, "Add")
    if difference is None or total is None:
        return None
    epsilon = constant_array(operand(total, 1))
    mean, variance = _maker(difference, 1, "ReduceMean"), _maker(total, 0, "ReduceMean")
    if mean is None or variance is None or epsilon is None or epsilon.size != 1:
        return None
    square = _maker(variance, 0, "Pow") or _maker(variance, 0, "Mul")
    if square is None or not _over_last(mean) or not _over_last(variance):
        return None
    power = constant_array(operand(square, 1))
    twice = operand(square, 1) is difference.outputs[0] or (power is not None and power == 2)
    source = operand(difference, 0)
    if operand(square, 0) is not difference.outputs[0] or not twice or source is None:
        return None
    return (source, epsilon.item()) if operand(mean, 0) is source else None


def layer_norm_of(builder: Builder, node: ir.Node, found: tuple[ir.Value, float]) -> View:
    """The LayerNorm that `spelled_layer_norm` found; what it is scaled by may follow."""
    x = builder.turned(builder.picture_of(found[0], node), node)
    return _layer_norm(builder, node, x, np.ones(1), np.zeros(1), found[1])


def _maker(node: ir.Node | None, index: int, op: str) -> ir.Node | None:
    """What makes input `index` of a node, if that is an `op`."""
    value = operand(node, index) if node is not None else None
    maker = value.producer() if value is not None else None
    return maker if maker is not None and (maker.domain, maker.op_type) == ("", op) else None


def _over_last(node: ir.Node) -> bool:
    listed = constant_array(operand(node, 1))
    axes = listed.tolist() if listed is not None else [*node.attributes.get_ints("axes", ())]
    value = operand(node, 0)
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    return axes in ([-1], [rank - 1]) and node.attributes.get_int("keepdims", 1) == 1


def softmax(builder: Builder, node: ir.Node, flags: int = 0) -> View:
    """Softmax or LogSoftmax along the channels or the last axis; a factor before it is its own."""
    x, name = builder.view(node, 0), name_of(node)
    axis = node.attributes.get_int("axis", -1) % (1 + len(x.shape))
    if x.flat or x.layout.axes[axis - 1] != "C":
        if axis != len(x.shape):
            raise refusal(node, f"axis {axis}; the runtime takes the channels or the last axis")
        x = builder.last_as_channels(node)
    factor, source = 1.0, builder.maker(x, {"affine"})
    if source is not None and (found := _factor(builder, source)) is not None:
        factor = found
        builder.drop(source)
    floats = source.inputs[0] if source is not None and factor != 1 else builder.floats(x, name)
    inputs = (floats, builder.constant(np.array([factor], np.float32), f"{name}/factor"))
    return builder.result(node, "softmax", inputs, x.activation.shape, x.layout, flags=flags)


def _factor(builder: Builder, affine: Node) -> float | None:
    """What an affine map multiplies by, if it does no more and that is one number above 0."""
    scale, bias = (
        np.frombuffer(builder.tensors[index].constant or b"", np.float32)
        for index in affine.inputs[1:]
        if index is not None
    )
    limits = (affine.minimum, affine.maximum)
    plain = limits == (-math.inf, math.inf) and not bias.any() and (scale == scale[0]).all()
    return float(scale[0]) if plain and scale[0] > 0 and scale[0] != 1 else None


def fixed(value: ir.Value | None) -> NDArray | None:
    """What a constant holds; also one that Expand repeats for every image."""
    if (array := constant_array(value)) is not None or value is None:
        return array
    maker = value.producer()
    if maker is None or (maker.domain, maker.op_type) != ("", "Expand"):
        return None
    array = constant_array(operand(maker, 0))
    alike = array is not None and value.shape is not None and len(value.shape) == array.ndim
    known = alike and all(
        not isinstance(size, int) or size == own
        for size, own in zip(value.shape[1:], array.shape[1:], strict=True)  # type: ignore[index,union-attr]
    )
    return array if known and array is not None and array.shape[0] == 1 else None


def concat(builder: Builder, node: ir.Node) -> View:
    """Concat of one activation and constants, as a class token is put first: the constants are
    added where zeros have made room for them. Of activations, along their channels."""
    arrays = [fixed(value) for value in node.inputs]
    moving = [index for index, array in enumerate(arrays) if array is None]
    if len(moving) != 1 or len(arrays) < 2:
        return concat_channels(builder, node)
    x, name = builder.view(node, moving[0]), name_of(node)
    axis = node.attributes.get_int("axis", 0) % (1 + len(x.shape))
    along = "" if x.flat or axis == 0 else x.layout.axes[axis - 1]
    if along not in ("W", "H", "C") or not along:
        raise refusal(node, f"axis {axis} of an activation beside constants is not supported")
    parts = [np.zeros((1, *x.shape)) if array is None else array for array in arrays]
    whole = np.concatenate([part[:1] for part in parts], axis)[0]
    before = sum(part.shape[axis] for part in parts[: moving[0]])
    sizes = dict(zip("CHW", x.activation.shape, strict=True)) | {along: whole.shape[axis - 1]}
    picture = (sizes["C"], sizes["H"], sizes["W"])
    pads = (before if along == "H" else 0, before if along == "W" else 0, 0, 0)
    room = builder.tensor(Tensor(f"{name}/room", Type.F32, nhwc(picture)))
    source, channels = builder.floats(x, name), before if along == "C" else 0
    node_of_room = Node("crop_pad", f"{name}/room", (source,), room, (0, 0), (1, 1), pads)
    node_of_room.channel_offset = channels
    builder.add(node_of_room)
    terms = x.layout.channels_last(whole, picture).reshape(-1).astype(np.float32)
    inputs = (
        room,
        builder.constant(np.ones_like(terms), f"{name}/ones"),
        builder.constant(terms, f"{name}/constants"),
    )
    return builder.result(node, "affine", inputs, picture, x.layout)
