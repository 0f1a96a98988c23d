"""The int8 ops of the dialect, for the layers whose weights stay numbers: the first and the last.

    q   = clamp(round(x / input_scale), -128, 127)   halves to the even integer; NaN reads as -128
    dot = conv(q, int8_weight)                       exact in int32; a padded tap reads q = 0
    y   = scale * dot + bias                         in float32, one rounding each
    y   = +1 iff dot >= threshold                    negated where direction is -1

Both factors of the integer convolution are signed. With uint8 activations onnxruntime, on an x86
CPU with AVX2 and without VNNI, adds two products in 16 bits, which saturate: 255 * 127 * 2 becomes
32767. A float convolution of q would be exact below 2^24 alone, 1032 products of the largest size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import dialect_checks as checks
from bindeploy.convert import dialect_functions as functions
from bindeploy.convert import dialect_reference as reference
from bindeploy.convert.dialect_functions import Attributes, Value

LOWEST, HIGHEST = -128, 127
LARGEST_DOT = np.iinfo(np.int32).max


def quantize(x: NDArray, input_scale: NDArray) -> NDArray[np.int8]:
    """q of float32 x, by a quotient in float32.

    >>> quantize(np.float32([-9.0, -0.25, 0.25, 0.75, 9.0, np.nan]), np.float32(0.5)).tolist()
    [-18, 0, 0, 2, 18, -128]
    """
    with np.errstate(over="ignore"):
        steps = np.round(np.divide(x, input_scale, dtype=np.float32))
    return np.minimum(np.where(steps >= LOWEST, steps, LOWEST), HIGHEST).astype(np.int8)


def largest_dots(weight: NDArray[np.int8]) -> NDArray[np.int64]:
    """[F]: the largest |dot| of each filter of `weight` [F, ...]."""
    return -LOWEST * np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1)


def convolution_integers(
    x: NDArray, weight: NDArray, input_scale: NDArray, **geometry: Any
) -> NDArray[np.int32]:
    """int32 [N, F, H', W'] of x [N, C, H, W] and weight [F, C/group, KH, KW]."""
    top, left, bottom, right = geometry["pads"]
    q = np.pad(quantize(x, input_scale), [(0, 0), (0, 0), (top, bottom), (left, right)])
    (down, across), (below, beside) = geometry["strides"], geometry["dilations"]
    height, width = weight.shape[2:]
    reach = (below * (height - 1) + 1, beside * (width - 1) + 1)
    windows = np.lib.stride_tricks.sliding_window_view(q, reach, axis=(2, 3))
    windows = windows[:, :, ::down, ::across, ::below, ::beside]
    group = geometry["group"]
    pairs = zip(np.split(windows, group, axis=1), np.split(weight, group), strict=True)
    dots = [np.einsum("nchwij,fcij->nfhw", seen, own, dtype=np.int32) for seen, own in pairs]
    return np.concatenate(dots, axis=1)


def linear_integers(x: NDArray, weight: NDArray, input_scale: NDArray) -> NDArray[np.int32]:
    """int32 [..., F] of x [..., C] and weight [F, C]."""
    q = quantize(x, input_scale).astype(np.int32)
    return np.einsum("...c,fc->...f", q, weight.astype(np.int32))


def int8_conv2d(
    x: NDArray,
    weight: NDArray,
    input_scale: NDArray,
    scale: NDArray,
    bias: NDArray,
    **geometry: Any,
) -> NDArray[np.float32]:
    dot = convolution_integers(x, weight, input_scale, **geometry)
    return reference.affine(dot, scale[:, None, None], bias[:, None, None])


def int8_conv2d_threshold(
    x: NDArray,
    weight: NDArray,
    input_scale: NDArray,
    threshold: NDArray,
    direction: NDArray,
    **geometry: Any,
) -> NDArray[np.float32]:
    dot = convolution_integers(x, weight, input_scale, **geometry)
    return reference.compare(dot, threshold[:, None, None], direction[:, None, None])


def int8_linear(
    x: NDArray, weight: NDArray, input_scale: NDArray, scale: NDArray, bias: NDArray
) -> NDArray[np.float32]:
    return reference.affine(linear_integers(x, weight, input_scale), scale, bias)


def int8_linear_threshold(
    x: NDArray, weight: NDArray, input_scale: NDArray, threshold: NDArray, direction: NDArray
) -> NDArray[np.float32]:
    return reference.compare(linear_integers(x, weight, input_scale), threshold, direction)


def _quantize(op: Any, x: Value, input_scale: Value) -> Value:
    lowest, highest = (functions.constant(op, np.float32(end)) for end in (LOWEST, HIGHEST))
    steps = op.Round(op.Div(x, input_scale))
    not_below = op.Where(op.GreaterOrEqual(steps, lowest), steps, lowest)
    return op.Cast(op.Min(not_below, highest), to=ir.DataType.INT8)


def _convolve(op: Any, ref: Attributes, x: Value, weight: Value, input_scale: Value) -> Value:
    geometry = {
        name: functions.reference(ref, name, name)
        for name in ("strides", "pads", "dilations", "group")
    }
    return op.ConvInteger(_quantize(op, x, input_scale), weight, **geometry)


def _multiply(op: Any, x: Value, weight: Value, input_scale: Value) -> Value:
    return op.MatMulInteger(_quantize(op, x, input_scale), op.Transpose(weight, perm=[1, 0]))


def conv2d_body(
    op: Any,
    ref: Attributes,
    x: Value,
    weight: Value,
    input_scale: Value,
    scale: Value,
    bias: Value,
) -> Value:
    dot = op.Cast(_convolve(op, ref, x, weight, input_scale), to=functions.FLOAT)
    return functions.affine(
        op, dot, functions.per_channel(op, scale), functions.per_channel(op, bias)
    )


def conv2d_threshold_body(
    op: Any,
    ref: Attributes,
    x: Value,
    weight: Value,
    input_scale: Value,
    threshold: Value,
    direction: Value,
) -> Value:
    dot = _convolve(op, ref, x, weight, input_scale)
    return functions.compare(
        op, dot, functions.per_channel(op, threshold), functions.per_channel(op, direction)
    )


def linear_body(
    op: Any,
    ref: Attributes,
    x: Value,
    weight: Value,
    input_scale: Value,
    scale: Value,
    bias: Value,
) -> Value:
    dot = op.Cast(_multiply(op, x, weight, input_scale), to=functions.FLOAT)
    return functions.affine(op, dot, scale, bias)


def linear_threshold_body(
    op: Any,
    ref: Attributes,
    x: Value,
    weight: Value,
    input_scale: Value,
    threshold: Value,
    direction: Value,
) -> Value:
    return functions.compare(op, _multiply(op, x, weight, input_scale), threshold, direction)


def check_convolution(layer: checks.Layer) -> None:
    weight = _weight(layer, rank=4)
    checks.output(layer, len(weight))
    checks.window(layer, len(weight), weight.shape[1], weight.shape[2:])


def check_linear(layer: checks.Layer) -> None:
    weight = _weight(layer, rank=2)
    checks.output(layer, len(weight))
    checks.features(layer, weight.shape[1])


def _weight(layer: checks.Layer, rank: int) -> NDArray[np.int8]:
    """The weight; every constant is one, and no sum leaves int32."""
    weight, scale = (layer.required_constant(name) for name in ("int8_weight", "input_scale"))
    if weight.ndim != rank or 0 in weight.shape:
        shape = "[F, C/group, KH, KW]" if rank == 4 else "[F, C]"
        layer.fail(f"has `int8_weight` of shape {list(weight.shape)}", f"give {shape}")
    if largest_dots(weight).max() > LARGEST_DOT:
        layer.fail("sums beyond 32-bit integers", "split the layer")
    if scale.shape != () or not 0 < scale.item() < np.inf:
        layer.fail(f"has `input_scale` {scale.tolist()}", "give one finite number above 0")
    for name in layer.names[3:]:
        layer.required_constant(name)
    return weight
