"""Parts of a picture, and zeros around it: Slice and Pad, as one op of the plan."""

from __future__ import annotations

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
from bindeploy.emit.plan_format import Node, Shape
from bindeploy.emit.plan_layout import Picture
from bindeploy.emit.plan_shapes import slice_steps
from bindeploy.emit.plan_strided import Strided


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


def slice_picture(builder: Builder, node: ir.Node) -> View | Strided:
    """Slice: pixel i of the output is pixel i * step + start of x; channels in a row."""
    if isinstance(builder.seen(node, 0), Strided):
        return slice_steps(builder, node)
    x = builder.view(node, 0)
    starts, ends = builder.array(node, 1), builder.array(node, 2)
    axes = builder.array(node, 3) if operand(node, 3) is not None else np.arange(len(starts))
    steps = builder.array(node, 4) if operand(node, 4) is not None else np.ones_like(starts)
    first, stride, sizes = _along(0), _along(1), dict(zip("CHW", x.activation.shape, strict=True))
    for begin, end, axis, step in np.stack([starts, ends, axes, steps], axis=1).tolist():
        along = _axis(x, axis)
        if along == "N" or step < 1 or (along == "C" and step > 1):
            raise refusal(node, "the runtime slices C, H and W, forwards, and channels in a row")
        taken = range(sizes[along])[begin:end:step]
        if not taken:
            raise refusal(node, f"{begin} to {end} of {sizes[along]} is nothing")
        first[along], stride[along], sizes[along] = taken[0], step, len(taken)
    crop = Crop((stride["H"], stride["W"]), (first["H"], first["W"]), -first["C"])
    return _crop_pad(builder, node, x, (sizes["C"], sizes["H"], sizes["W"]), crop)


def pad(builder: Builder, node: ir.Node) -> View:
    """Pad with zeros along C, H and W; where it is negative, crop."""
    x = builder.view(node, 0)
    value = constant_array(operand(node, 2))
    if node.attributes.get_string("mode", "constant") != "constant" or (
        value is not None and value.any()
    ):
        raise refusal(node, "the runtime pads with the constant 0")
    listed = builder.array(node, 1)
    count = 1 + len(x.shape)
    axes = builder.array(node, 3) if operand(node, 3) is not None else np.arange(count)
    before, sizes = _along(0), dict(zip("CHW", x.activation.shape, strict=True))
    for axis, begin, end in zip(axes.tolist(), *listed.reshape(2, -1).tolist(), strict=True):
        along = _axis(x, axis)
        if along == "N" and (begin or end):
            raise refusal(node, "the runtime pads C, H and W")
        if along != "N":
            before[along], sizes[along] = begin, sizes[along] + begin + end
    if min(sizes.values()) < 1:
        raise refusal(node, "it leaves nothing of its input")
    crop = Crop((1, 1), (-before["H"], -before["W"]), before["C"])
    return _crop_pad(builder, node, x, (sizes["C"], sizes["H"], sizes["W"]), crop)


def _along(value: int) -> dict[str, int]:
    return dict.fromkeys("CHW", value)


def _axis(x: View, axis: int) -> str:
    """The letter of an ONNX axis, N included; a flattened picture has N alone."""
    named = "N" + ("" if x.flat else x.layout.axes)
    return named[axis % len(named)]


def _crop_pad(builder: Builder, node: ir.Node, x: View, shape: Picture, crop: Crop) -> View:
    """A crop_pad, or a crop_pad that nothing else reads made to do both."""
    maker = builder.maker(x, {"crop_pad"})
    if maker is not None:
        source = builder.tensors[_only(maker)].shape
        middle = nhwc(x.activation.shape)
        earlier = Crop(maker.strides, (-maker.pads[0], -maker.pads[1]), maker.channel_offset)
        keeps_channels = not earlier.channel_offset and middle[3] == source[3]
        keeps_channels |= not crop.channel_offset and shape[0] == middle[3]
        if keeps_channels and crop.stays_inside(middle, nhwc(shape)):
            for setting, value in crop.after(earlier).settings().items():
                setattr(maker, setting, value)
            builder.tensors[maker.output].shape = nhwc(shape)
            return builder.held_by(node, maker.output, shape, x.layout)
    inputs = (builder.floats(x, name_of(node)),)
    return builder.result(node, "crop_pad", inputs, shape, x.layout, **crop.settings())


def _only(maker: Node) -> int:
    (tensor,) = maker.inputs
    assert tensor is not None
    return tensor
