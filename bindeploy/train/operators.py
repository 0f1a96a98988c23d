"""A hardened binary layer as one torch operator, so that the exporter sees one node a layer.

Each layer computes `scale * dot + bias`, dot being the product with the signs of the latent weight,
in the order every engine uses: the integer first, one rounding for the product, one for the sum.
What a layer does to its input before, where a mode says so, is an operator too. None has a
gradient: training runs on the soft layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from bindeploy.train import saturation
from bindeploy.train.quantizers import sign


def pad(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """`x` [N, C, H, W] with `pads` [top, left, bottom, right] rows and columns of `value`."""
    top, left, bottom, right = pads
    return functional.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def signed_conv2d(
    x: Tensor,
    weight: Tensor,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pad_value: float,
) -> Tensor:
    """Convolution of `x`, as it is, with the signs of `weight` [F, C/group, KH, KW]."""
    padded = pad(x, pads, pad_value)
    return functional.conv2d(padded, sign(weight), None, strides, 0, dilations, group)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


@torch.library.custom_op("bindeploy::binary_conv2d", mutates_args=())
def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pad_value: float,
) -> Tensor:
    """x [N, C, H, W], latent weight, scale [F], bias [F] -> [N, F, H', W'], x binarized."""
    dot = signed_conv2d(sign(x), weight, strides, pads, dilations, group, pad_value)
    return _per_channel(scale) * dot + _per_channel(bias)


@torch.library.custom_op("bindeploy::binary_weight_conv2d", mutates_args=())
def binary_weight_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pad_value: float,
) -> Tensor:
    """As `binary_conv2d`, x staying float."""
    dot = signed_conv2d(x, weight, strides, pads, dilations, group, pad_value)
    return _per_channel(scale) * dot + _per_channel(bias)


@torch.library.custom_op("bindeploy::binary_linear", mutates_args=())
def binary_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """x [..., C], latent weight [F, C], scale [F], bias [F] -> [..., F], x binarized."""
    return scale * functional.linear(sign(x), sign(weight)) + bias


@torch.library.custom_op("bindeploy::binary_weight_linear", mutates_args=())
def binary_weight_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """As `binary_linear`, x staying float."""
    return scale * functional.linear(x, sign(weight)) + bias


@torch.library.custom_op("bindeploy::saturating_conv2d", mutates_args=())
def saturating_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pad_value: float,
) -> Tensor:
    """As `binary_conv2d`, with sums of 8 bits."""
    padded = pad(sign(x), pads, pad_value)
    dot = saturation.conv2d(padded, sign(weight), strides, dilations, group)
    return _per_channel(scale) * dot + _per_channel(bias)


@torch.library.custom_op("bindeploy::saturating_linear", mutates_args=())
def saturating_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """As `binary_linear`, with sums of 8 bits."""
    return scale * saturation.linear(sign(x), sign(weight)) + bias


@torch.library.custom_op("bindeploy::binary_sign", mutates_args=())
def binary_sign(x: Tensor) -> Tensor:
    """+1 where `x >= 0`, else -1."""
    return sign(x)


@torch.library.custom_op("bindeploy::quantize_int8", mutates_args=())
def quantize_int8(x: Tensor, scale: Tensor) -> Tensor:
    """The 8-bit integers that stand for x, as floats again: q * scale, shape of x.

    q = clamp(round(x / scale), -128, 127), halves to the even integer; `scale` [] is finite and
    above 0. This is ONNX's QuantizeLinear to int8 around 0 with DequantizeLinear after it, float
    for float: a true division, no product with 1 / scale, and, as an integer has no -0, no -0
    either. -128 stays possible because QuantizeLinear saturates there: two standard nodes say it
    all, and nothing has to be clamped before them.
    """
    q = torch.clamp(torch.round(x / scale), -128, 127) + 0.0
    return q * scale


@binary_conv2d.register_fake
@binary_weight_conv2d.register_fake
@saturating_conv2d.register_fake
def _conv2d_shape(x, weight, scale, bias, strides, pads, dilations, group, pad_value):
    top, left, bottom, right = pads
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    height = (x.shape[2] + top + bottom - spans[0]) // strides[0] + 1
    width = (x.shape[3] + left + right - spans[1]) // strides[1] + 1
    return x.new_empty((x.shape[0], weight.shape[0], height, width))


@binary_linear.register_fake
@binary_weight_linear.register_fake
@saturating_linear.register_fake
def _linear_shape(x, weight, scale, bias):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@binary_sign.register_fake
def _sign_shape(x):
    return torch.empty_like(x)


@quantize_int8.register_fake
def _quantized_shape(x, scale):
    return torch.empty_like(x)
