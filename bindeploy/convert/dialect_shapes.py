"""Output types of the dialect's ops, for `onnx.shape_inference`.

Every output is float32; a dimension that is unknown or symbolic stays so. Wrong shapes are not
judged here: `dialect.verify` does that, with the node's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import AttributeProto, TensorProto, TypeProto, helper

Dimension = int | str | None


def _dimensions(context: Any, index: int) -> list[Dimension] | None:
    """The shape of input `index`: a number, a name or None each; None when the rank is unknown."""
    kind = context.get_input_type(index)
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    fields = {"dim_value": int, "dim_param": str}
    return [
        getattr(dim, which) if (which := dim.WhichOneof("value")) in fields else None
        for dim in kind.tensor_type.shape.dim
    ]


LARGEST_SIZE = 2**62
"""A size that ONNX's 64-bit integers hold."""


def _integers(context: Any, name: str, absent: list[int]) -> list[int]:
    attribute: AttributeProto | None = context.get_attribute(name)
    return absent if attribute is None else list(attribute.ints)


def _set_output(context: Any, shape: Sequence[Dimension] | None) -> None:
    kind: TypeProto = helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
    context.set_output_type(0, kind)


def _windows(
    size: Dimension, kernel: Dimension, stride: int, pads: int, dilation: int
) -> Dimension:
    """How many windows there are along an axis; None where the numbers do not tell.

    Attributes that make no sense are left to the checks, which say so: an exception raised here
    would be printed, not handed on.
    """
    if not isinstance(size, int) or not isinstance(kernel, int) or stride < 1:
        return None
    windows = (size + pads - dilation * (kernel - 1) - 1) // stride + 1
    return windows if 0 <= windows <= LARGEST_SIZE else None


def _image(
    context: Any, x: list[Dimension], filters: Dimension, kernel: Sequence[Dimension]
) -> None:
    strides, pads = _integers(context, "strides", [1, 1]), _integers(context, "pads", [0] * 4)
    dilations = _integers(context, "dilations", [1, 1])
    if [len(part) for part in (x, kernel, strides, pads, dilations)] != [4, 2, 2, 4, 2]:
        _set_output(context, None)
        return
    sizes = [
        _windows(x[2 + axis], kernel[axis], strides[axis], pads[axis] + pads[axis + 2], dilation)
        for axis, dilation in enumerate(dilations)
    ]
    _set_output(context, [x[0], filters, *sizes])


def packed_convolution(context: Any) -> None:
    """x [N,C,H,W], bits [F,KH,KW,bytes] -> [N,F,H',W']."""
    x, bits = _dimensions(context, 0), _dimensions(context, 1)
    if x and bits:
        _image(context, x, bits[0], bits[1:3])
    else:
        _set_output(context, None)


def latent_convolution(context: Any) -> None:
    """x [N,C,H,W], weight [F,C/group,KH,KW] -> [N,F,H',W']."""
    x, weight = _dimensions(context, 0), _dimensions(context, 1)
    if x and weight:
        _image(context, x, weight[0], weight[2:])
    else:
        _set_output(context, None)


def linear(context: Any) -> None:
    """x [...,C], bits [F,bytes] or weight [F,C] -> [...,F]."""
    x, weight = _dimensions(context, 0), _dimensions(context, 1)
    _set_output(context, [*x[:-1], weight[0]] if x and weight else None)


def pool(context: Any) -> None:
    """x [N,C,H,W], direction [C] -> [N,C,H',W']."""
    x, direction = _dimensions(context, 0), _dimensions(context, 1)
    if x and direction:
        _image(context, x, direction[0], _integers(context, "kernel_shape", []))
    else:
        _set_output(context, None)


def same(context: Any) -> None:
    """x -> a tensor of the same shape."""
    _set_output(context, _dimensions(context, 0))
