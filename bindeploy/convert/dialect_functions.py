"""The dialect in standard ONNX operators: one traced body for each op.

A body is carried in the file as a model-local function, so an engine that knows nothing of the
dialect runs it. `op` is onnxscript's builder; `ref` holds references to the function's
attributes. The float convolution of +-1 values is exact below 2^24; it passes through an int32
Cast before scale and bias, so the integer is explicit and no optimizer can fold the scale into
the +-1 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

FLOAT = ir.DataType.FLOAT
INT32 = ir.DataType.INT32

Value = ir.Value
Attributes = Mapping[str, ir.Attr]


def constant(op: Any, array: np.ndarray | np.generic) -> Value:
    return op.Constant(value=ir.tensor(array))


def axes(op: Any, *axes: int) -> Value:
    return constant(op, np.array(axes, np.int64))


def reference(ref: Attributes, name: str, to: str) -> ir.Attr:
    """The function attribute `name`, handed to a node under the name `to`."""
    return ir.RefAttr(to, name, ref[name].type)


def sign(op: Any, values: Value) -> Value:
    """+1 where values >= 0 (so at 0 and -0), else -1 (so at NaN)."""
    positive = op.GreaterOrEqual(values, constant(op, np.float32(0)))
    return op.Where(positive, constant(op, np.float32(1)), constant(op, np.float32(-1)))


def single_bits(op: Any, bits: Value, leading: int) -> Value:
    """The bits u8 [..., 8 * bytes] of rows u8 [..., bytes] with `leading` axes before the row."""
    shifts = constant(op, np.arange(8, dtype=np.uint8))
    shifted = op.BitShift(op.Unsqueeze(bits, axes(op, -1)), shifts, direction="RIGHT")
    ones = op.BitwiseAnd(shifted, constant(op, np.uint8(1)))
    return op.Reshape(ones, axes(op, *[0] * leading, -1))


def signs_of(op: Any, ones: Value) -> Value:
    """+-1 floats of single bits."""
    twice = op.Mul(op.Cast(ones, to=FLOAT), constant(op, np.float32(2)))
    return op.Sub(constant(op, np.float32(1)), twice)


def _unpack(op: Any, ref: Attributes, bits: Value, leading: int) -> Value:
    """+-1 floats [..., channels] of rows u8 [..., bytes] with `leading` axes before the row."""
    rows = single_bits(op, bits, leading)
    channels = op.Constant(value_int=reference(ref, "channels", "value_int"))
    cut = op.Slice(rows, axes(op, 0), op.Unsqueeze(channels, axes(op, 0)), axes(op, -1))
    return signs_of(op, cut)


def _unpack_filters(op: Any, ref: Attributes, bits: Value) -> Value:
    """+-1 floats [F, C, KH, KW] of bits u8 [F, KH, KW, bytes]."""
    return op.Transpose(_unpack(op, ref, bits, leading=3), perm=[0, 3, 1, 2])


def pad(op: Any, ref: Attributes, x: Value) -> Value:
    """x [N, C, H, W] with `pad_value` around each picture."""
    pads = op.Constant(value_ints=reference(ref, "pads", "value_ints"))
    pad_value = op.Constant(value_float=reference(ref, "pad_value", "value_float"))
    return op.Pad(x, pads, pad_value, axes(op, 2, 3))


def _convolve(op: Any, ref: Attributes, x: Value, weight: Value) -> Value:
    """Convolution whose padded taps read `pad_value`."""
    return op.Conv(
        pad(op, ref, x),
        weight,
        strides=reference(ref, "strides", "strides"),
        dilations=reference(ref, "dilations", "dilations"),
        group=reference(ref, "group", "group"),
    )


def _multiply(op: Any, x: Value, weight: Value) -> Value:
    return op.MatMul(x, op.Transpose(weight, perm=[1, 0]))


def _integer(op: Any, dot: Value) -> Value:
    return op.Cast(dot, to=INT32)


def per_channel(op: Any, vector: Value) -> Value:
    """[F] as [F, 1, 1], to meet NCHW."""
    return op.Unsqueeze(vector, axes(op, 1, 2))


def affine(op: Any, dot: Value, scale: Value, bias: Value) -> Value:
    return op.Add(op.Mul(dot, scale), bias)


def compare(op: Any, dot: Value, threshold: Value, direction: Value) -> Value:
    """+1 iff (dot >= threshold), negated where direction is -1."""
    upward = op.Greater(op.Cast(direction, to=INT32), constant(op, np.int32(0)))
    # Xor, not Equal: some engines have no Equal of booleans.
    differs = op.Xor(op.GreaterOrEqual(dot, threshold), upward)
    return op.Where(differs, constant(op, np.float32(-1)), constant(op, np.float32(1)))


def binary_conv2d(op: Any, ref: Attributes, x: Value, bits: Value, scale: Value, bias: Value):
    dot = _integer(op, _convolve(op, ref, sign(op, x), _unpack_filters(op, ref, bits)))
    return affine(op, op.Cast(dot, to=FLOAT), per_channel(op, scale), per_channel(op, bias))


def binary_conv2d_threshold(
    op: Any, ref: Attributes, x: Value, bits: Value, threshold: Value, direction: Value
):
    dot = _integer(op, _convolve(op, ref, sign(op, x), _unpack_filters(op, ref, bits)))
    return compare(op, dot, per_channel(op, threshold), per_channel(op, direction))


def binary_weight_conv2d(
    op: Any, ref: Attributes, x: Value, bits: Value, scale: Value, bias: Value
):
    dot = _convolve(op, ref, x, _unpack_filters(op, ref, bits))
    return affine(op, dot, per_channel(op, scale), per_channel(op, bias))


def binary_linear(op: Any, ref: Attributes, x: Value, bits: Value, scale: Value, bias: Value):
    dot = _integer(op, _multiply(op, sign(op, x), _unpack(op, ref, bits, leading=1)))
    return affine(op, op.Cast(dot, to=FLOAT), scale, bias)


def binary_linear_threshold(
    op: Any, ref: Attributes, x: Value, bits: Value, threshold: Value, direction: Value
):
    dot = _integer(op, _multiply(op, sign(op, x), _unpack(op, ref, bits, leading=1)))
    return compare(op, dot, threshold, direction)


def binary_weight_linear(
    op: Any, ref: Attributes, x: Value, bits: Value, scale: Value, bias: Value
):
    return affine(op, _multiply(op, x, _unpack(op, ref, bits, leading=1)), scale, bias)


def binary_max_pool2d(op: Any, ref: Attributes, x: Value, direction: Value):
    factor = per_channel(op, op.Cast(direction, to=FLOAT))
    pooled = op.MaxPool(
        op.Mul(sign(op, x), factor),
        kernel_shape=reference(ref, "kernel_shape", "kernel_shape"),
        strides=reference(ref, "strides", "strides"),
        pads=reference(ref, "pads", "pads"),
    )
    return op.Mul(pooled, factor)


def latent_binary_conv2d(
    op: Any, ref: Attributes, x: Value, weight: Value, scale: Value, bias: Value
):
    dot = _integer(op, _convolve(op, ref, sign(op, x), sign(op, weight)))
    return affine(op, op.Cast(dot, to=FLOAT), per_channel(op, scale), per_channel(op, bias))


def latent_binary_weight_conv2d(
    op: Any, ref: Attributes, x: Value, weight: Value, scale: Value, bias: Value
):
    dot = _convolve(op, ref, x, sign(op, weight))
    return affine(op, dot, per_channel(op, scale), per_channel(op, bias))


def latent_binary_linear(
    op: Any, ref: Attributes, x: Value, weight: Value, scale: Value, bias: Value
):
    dot = _integer(op, _multiply(op, sign(op, x), sign(op, weight)))
    return affine(op, op.Cast(dot, to=FLOAT), scale, bias)


def latent_binary_weight_linear(
    op: Any, ref: Attributes, x: Value, weight: Value, scale: Value, bias: Value
):
    return affine(op, _multiply(op, x, sign(op, weight)), scale, bias)


def binary_sign(op: Any, ref: Attributes, x: Value):
    return sign(op, x)
