"""The window of a standard convolution over images, as the dialect writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir


def window(node: ir.Node, kernel: Sequence[int]) -> dict[str, Any] | str:
    """`strides`, `pads`, `dilations` and `pad_value` 0 of a Conv with a kernel [KH, KW].

    In words why not, where there are more axes or less, or the padding follows from a size of the
    image that is not known.
    """
    strides = list(node.attributes.get_ints("strides", [1, 1]))
    dilations = list(node.attributes.get_ints("dilations", [1, 1]))
    if len(kernel) != 2:
        return f"it convolves in {len(kernel)}-D, not 2-D"
    if len(strides) != 2 or len(dilations) != 2 or min(strides + dilations) < 1:
        return f"strides {strides} with dilations {dilations} are not those of an image"
    reach = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    pads = _pads(node, reach, strides)
    if isinstance(pads, str):
        return pads
    if len(pads) != 4 or min(pads) < 0:
        return f"pads {pads} are not those of an image"
    return {"strides": strides, "pads": pads, "dilations": dilations, "pad_value": 0.0}


def _pads(node: ir.Node, reach: Sequence[int], strides: Sequence[int]) -> list[int] | str:
    """[top, left, bottom, right] of windows that reach over [height, width] pixels."""
    rule = node.attributes.get_string("auto_pad", "NOTSET")
    if rule == "NOTSET":
        return list(node.attributes.get_ints("pads", [0, 0, 0, 0]))
    if rule == "VALID":
        return [0, 0, 0, 0]
    x = node.inputs[0]
    shape = x.shape if x is not None else None
    before, after = [], []
    for axis in (0, 1):
        size = shape[2 + axis] if shape is not None else None
        if strides[axis] == 1:
            total = reach[axis] - 1
        elif isinstance(size, int):
            windows = -(-size // strides[axis])
            total = max(0, (windows - 1) * strides[axis] + reach[axis] - size)
        else:
            return f"{rule} pads an image of unknown size"
        smaller, larger = total // 2, total - total // 2
        before.append(smaller if rule == "SAME_UPPER" else larger)
        after.append(larger if rule == "SAME_UPPER" else smaller)
    return before + after
