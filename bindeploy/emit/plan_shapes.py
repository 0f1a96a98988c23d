"""Changes of shape that move no data: the same elements, written with other axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bindeploy.emit.plan_blocks import unweave, woven
from bindeploy.emit.plan_builder import Builder, View, constant_array, name_of, operand, refusal
from bindeploy.emit.plan_layout import Layout
from bindeploy.emit.plan_strided import BATCH, Strided, of_view
from bindeploy.emit.plan_views import written

Seen = View | Strided


def identity(builder: Builder, node: ir.Node) -> Seen:
    """Identity, and Dropout in inference."""
    x = builder.seen(node, 0)
    return builder.alias(node, x, x.layout) if isinstance(x, View) else _moved(builder, node, x)


def flatten(builder: Builder, node: ir.Node) -> Seen:
    """Flatten to [N, features]."""
    x = builder.view(node, 0)
    rank = 1 + len(x.shape)
    if node.attributes.get_int("axis", 1) % rank != 1:
        raise refusal(node, "the runtime flattens from axis 1")
    return _seen_as(builder, node, x, (x.activation.features,))


def reshape(builder: Builder, node: ir.Node) -> Seen:
    """Reshape; after a Transpose, of blocks to pixels."""
    weave = woven(node)
    source = builder.views.get(weave.source) if weave is not None else None
    if weave is not None and isinstance(source, View) and source.layout.axes.startswith("C"):
        return _checked(node, unweave(builder, node, weave))
    x = builder.seen(node, 0)
    sizes, unnamed = _target(node, of_view(x) if isinstance(x, View) else x)
    if isinstance(x, View) and unnamed[0]:
        return _seen_as(builder, node, x, tuple(sizes[1:]))
    return _reshaped(builder, node, builder.strided(node, 0), sizes, unnamed)


def _checked(node: ir.Node, x: View) -> View:
    """x, which must have the shape that the Reshape asks for."""
    listed = constant_array(operand(node, 1))
    if listed is not None and min(listed[1:]) > 0 and tuple(map(int, listed[1:])) != x.shape:
        raise refusal(node, f"shape {list(map(int, listed))} is not that of {written(x)}")
    return x


def squeeze(builder: Builder, node: ir.Node) -> Seen:
    """Squeeze of the axes that are listed, or of all of size 1."""
    x = builder.strided(node, 0)
    listed = constant_array(operand(node, 1))
    ones = [i for i, axis in enumerate(x.axes) if x.shape[i] == 1 and BATCH not in axis]
    axes = ones if listed is None else [int(axis) % len(x.axes) for axis in listed.reshape(-1)]
    if not set(axes) <= set(ones):
        raise refusal(node, f"axes {sorted(axes)} of {_written(x)} are not all of size 1")
    for axis in sorted(axes, reverse=True):
        x = x.without(axis)
    return _moved(builder, node, x)


def unsqueeze(builder: Builder, node: ir.Node) -> Seen:
    """Unsqueeze: new axes of size 1."""
    x = builder.strided(node, 0)
    listed = builder.array(node, 1).reshape(-1)
    rank = len(x.axes) + len(listed)
    for axis in sorted(int(axis) % rank for axis in listed):
        x = x.with_one(axis)
    return _moved(builder, node, x)


def transpose(builder: Builder, node: ir.Node) -> Seen:
    """Transpose."""
    x = builder.strided(node, 0)
    axes = list(node.attributes.get_ints("perm", tuple(range(len(x.axes) - 1, -1, -1))))
    if sorted(axes) != [*range(len(x.axes))]:
        raise refusal(node, f"perm {axes} does not fit {_written(x)}")
    return _moved(builder, node, x.transposed(axes))


def split(builder: Builder, node: ir.Node) -> list[Seen]:
    """Split in parts that are listed, or as many of one size."""
    x = builder.strided(node, 0)
    axis = node.attributes.get_int("axis", 0) % len(x.axes)
    listed, count = constant_array(operand(node, 1)), len(node.outputs)
    size = x.shape[axis]
    each = -(-size // node.attributes.get_int("num_outputs", count))
    sizes = [each] * (count - 1) + [size - each * (count - 1)]
    sizes = sizes if listed is None else [int(part) for part in listed]
    if sum(sizes) != size or min(sizes) < 1 or len(sizes) != count:
        raise refusal(node, f"parts of {sizes} are not the {size} of its axis {axis}")
    firsts = [sum(sizes[:index]) for index in range(count)]
    parts = [
        _taken(builder, node, x, axis, range(first, first + part))
        for first, part in zip(firsts, sizes, strict=True)
    ]
    return builder.moved(node, *parts)


def gather(builder: Builder, node: ir.Node) -> Seen:
    """Gather of one element of an axis, or of some at equal distances."""
    x = builder.strided(node, 0)
    axis = node.attributes.get_int("axis", 0) % len(x.axes)
    listed = builder.array(node, 1)
    indices = [int(index) % x.shape[axis] for index in listed.reshape(-1)]
    step = max(1, indices[1] - indices[0]) if len(indices) > 1 else 1
    wanted = range(indices[0], indices[0] + step * len(indices), step)
    if listed.ndim > 1 or [*wanted] != indices:
        raise refusal(node, f"indices {listed.tolist()}; the runtime takes them at equal distances")
    taken = _taken(builder, node, x, axis, wanted)
    return _moved(builder, node, taken if listed.ndim else taken.without(axis))


def slice_steps(builder: Builder, node: ir.Node) -> Seen:
    """Slice of a value that is no picture."""
    x = builder.strided(node, 0)
    starts, ends = builder.array(node, 1), builder.array(node, 2)
    axes = builder.array(node, 3) if operand(node, 3) is not None else np.arange(len(starts))
    steps = builder.array(node, 4) if operand(node, 4) is not None else np.ones_like(starts)
    for begin, end, axis, step in np.stack([starts, ends, axes, steps], axis=1).tolist():
        indices = range(x.shape[axis])[begin:end:step]
        if not indices or step < 1:
            raise refusal(node, f"{begin} to {end} of {x.shape[axis]} by {step} is not supported")
        x = _taken(builder, node, x, axis % len(x.axes), indices)
    return _moved(builder, node, x)


def _taken(builder: Builder, node: ir.Node, x: Strided, axis: int, indices: range) -> Strided:
    taken = x.taken(axis, indices)
    if taken is None:
        raise refusal(node, f"axis {axis} of {_written(x)} cannot be taken apart")
    return taken


def _moved(builder: Builder, node: ir.Node, x: Strided) -> Seen:
    return builder.moved(node, x)[0]


def _written(x: Strided) -> str:
    sizes = [
        "N" if axis == (BATCH,) else str(size) for axis, size in zip(x.axes, x.shape, strict=True)
    ]
    return f"[{', '.join(sizes)}]"


def _seen_as(builder: Builder, node: ir.Node, x: View, target: tuple[int, ...]) -> Seen:
    """x with the shape `target` after N, in a layout that lists its elements in the same order."""
    picture = x.activation.shape
    for layout in Layout:
        same_order = layout.flattened(picture) is x.layout.flattened(picture)
        if same_order and layout.fits(picture) and layout.of(picture) == target:
            return builder.alias(node, x, layout)
    unnamed = [True] + [False] * len(target)
    return _reshaped(builder, node, of_view(x), [1, *target], unnamed)


def _reshaped(
    builder: Builder, node: ir.Node, x: Strided, sizes: Sequence[int], unnamed: Sequence[bool]
) -> Seen:
    """x with axes of `sizes`; a copy of it where its elements are too far out of order."""
    if math.prod(sizes) != math.prod(x.shape):
        raise refusal(node, f"{_written(x)} has not the elements of [{', '.join(map(str, sizes))}]")
    reshaped = x.reshaped(sizes, unnamed)
    if reshaped is None:
        x.activation.readers += 1
        reshaped = builder.in_order(x, name_of(node), 1).reshaped(sizes, unnamed)
    assert reshaped is not None
    return _moved(builder, node, reshaped)


def _target(node: ir.Node, x: Strided) -> tuple[list[int], list[bool]]:
    """The shape that a Reshape asks for, and which of its sizes were left open, as that of N is.

    0 copies an axis of x, -1 takes what is left. A shape computed from N is no constant: then the
    shape noted on the output counts.
    """
    listed = constant_array(operand(node, 1))
    if listed is None:
        noted = node.outputs[0].shape
        if noted is None:
            raise refusal(node, "its shape is computed; the plan needs a constant")
        sizes = [size if isinstance(size, int) else -1 for size in noted]
        unnamed = [size == -1 for size in sizes]
    else:
        unnamed = [size == -1 or (size == 0 and _is_batch(x, i)) for i, size in enumerate(listed)]
        sizes = [x.shape[i] if s == 0 else int(s) for i, s in enumerate(listed)]
    count = math.prod(x.shape)
    if _is_batch(x, 0) and _names_images(node, sizes, count):
        sizes[0], unnamed[0] = 1, True
    elif sizes.count(-1) > 1 and sizes[0] == -1:
        sizes[0] = 1
    if sizes.count(-1) > 1:
        raise refusal(node, "its shape is computed; the plan needs a constant")
    known = math.prod(size for size in sizes if size != -1)
    left = count // known if known > 0 else 0
    return [left if size == -1 else size for size in sizes], unnamed


def _is_batch(x: Strided, axis: int) -> bool:
    return axis < len(x.axes) and x.axes[axis] == (BATCH,)


def _names_images(node: ir.Node, sizes: Sequence[int], count: int) -> bool:
    """Whether the first size is the number of images that a graph was exported for."""
    value = operand(node, 0)
    noted = value.shape[0] if value is not None and value.shape else None
    if isinstance(noted, int) and sizes[0] == noted:
        return True
    return -1 not in sizes and math.prod(sizes) != count == math.prod(sizes[1:])
