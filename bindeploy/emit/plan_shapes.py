"""Changes of shape that move no data: the same picture, written with other axes."""

from __future__ import annotations

import math

import onnx_ir as ir

from bindeploy.emit.plan_blocks import unweave, woven
from bindeploy.emit.plan_builder import Builder, View, constant_array, operand, refusal
from bindeploy.emit.plan_layout import Layout
from bindeploy.emit.plan_views import written


def identity(builder: Builder, node: ir.Node) -> View:
    """Identity, and Dropout in inference."""
    x = builder.view(node, 0)
    return builder.alias(node, x, x.layout)


def flatten(builder: Builder, node: ir.Node) -> View:
    """Flatten to [N, features]."""
    x = builder.view(node, 0)
    rank = 1 + len(x.shape)
    if node.attributes.get_int("axis", 1) % rank != 1:
        raise refusal(node, "the runtime flattens from axis 1")
    return _seen_as(builder, node, x, (x.activation.features,))


def reshape(builder: Builder, node: ir.Node) -> View:
    """Reshape to other axes of the same picture; after a Transpose, of blocks to pixels."""
    weave = woven(node)
    if weave is not None and weave.source in builder.views:
        return _checked(node, unweave(builder, node, weave))
    x = builder.view(node, 0)
    return _seen_as(builder, node, x, _target(node, x))


def _checked(node: ir.Node, x: View) -> View:
    """x, which must have the shape that the Reshape asks for."""
    listed = constant_array(operand(node, 1))
    if listed is not None and min(listed[1:]) > 0 and tuple(map(int, listed[1:])) != x.shape:
        raise refusal(node, f"shape {list(map(int, listed))} is not that of {written(x)}")
    return x


def squeeze(builder: Builder, node: ir.Node) -> View:
    """Squeeze of the axes that are listed, or of all of size 1."""
    x = builder.view(node, 0)
    listed = constant_array(operand(node, 1))
    rank = 1 + len(x.shape)
    ones = [axis for axis, size in enumerate(x.shape, 1) if size == 1]
    axes = ones if listed is None else [int(axis) % rank for axis in listed]
    if not set(axes) <= set(ones):
        raise refusal(node, f"axes {sorted(axes)} of {written(x)} are not all of size 1")
    kept = tuple(size for axis, size in enumerate(x.shape, 1) if axis not in axes)
    return _seen_as(builder, node, x, kept)


def unsqueeze(builder: Builder, node: ir.Node) -> View:
    """Unsqueeze of a line to a picture, or of features to one pixel."""
    x = builder.view(node, 0)
    listed = builder.array(node, 1).reshape(-1)
    rank = 1 + len(x.shape) + len(listed)
    axes = {int(axis) % rank for axis in listed}
    sizes = iter(x.shape)
    target = tuple(1 if axis in axes else next(sizes) for axis in range(1, rank))
    return _seen_as(builder, node, x, target)


def transpose(builder: Builder, node: ir.Node) -> View:
    """Transpose between channels first and channels last, as other tools write it."""
    x = builder.view(node, 0)
    axes = node.attributes.get_ints("perm", tuple(range(len(x.shape), -1, -1)))
    layout = x.layout.permuted(axes)
    if layout is None:
        raise refusal(
            node,
            f"perm {list(axes)} of {written(x)}; the runtime moves channels from first to last "
            "or back",
        )
    return builder.alias(node, x, layout)


def _seen_as(builder: Builder, node: ir.Node, x: View, target: tuple[int, ...]) -> View:
    """x with the shape `target` after N, in a layout that lists its elements in the same order."""
    picture = x.activation.shape
    for layout in Layout:
        same_order = layout.flattened(picture) is x.layout.flattened(picture)
        if same_order and layout.fits(picture) and layout.of(picture) == target:
            return builder.alias(node, x, layout)
    raise refusal(
        node,
        f"{written(x)} becomes [N, {', '.join(map(str, target))}]; the runtime flattens, "
        "and adds or drops axes of size 1",
    )


def _target(node: ir.Node, x: View) -> tuple[int, ...]:
    """The shape after N that a Reshape asks for: 0 copies an axis of x, -1 takes what is left.

    A shape computed from N is no constant: then the shape noted on the output counts.
    """
    listed = constant_array(operand(node, 1))
    if listed is None:
        noted = node.outputs[0].shape
        if noted is None or any(not isinstance(size, int) for size in noted[1:]):
            raise refusal(node, "its shape is computed; the plan needs a constant")
        return tuple(int(size) for size in noted[1:])  # type: ignore[arg-type]
    sizes = list(map(int, listed))[1:]
    copied = [x.shape[i] if s == 0 and i < len(x.shape) else s for i, s in enumerate(sizes)]
    known = math.prod(size for size in copied if size != -1)
    left = x.activation.features // known if known else 0
    return tuple(left if size == -1 else size for size in copied)
