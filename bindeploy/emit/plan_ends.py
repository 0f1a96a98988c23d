"""The ends of a plan: its input and output, as the ONNX model's caller hands them over."""

from __future__ import annotations

import math

import onnx_ir as ir

from bindeploy.emit.plan_builder import Activation, Builder, View, nhwc
from bindeploy.emit.plan_builder import readers as readers_of
from bindeploy.emit.plan_format import Node, Tensor, Type
from bindeploy.emit.plan_layout import Layout, Picture
from bindeploy.errors import BindeployError

CHANNELS_FIRST = {1: Layout.FLAT, 2: Layout.CW, 3: Layout.CHW}
CHANNELS_LAST = {2: Layout.WC, 3: Layout.HWC}
"""Layout of an input with so many axes after N."""


def read(builder: Builder, source: ir.Value) -> int:
    """The plan's input tensor, and the node that brings its channels last, unless they are."""
    name = source.name or "input"
    if source.dtype not in (None, ir.DataType.FLOAT):
        raise BindeployError(f"input `{name}` is {source.dtype}; a plan takes FLOAT")
    written = [getattr(size, "value", size) for size in source.shape or []]
    sizes = [size for size in written[1:] if isinstance(size, int) and size > 0]
    if len(sizes) not in CHANNELS_FIRST or len(sizes) != len(written) - 1:
        raise BindeployError(
            f"input `{name}` has shape {written}; a plan takes [N, C, H, W], [N, C, L] or "
            "[N, features], all but N fixed"
        )
    if _is_turned(source, len(sizes)):
        layout = CHANNELS_LAST[len(sizes)]
        picture = _picture(layout, sizes)
        handed = inside = builder.tensor(Tensor(name, Type.F32, nhwc(picture)))
    else:
        layout = CHANNELS_FIRST[len(sizes)]
        picture = _picture(layout, sizes)
        handed = builder.tensor(Tensor(name, Type.F32, (1, *picture)))
        inside = builder.tensor(Tensor(f"{name}/to_nhwc", Type.F32, nhwc(picture)))
        builder.add(Node("to_nhwc", f"{name}/to_nhwc", (handed,), inside))
    activation = Activation(name, picture, readers_of(source), floats=inside)
    builder.views[source] = View(activation, layout)
    return handed


def _is_turned(source: ir.Value, axes: int) -> bool:
    """Whether all that reads the input brings its channels first."""
    readers = [use.node for use in source.uses()]
    return bool(readers) and axes in CHANNELS_LAST and all(_brings_first(n, axes) for n in readers)


def _brings_first(node: ir.Node, axes: int) -> bool:
    permutation = tuple(node.attributes.get_ints("perm", ()))
    return node.op_type == "Transpose" and permutation == (0, axes, *range(1, axes))


def _picture(layout: Layout, sizes: list[int]) -> Picture:
    """(C, H, W) of an input; one of features is one pixel."""
    if layout.is_flat:
        return sizes[0], 1, 1
    named = {"H": 1, **dict(zip(layout.axes, sizes, strict=True))}
    return named["C"], named["H"], named["W"]


def write(builder: Builder, target: ir.Value) -> int:
    """The plan's output tensor, and the node that brings its channels first, if they are to be."""
    name = target.name or "output"
    if target not in builder.views:
        raise BindeployError(f"output `{name}` does not depend on the input")
    view, maker = builder.views[target], target.producer()
    if not isinstance(view, View):
        assert maker is not None
        view = builder.picture_of(target, maker)
    channels, height, width = view.activation.shape
    if view.flat and height * width > 1:
        raise BindeployError(
            f"output `{name}` is a picture of {height} x {width} flattened; give it unflattened"
        )
    inside = builder.floats(view, name)
    if view.layout in CHANNELS_LAST.values():
        if any(node.output == inside for node in builder.nodes):
            builder.tensors[inside].name = name
            return inside
        copy = builder.tensor(Tensor(name, Type.F32, nhwc(view.activation.shape)))
        node = Node("clip", f"{name}/copy", (inside,), copy, minimum=-math.inf, maximum=math.inf)
        return builder.add(node)
    handed = builder.tensor(Tensor(name, Type.F32, (1, channels, height, width)))
    return builder.add(Node("to_nchw", f"{name}/to_nchw", (inside,), handed))
