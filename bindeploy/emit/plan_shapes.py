"""Changes of shape: flattening, cropping, padding, and ops that change nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
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
from bindeploy.emit.plan_format import Shape


@dataclass(frozen=True)
class Crop:
    """y[i, j, c] = x[i * strides[0] + first[0], j * strides[1] + first[1], c - channel_offset],
    or 0 where x ends."""

    strides: tuple[int, int]
    first: tuple[int, int]
    channel_offset: int = 0

    def stays_inside(self, before: Shape, after: Shape) -> bool:
        """Whether every pixel of y, `after` [1, H, W, C], is a pixel of x, `before`."""
        return all(
            first >= 0 and (after[axis] - 1) * stride + first < before[axis]
            for axis, stride, first in zip((1, 2), self.strides, self.first, strict=True)
        )

    def after(self, earlier: Crop) -> Crop:
        """Both as one: i -> (i * stride + first) * earlier stride + earlier first."""
        (down, across), (top, left) = earlier.strides, earlier.first
        return Crop(
            (self.strides[0] * down, self.strides[1] * across),
            (self.first[0] * down + top, self.first[1] * across + left),
            self.channel_offset + earlier.channel_offset,
        )

    def settings(self) -> dict[str, Any]:
        """The fields of a crop_pad node."""
        pads = (-self.first[0], -self.first[1], 0, 0)
        return {"strides": self.strides, "pads": pads, "channel_offset": self.channel_offset}


def identity(builder: Builder, node: ir.Node) -> View:
    """Identity, and Dropout in inference."""
    x = builder.view(node, 0)
    return builder.alias(node, x, x.flat)


def flatten(builder: Builder, node: ir.Node) -> View:
    """Flatten to [N, C * H * W]."""
    x = builder.view(node, 0)
    rank = 1 + len(x.shape)
    if node.attributes.get_int("axis", 1) % rank != 1:
        raise refusal(node, "the runtime flattens from axis 1")
    return builder.alias(node, x, flat=True)


def reshape(builder: Builder, node: ir.Node) -> View:
    """Reshape between [N, C, H, W] and [N, C * H * W]."""
    x = builder.view(node, 0)
    target = _target(node, x)
    if target == (x.activation.features,):
        return builder.alias(node, x, flat=True)
    if target == x.activation.shape:
        return builder.alias(node, x, flat=False)
    raise refusal(node, f"shape {[*target]} after N; the runtime flattens to [N, features]")


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


def squeeze(builder: Builder, node: ir.Node) -> View:
    """Squeeze of H and W, both 1, in one node or in two that follow each other."""
    x = builder.picture(node)
    before, after = node.inputs[0], node.outputs[0]
    second = before is not None and _is_squeeze(before.producer())
    left = [2] if second else [2, 3]
    listed = constant_array(operand(node, 1))
    axes = left if listed is None else sorted(int(axis) % (2 + len(left)) for axis in listed)
    one_pixel = x.activation.shape[1:] == (1, 1)
    if one_pixel and axes == left:
        return builder.alias(node, x, flat=True)
    half = not second and axes in ([2], [3])
    if one_pixel and half and after.uses() and all(_is_squeeze(use.node) for use in after.uses()):
        return builder.alias(node, x, flat=False)
    raise refusal(
        node,
        f"axes {axes} of [N, {', '.join(map(str, x.shape))}]; "
        "the runtime squeezes H and W of one pixel",
    )


def _is_squeeze(node: ir.Node | None) -> bool:
    return node is not None and (node.domain, node.op_type) == ("", "Squeeze")


def slice_pixels(builder: Builder, node: ir.Node) -> View:
    """Slice along H and W: pixel i of the output is pixel i * step + start of x."""
    x = builder.picture(node)
    starts, ends = builder.array(node, 1), builder.array(node, 2)
    axes = builder.array(node, 3) if operand(node, 3) is not None else np.arange(len(starts))
    steps = builder.array(node, 4) if operand(node, 4) is not None else np.ones_like(starts)
    shape = list(x.activation.shape)
    first, stride = [0, 0, 0], [1, 1, 1]
    for begin, end, axis, step in np.stack([starts, ends, axes, steps], axis=1).tolist():
        along = axis % 4 - 1
        if along < 0 or step < 1:
            raise refusal(node, "the runtime slices H and W, forwards")
        taken = range(x.activation.shape[along])[begin:end:step]
        if not taken or (along == 0 and len(taken) != x.activation.shape[0]):
            raise refusal(node, "the runtime slices H and W, and keeps every channel")
        first[along], stride[along], shape[along] = taken[0], step, len(taken)
    crop = Crop((stride[1], stride[2]), (first[1], first[2]))
    return _crop_pad(builder, node, x, (shape[0], shape[1], shape[2]), crop)


def pad(builder: Builder, node: ir.Node) -> View:
    """Pad with zeros along C, H and W."""
    x = builder.picture(node)
    value = constant_array(operand(node, 2))
    if node.attributes.get_string("mode", "constant") != "constant" or (
        value is not None and value.any()
    ):
        raise refusal(node, "the runtime pads with the constant 0")
    listed = builder.array(node, 1)
    axes = builder.array(node, 3) if operand(node, 3) is not None else np.arange(4)
    before, after = [0, 0, 0, 0], [0, 0, 0, 0]
    for axis, begin, end in zip(axes.tolist(), *listed.reshape(2, -1).tolist(), strict=True):
        before[axis % 4], after[axis % 4] = begin, end
    if before[0] or after[0] or min(*before, *after) < 0:
        raise refusal(node, "the runtime pads C, H and W by at least 0")
    channels, height, width = (
        size + before[axis] + after[axis] for axis, size in enumerate(x.activation.shape, 1)
    )
    crop = Crop((1, 1), (-before[2], -before[3]), before[1])
    return _crop_pad(builder, node, x, (channels, height, width), crop)


def _crop_pad(
    builder: Builder, node: ir.Node, x: View, shape: tuple[int, int, int], crop: Crop
) -> View:
    """A crop_pad, or a crop_pad that nothing else reads made to do both."""
    maker = builder.maker(x, {"crop_pad"})
    if maker is not None:
        source = builder.tensors[maker.inputs[0]].shape
        middle = nhwc(x.activation.shape)
        earlier = Crop(maker.strides, (-maker.pads[0], -maker.pads[1]), maker.channel_offset)
        keeps_channels = middle[3] == source[3] or shape[0] == middle[3]
        if keeps_channels and crop.stays_inside(middle, nhwc(shape)):
            for setting, value in crop.after(earlier).settings().items():
                setattr(maker, setting, value)
            builder.tensors[maker.output].shape = nhwc(shape)
            return builder.held_by(node, maker.output, shape)
    inputs = (builder.floats(x, name_of(node)),)
    return builder.result(node, "crop_pad", inputs, shape, **crop.settings())
