"""Pictures side by side, and blocks of pixels that stand as channels."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bindeploy.emit.plan_builder import (
    Builder,
    View,
    constant_array,
    name_of,
    nhwc,
    operand,
    refusal,
)
from bindeploy.emit.plan_format import Node, Tensor, Type

MOST = 5
"""Inputs of one concat of the plan."""

CHANNELS_FIRST = 1
"""Flag of depth_to_space and space_to_depth: channel (c, i, j) in place of (i, j, c)."""


def concat(builder: Builder, node: ir.Node) -> View:
    """Concat along the channels."""
    views = [builder.view(node, index) for index in range(len(node.inputs))]
    x, name = views[0], name_of(node)
    along = "NC" if x.flat else "N" + x.layout.axes
    _, height, width = x.activation.shape
    axis = node.attributes.get_int("axis", 1) % len(along)
    if along[axis] != "C" or (x.flat and height * width > 1):
        raise refusal(node, f"axis {axis}; the runtime joins pictures along their channels")
    if any((v.layout, v.activation.shape[1:]) != (x.layout, (height, width)) for v in views):
        shapes = ", ".join(str(list(view.shape)) for view in views)
        raise refusal(node, f"inputs of {shapes}; they may differ in channels alone")
    if len(views) == 1:
        return builder.alias(node, x, x.layout)
    tensors = [builder.floats(view, name) for view in views]
    while len(tensors) > MOST:
        channels = sum(builder.tensors[tensor].shape[3] for tensor in tensors[:MOST])
        part = builder.tensor(Tensor(f"{name}/part", Type.F32, nhwc((channels, height, width))))
        builder.add(Node("concat", f"{name}/part", tuple(tensors[:MOST]), part))
        tensors[:MOST] = [part]
    channels = sum(view.activation.shape[0] for view in views)
    return builder.result(node, "concat", tuple(tensors), (channels, height, width), x.layout)


def depth_to_space(builder: Builder, node: ir.Node) -> View:
    """DepthToSpace, in either mode."""
    x = builder.picture(node)
    size = node.attributes.get_int("blocksize", 1)
    first = node.attributes.get_string("mode", "DCR") == "CRD"
    return _blocks_to_pixels(builder, node, x, (size, size), CHANNELS_FIRST if first else 0)


def space_to_depth(builder: Builder, node: ir.Node) -> View:
    """SpaceToDepth."""
    x = builder.picture(node)
    channels, height, width = x.activation.shape
    size = node.attributes.get_int("blocksize", 1)
    if size < 1 or height % size or width % size:
        raise refusal(node, f"blocks of {size} do not fit a picture of {height} x {width}")
    shape = (channels * size * size, height // size, width // size)
    inputs = (builder.floats(x, name_of(node)),)
    return builder.result(node, "space_to_depth", inputs, shape, kernel=(size, size))


def _blocks_to_pixels(
    builder: Builder, node: ir.Node, x: View, block: tuple[int, int], flags: int
) -> View:
    depth, height, width = x.activation.shape
    if min(block) < 1 or depth % (block[0] * block[1]):
        raise refusal(node, f"blocks of {block[0]} x {block[1]} do not fit {depth} channels")
    shape = (depth // (block[0] * block[1]), height * block[0], width * block[1])
    inputs = (builder.floats(x, name_of(node)),)
    return builder.result(
        node, "depth_to_space", inputs, shape, x.layout, kernel=block, flags=flags
    )


@dataclass(frozen=True)
class Weave:
    """Reshape, Transpose, Reshape that are a DepthToSpace: of rectangular blocks, or of a line."""

    source: ir.Value
    split: ir.Node
    flags: int


WEAVES = {
    (0, 3, 4, 1, 5, 2): 0,
    (0, 1, 4, 2, 5, 3): CHANNELS_FIRST,
    (0, 2, 3, 1): 0,
    (0, 1, 3, 2): CHANNELS_FIRST,
}
"""What the Transpose does to [N, i, j, C, H, W] or [N, C, i, j, H, W]; to the same without H, i."""


def woven(node: ir.Node) -> Weave | None:
    """What the last Reshape of such three ends, else None."""
    turn = node.inputs[0].producer() if node.inputs[0] is not None else None
    if turn is None or (turn.domain, turn.op_type) != ("", "Transpose"):
        return None
    axes = tuple(turn.attributes.get_ints("perm", ()))
    split = turn.inputs[0].producer() if turn.inputs[0] is not None else None
    if split is None or (split.domain, split.op_type) != ("", "Reshape") or axes not in WEAVES:
        return None
    source, sizes = split.inputs[0], constant_array(operand(split, 1))
    if source is None or sizes is None or len(sizes) != len(axes):
        return None
    return Weave(source, split, WEAVES[axes])


def unweave(builder: Builder, node: ir.Node, weave: Weave) -> View:
    """The pixels of such three, whose shapes say what the blocks are."""
    x = builder.views[weave.source]
    assert isinstance(x, View)
    depth, height, width = x.activation.shape
    sizes = [int(size) for size in builder.array(weave.split, 1)][1:]
    line = len(sizes) == 3
    first = 1 if weave.flags else 0
    block = (1, sizes[first]) if line else (sizes[first], sizes[first + 1])
    channels = sizes[0] if weave.flags else sizes[-2 if line else -3]
    if x.flat or len(x.shape) != (2 if line else 3) or min(*block, channels) < 1:
        raise refusal(node, "blocks of this shape are not supported; write DepthToSpace")
    if block[0] * block[1] * channels != depth or sizes[-1] not in (-1, width):
        raise refusal(node, f"blocks of {list(sizes)} do not fit {depth} x {height} x {width}")
    return _blocks_to_pixels(builder, node, x, block, weave.flags)
