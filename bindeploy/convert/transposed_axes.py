"""The axes of a transposed convolution, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Axis:
    """One axis: its stride or its dilation is 1, its kernel no smaller than its stride.

    `size` is that of the input, None where it is not known. One number of input has
    reach = dilation * (kernel - 1) + 1 outputs, every further one `stride` more. Of them all
    `before` are cut off at the start; `end` is reach with the output padding, less what is cut off
    at the end.
    """

    size: int | None
    kernel: int
    stride: int
    dilation: int
    before: int
    end: int

    def taps(self, phase: int) -> list[int]:
        """The taps that reach the outputs of a phase, the last first."""
        return list(range(phase, self.kernel, self.stride))[::-1]

    def pads(self, phase: int) -> tuple[int, int]:
        """The zeros that a phase reads before and after the input."""
        return self.dilation * (len(self.taps(phase)) - 1) - self.skipped, self._after

    @property
    def skipped(self) -> int:
        """Outputs at the start of every phase that are not computed, since all are cut off."""
        fewest = self.kernel // self.stride
        return min(self.before // self.stride, self.dilation * (fewest - 1))

    @property
    def outputs(self) -> int | None:
        """How many outputs every phase has."""
        return None if self.size is None else self.size + self._after - self.skipped

    @property
    def surplus(self) -> tuple[int, int]:
        """What is to be cut off at the start and the end of the phases woven together."""
        start = self.before - self.skipped * self.stride
        return start, (self._after + 1) * self.stride - self.end

    @property
    def _after(self) -> int:
        return max(0, -(-self.end // self.stride) - 1)


def read_axes(node: ir.Node, kernel: Sequence[int]) -> list[Axis] | str:
    """The axes of a ConvTranspose with this kernel; in words why it is not split into phases."""
    count, given = len(kernel), node.attributes
    strides = list(given.get_ints("strides", [1] * count))
    dilations = list(given.get_ints("dilations", [1] * count))
    extra = list(given.get_ints("output_padding", [0] * count))
    if {len(strides), len(dilations), len(extra)} != {count} or min(strides + dilations) < 1:
        return f"strides {strides} with dilations {dilations} are not those of {count} axes"
    axes = []
    for number, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        if size < stride:
            return f"its kernel of {size} is smaller than its stride of {stride}"
        if dilation > 1 and stride > 1:
            return f"it has dilation {dilation} with stride {stride}"
        full = dilation * (size - 1) + 1 + extra[number]
        pads = _pads(node, number, count, stride, full)
        if isinstance(pads, str):
            return pads
        axes.append(Axis(_size(node, number), size, stride, dilation, pads[0], full - pads[1]))
    unknown = [axis for axis in axes if axis.size is None]
    if len(unknown) > 1 and len(set(strides)) > 1:
        return f"strides {strides} differ, over an image of unknown size"
    return axes


def _size(node: ir.Node, number: int) -> int | None:
    x = node.inputs[0]
    size = x.shape[2 + number] if x is not None and x.shape is not None else None
    return size if isinstance(size, int) else None


def _pads(node: ir.Node, number: int, count: int, stride: int, full: int) -> tuple[int, int] | str:
    """How many outputs are cut off at the start and the end of axis `number`.

    `full` is how many one number of input has. An odd number is split as onnxruntime does: more at
    the end for SAME_UPPER, else more at the start.
    """
    given, rule = node.attributes, node.attributes.get_string("auto_pad", "NOTSET")
    wanted = given.get_ints("output_shape", [])
    if wanted:
        size = _size(node, number)
        if size is None:
            return "its output_shape is given, and the size of its input is not known"
        total = (size - 1) * stride + full - wanted[len(wanted) - count + number]
    elif rule in ("SAME_UPPER", "SAME_LOWER"):
        total = full - stride
    else:
        pads = (
            list(given.get_ints("pads", [0] * 2 * count)) if rule == "NOTSET" else [0] * 2 * count
        )
        before, after = pads[number], pads[number + count]
        return (before, after) if min(before, after) >= 0 else f"pads {pads} are negative"
    if total < 0:
        return "its output is larger than the full one"
    smaller, larger = total // 2, total - total // 2
    return (smaller, larger) if rule == "SAME_UPPER" else (larger, smaller)
