"""The window of a convolution or a pool: which pixels one output pixel reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from bindeploy.emit.plan_builder import refusal


@dataclass(frozen=True)
class Window:
    """Kernel, strides and dilations (vertical, horizontal); pads (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def reach(self, axis: int) -> int:
        """Pixels from the first to the last tap, both included."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def slack(self, axis: int, size: int) -> int:
        """Pixels by which the padded `size` exceeds the dilated kernel along an axis."""
        return size + self.pads[axis] + self.pads[axis + 2] - self.reach(axis)

    def over(self, height: int, width: int) -> tuple[int, int]:
        """Output size: floor(slack / stride) + 1 along each axis."""
        down, across = (
            self.slack(axis, size) // self.strides[axis] + 1
            for axis, size in enumerate((height, width))
        )
        return down, across

    def rounded_up(self, height: int, width: int) -> Window:
        """The window whose output size is ceil(slack / stride) + 1, by padding bottom and right.

        A last window that would begin in that padding is left out, as ONNX says.
        """
        pads = list(self.pads)
        for axis, size in enumerate((height, width)):
            stride = self.strides[axis]
            missing = -self.slack(axis, size) % stride
            begin = (self.slack(axis, size) + missing) // stride * stride
            if missing and begin < size + self.pads[axis]:
                pads[axis + 2] += missing
        return replace(self, pads=_four(pads))


def window(node: ir.Node, kernel: Sequence[int], height: int, width: int) -> Window:
    """The window that a node's attributes describe, checked to fit a picture of H x W.

    One of a single axis slides along the width of a picture of height 1.
    """
    attributes, axes = node.attributes, len(kernel)
    if axes not in (1, 2):
        raise refusal(node, f"its kernel has {axes} axes; the runtime has windows of 1 or 2")
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refusal(node, "auto_pad is not supported; write the `pads`")
    strides, dilations = (
        attributes.get_ints(name, (1,) * axes) for name in ("strides", "dilations")
    )
    pads = attributes.get_ints("pads", (0,) * 2 * axes)
    if (len(strides), len(dilations), len(pads)) != (axes, axes, 2 * axes):
        raise refusal(node, f"strides, dilations or pads are not of {axes} axes")
    found = Window(
        _two((1, *kernel)[-2:]),
        _two((1, *strides)[-2:]),
        _four(pads if axes == 2 else (0, pads[0], 0, pads[1])),
        _two((1, *dilations)[-2:]),
    )
    if min(*found.kernel, *found.strides, *found.dilations) < 1 or min(found.pads) < 0:
        raise refusal(node, "kernel, strides and dilations must be positive, pads not negative")
    if min(found.slack(0, height), found.slack(1, width)) < 0:
        raise refusal(node, f"its kernel is larger than the padded picture of {height} x {width}")
    return found


def _two(values: Sequence[int]) -> tuple[int, int]:
    first, second = map(int, values)
    return first, second


def _four(values: Sequence[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = map(int, values)
    return top, left, bottom, right
