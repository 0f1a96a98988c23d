"""Where the channels lie behind an operator that moves values and changes none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from bindeploy.convert import constants, dialect
from bindeploy.convert.channelwise import Layout


def moved(node: ir.Node, x: ir.Value, layout: Layout) -> Layout | None:
    """The layout of the output of a move of `x`; None for a node that is no move."""
    place = PLACES.get(node.op_type) if node.domain == "" else None
    if place is None or (node.inputs[0] is not x and node.op_type != "Concat"):
        return None
    return place(node, x, layout)


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _lost(node: ir.Node, layout: Layout) -> Layout:
    """Channels without an axis of their own: what follows may still be one number for all."""
    return replace(layout, rank=_rank(node.outputs[0]), axis=None)


def _axes(node: ir.Node, index: int, rank: int | None) -> list[int] | None:
    """The constant axes that input `index` lists, none of them negative."""
    given = constants.read(node.inputs[index]) if len(node.inputs) > index else None
    if given is None or rank is None:
        return None
    return [int(axis) % rank for axis in given.reshape(-1)]


def _transposed(node: ir.Node, x: ir.Value, layout: Layout) -> Layout:
    if layout.rank is None or layout.axis is None:
        return _lost(node, layout)
    order = list(node.attributes.get_ints("perm", range(layout.rank)[::-1]))
    return replace(layout, axis=order.index(layout.rank + layout.axis) - layout.rank)


def _squeezed(node: ir.Node, x: ir.Value, layout: Layout) -> Layout:
    axes = _axes(node, 1, layout.rank)
    if axes is None or layout.rank is None or layout.axis is None:
        return _reshaped(node, x, layout)
    kept = [axis for axis in range(layout.rank) if axis not in axes]
    if layout.rank + layout.axis not in kept:
        return _lost(node, layout)
    axis = kept.index(layout.rank + layout.axis) - len(kept)
    return replace(layout, rank=len(kept), axis=axis)


def _unsqueezed(node: ir.Node, x: ir.Value, layout: Layout) -> Layout:
    given = constants.read(node.inputs[1])
    if given is None or layout.rank is None or layout.axis is None:
        return _lost(node, layout)
    rank = layout.rank + given.size
    added = {int(axis) % rank for axis in given.reshape(-1)}
    kept = [axis for axis in range(rank) if axis not in added]
    return replace(layout, rank=rank, axis=kept[layout.axis] - rank)


def _reshaped(node: ir.Node, x: ir.Value, layout: Layout) -> Layout:
    """An axis stays one if its size and what lies behind it do: then so does what lies before.

    Where it is split in two, the channels lie along the second, one behind the other.
    """
    target = node.outputs[0].shape
    if x.shape is None or target is None or layout.axis is None:
        return _lost(node, layout)
    behind, sizes = _product(list(x.shape)[layout.axis :][1:]), list(target)
    places = [
        (size, axis)
        for axis, size in enumerate(sizes, -len(sizes))
        if isinstance(size, int) and behind == _product(sizes[axis:][1:]) is not None
    ]
    for size, axis in reversed(places):
        if size == layout.size:
            return replace(layout, rank=len(sizes), axis=axis)
    for size, axis in places:
        if size > 1 and layout.size % size == 0:
            channel = layout.channel % size
            return replace(
                layout, rank=len(sizes), axis=axis, size=size, channel=channel, shared=True
            )
    return _lost(node, layout)


def _product(sizes: list[int | ir.SymbolicDim]) -> int | None:
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _unfolded(node: ir.Node, x: ir.Value, layout: Layout) -> Layout:
    """DepthToSpace: channels that go to the same place of different pixels become one."""
    squared = node.attributes.get_int("blocksize", 1) ** 2
    if layout.axis != -3 or layout.size % squared:
        return _lost(node, layout)
    size = layout.size // squared
    column_first = node.attributes.get_string("mode", "DCR") == "CRD"
    channel = layout.channel // squared if column_first else layout.channel % size
    return replace(layout, size=size, channel=channel, shared=True)


def _sliced(node: ir.Node, x: ir.Value, layout: Layout) -> Layout | None:
    """A Slice of other axes than that of the channels."""
    axes = _axes(node, 3, layout.rank)
    if axes is None or layout.rank is None or layout.axis is None:
        return None
    return None if layout.rank + layout.axis in axes else layout


def _concatenated(node: ir.Node, x: ir.Value, layout: Layout) -> Layout | None:
    """A Concat along the channels: those of x lie behind those of the values before it."""
    if layout.rank is None or layout.axis is None:
        return None
    axis = layout.rank + layout.axis
    if node.attributes.get_int("axis", 0) % layout.rank != axis:
        return None
    sizes = [_size(value, axis) for value in node.inputs]
    known = [size for size in sizes if size is not None]
    if len(known) != len(sizes):
        return None
    before = sum(known[: node.inputs.index(x)])
    return replace(layout, size=sum(known), channel=layout.channel + before)


def _size(value: ir.Value | None, axis: int) -> int | None:
    """Of a value along an axis; the channels of a convolution that has no shape yet."""
    if value is None:
        return None
    if value.shape is not None:
        size = value.shape[axis] if axis < len(value.shape) else None
        return size if isinstance(size, int) else None
    layer = value.producer()
    op = dialect.op_of(layer) if layer is not None else None
    if layer is None or op is None or "bits" not in op.inputs or axis != 1:
        return None
    bits = constants.read(layer.inputs[1])
    return len(bits) if bits is not None and bits.ndim == 4 else None


PLACES: dict[str, Callable[[ir.Node, ir.Value, Layout], Layout | None]] = {
    "Transpose": _transposed,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Flatten": _reshaped,
    "Reshape": _reshaped,
    "DepthToSpace": _unfolded,
    "Slice": _sliced,
    "Concat": _concatenated,
}
