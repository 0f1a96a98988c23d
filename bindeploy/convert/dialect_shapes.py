"""Output types of the dialect's ops, for `onnx.shape_inference`.

Every output is float32; a dimension that is unknown or symbolic stays so. Wrong shapes are not judged
here: `dialect.verify` does that, with the node's name.
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


def _integers(context: Any, name: str) -> list[int]:
    attribute: AttributeProto = context.get_attribute(name)
    return list(attribute.ints)


def _set_output(context: Any, shape: Sequence[Dimension] | None) -> None:
    kind: TypeProto = helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
    context.set_output_type(0, kind)


def _windows(
    size: Dimension, kernel: Dimension, stride: int, pads: int, dilation: int
) -> Dimension:
    if not isinstance(size, int) or not isinstance(kernel, int):
        return None
    return (size + pads - dilation * (kernel - 1) - 1) // stride + 1


def _image(
    context: Any, x: list[Dimension], filters: Dimension, kernel: Sequence[Dimension]
) -> list[Dimension]:
    strides, pads = _integers(context, "strides"), _integers(context, "pads")
    attribute = context.get_attribute("dilations")
    dilations = list(attribute.ints) if attribute is not None else [1, 1]
    sizes = [
        _windows(x[2 + axis], kernel[axis], strides[axis], pads[axis] + pads[axis + 2], dilation)
        for axis, dilation in enumerate(dilations)
    ]
    return [x[0], filters, *sizes]


def packed_convolution(context: Any) -> None:
    """x [N,C,H,W], bits [F,KH,KW,bytes] -> [N,F,H',W']."""
    x, bits = _dimensions(context, 0), _dimensions(context, 1)
    known = x is not None and bits is not None
    _set_output(context, _image(context, x, bits[0], bits[1:3]) if known else None)  # type: ignore


def latent_convolution(context: Any) -> None:
    """x [N,C,H,W], weight [F,C/group,KH,KW] -> [N,F,H',W']."""
    x, weight = _dimensions(context, 0), _dimensions(context, 1)
    known = x is not None and weight is not None
    _set_output(context, _image(context, x, weight[0], weight[2:]) if known else None)  # type: ignore


def linear(context: Any) -> None:
    """x [...,C], bits [F,bytes] or weight [F,C] -> [...,F]."""
    x, weight = _dimensions(context, 0), _dimensions(context, 1)
    known = x is not None and weight is not None
    _set_output(context, [*x[:-1], weight[0]] if known else None)  # type: ignore


def pool(context: Any) -> None:
    """x [N,C,H,W] -> [N,C,H',W']."""
    x = _dimensions(context, 0)
    kernel = _integers(context, "kernel_shape")
    _set_output(context, None if x is None else _image(context, x, x[1], kernel))


def same(context: Any) -> None:
    """x -> a tensor of the same shape."""
    _set_output(context, _dimensions(context, 0))
