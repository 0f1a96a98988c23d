"""The ops of the dialect whose sums have 8 bits: they saturate after every word of 32 channels.

    sum = 0; for each tap (kernel row, kernel column), for each word of 32 channels of its group:
        sum = min(max(sum + dot(word), -128), 127)
    y = scale * sum + bias, or +1 iff sum >= threshold, negated where direction is -1

The last word of a tap has the channels that are left; a padded tap reads `pad_value`, and 0 adds
nothing. In a function body all words stand side by side, filled up with zeros on the input's side,
and Scan adds their products, which are exact in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy import bits as packed
from bindeploy.convert import dialect_functions as functions
from bindeploy.convert import dialect_reference as reference
from bindeploy.convert.dialect_functions import Attributes, Value

Array = NDArray


def conv2d(x: Array, bits: Array, scale: Array, bias: Array, **geometry: Any) -> Array:
    dot = reference.convolution_integers(x, bits, saturates=True, **geometry)
    return reference.affine(dot, scale[:, None, None], bias[:, None, None])


def conv2d_threshold(
    x: Array, bits: Array, threshold: Array, direction: Array, **geometry: Any
) -> Array:
    dot = reference.convolution_integers(x, bits, saturates=True, **geometry)
    return reference.compare(dot, threshold[:, None, None], direction[:, None, None])


def linear(x: Array, bits: Array, scale: Array, bias: Array, channels: int) -> Array:
    dot = reference.linear_integers(x, bits, channels=channels, saturates=True)
    return reference.affine(dot, scale, bias)


def linear_threshold(
    x: Array, bits: Array, threshold: Array, direction: Array, channels: int
) -> Array:
    dot = reference.linear_integers(x, bits, channels=channels, saturates=True)
    return reference.compare(dot, threshold, direction)


def latent_conv2d(x: Array, weight: Array, scale: Array, bias: Array, **geometry: Any) -> Array:
    bits = reference.pack_filters(weight)
    return conv2d(x, bits, scale, bias, channels=weight.shape[1], **geometry)


def latent_linear(x: Array, weight: Array, scale: Array, bias: Array) -> Array:
    return linear(x, reference.pack_filters(weight), scale, bias, channels=weight.shape[1])


def _joined(op: Any, *parts: Value) -> Value:
    """A shape of its parts."""
    return op.Concat(*parts, axis=0)


def _filled(op: Any, values: Value, axis: int) -> Value:
    """`values` with zeros behind them, up to whole words along `axis`."""
    size = op.Gather(op.Shape(values), functions.axes(op, axis))
    missing = op.Mod(op.Neg(size), functions.axes(op, packed.WORD))
    pads = _joined(op, functions.axes(op, 0), missing)
    zero = functions.constant(op, np.float32(0))
    return op.Pad(values, pads, zero, functions.axes(op, axis))


def _packed_words(op: Any, bits: Value, leading: int) -> Value:
    """[F, words, 32] of packed filters with `leading` axes before the row; pad bits are +1."""
    signs = functions.signs_of(op, functions.single_bits(op, bits, leading))
    return op.Reshape(signs, functions.axes(op, 0, -1, packed.WORD))


def _latent_words(op: Any, weight: Value) -> Value:
    """The same of a latent weight [F, ..., C]."""
    signs = _filled(op, functions.sign(op, weight), -1)
    return op.Reshape(signs, functions.axes(op, 0, -1, packed.WORD))


def _add(op: Any, left: Value, right: Value, shape: Value) -> Value:
    """int32 of `shape`: word by word the product left[k] @ right[k] is added, then saturates."""
    lowest, highest = (
        functions.constant(op, np.float32(end)) for end in (reference.LOWEST, reference.HIGHEST)
    )
    zeros = op.ConstantOfShape(shape, value=ir.tensor(np.zeros(1, np.float32)))
    kind = ir.TensorType(functions.FLOAT)
    body = op.builder.subgraph(
        lambda inner, total, a, b: inner.Clip(
            inner.Add(total, inner.MatMul(a, b)), lowest, highest
        ),
        [ir.Value(name=name, type=kind) for name in ("total", "left", "right")],
        [ir.Value(name="sum", type=kind)],
    )
    return op.Cast(op.Scan(zeros, left, right, body=body, num_scan_inputs=2), to=functions.INT32)


def _places(op: Any, ref: Attributes, kernel: Value, size: Value, axis: int) -> Value:
    """[K, O]: which row, or column, of the padded picture each tap of each window reads."""
    index = functions.constant(op, np.int64(axis))
    stride, dilation = (
        op.Gather(op.Constant(value_ints=functions.reference(ref, name, "value_ints")), index)
        for name in ("strides", "dilations")
    )
    zero, one = (functions.constant(op, np.int64(number)) for number in (0, 1))
    taps = op.Range(zero, op.Gather(kernel, index), one)
    last = op.Mul(op.Sub(op.Gather(kernel, index), one), dilation)
    begins = op.Range(zero, op.Sub(op.Gather(size, index), last), stride)
    return op.Add(op.Unsqueeze(op.Mul(taps, dilation), functions.axes(op, 1)), begins)


def _convolve(op: Any, ref: Attributes, x: Value, words: Value, kernel: Value) -> Value:
    """int32 [N, F, H', W'] of words [F, taps * words, 32] and the shape `kernel` [KH, KW]."""
    every, rest = functions.axes(op, 0), functions.axes(op, -1)
    groups = op.Constant(value_int=functions.reference(ref, "group", "value_int"))
    group = op.Unsqueeze(groups, every)
    padded = functions.pad(op, ref, functions.sign(op, x))
    size = op.Shape(padded, start=2)
    grouped = op.Reshape(padded, _joined(op, every, group, rest, size))
    filled = _filled(op, grouped, 2)
    rows = op.Gather(filled, _places(op, ref, kernel, size, 0), axis=3)
    seen = op.Gather(rows, _places(op, ref, kernel, size, 1), axis=5)
    by_word = op.Reshape(
        seen, _joined(op, functions.axes(op, 0, 0, -1, packed.WORD), op.Shape(seen, start=3))
    )
    first = op.Transpose(
        by_word, perm=[4, 6, 2, 0, 1, 3, 5, 7]
    )  # [KH, KW, words, N, G, 32, H', W']
    ends = op.Shape(first, start=3, end=6)
    picture = op.Shape(first, start=6)
    pixels = op.ReduceProd(picture, keepdims=1)
    right = op.Reshape(first, _joined(op, rest, ends, pixels))
    by_filter = op.Transpose(words, perm=[1, 0, 2])
    left = op.Reshape(by_filter, _joined(op, every, group, functions.axes(op, -1, packed.WORD)))
    filters = op.Shape(left, start=2, end=3)
    total = _add(op, left, right, _joined(op, op.Shape(first, start=3, end=5), filters, pixels))
    return op.Reshape(total, _joined(op, every, op.Mul(group, filters), picture))


def _multiply(op: Any, x: Value, words: Value) -> Value:
    """int32 [..., F] of x [..., C] and words [F, words, 32]."""
    signs = _filled(op, functions.sign(op, x), -1)
    rest = functions.axes(op, -1)
    rows = op.Reshape(signs, _joined(op, rest, op.Shape(words, start=1)))
    left, right = op.Transpose(rows, perm=[1, 0, 2]), op.Transpose(words, perm=[1, 2, 0])
    shape = _joined(op, op.Shape(left, start=1, end=2), op.Shape(right, start=2))
    total = _add(op, left, right, shape)
    return op.Reshape(total, _joined(op, op.Shape(x, end=-1), op.Shape(right, start=2)))


def _affine_pictures(op: Any, dot: Value, scale: Value, bias: Value) -> Value:
    factors, terms = functions.per_channel(op, scale), functions.per_channel(op, bias)
    return functions.affine(op, op.Cast(dot, to=functions.FLOAT), factors, terms)


def _packed_pictures(op: Any, ref: Attributes, x: Value, bits: Value) -> Value:
    words = _packed_words(op, bits, leading=3)
    return _convolve(op, ref, x, words, op.Shape(bits, start=1, end=3))


def conv2d_body(
    op: Any, ref: Attributes, x: Value, bits: Value, scale: Value, bias: Value
) -> Value:
    return _affine_pictures(op, _packed_pictures(op, ref, x, bits), scale, bias)


def conv2d_threshold_body(
    op: Any, ref: Attributes, x: Value, bits: Value, threshold: Value, direction: Value
) -> Value:
    dot = _packed_pictures(op, ref, x, bits)
    limits, directions = (functions.per_channel(op, each) for each in (threshold, direction))
    return functions.compare(op, dot, limits, directions)


def linear_body(
    op: Any, ref: Attributes, x: Value, bits: Value, scale: Value, bias: Value
) -> Value:
    dot = _multiply(op, x, _packed_words(op, bits, leading=1))
    return functions.affine(op, op.Cast(dot, to=functions.FLOAT), scale, bias)


def linear_threshold_body(
    op: Any, ref: Attributes, x: Value, bits: Value, threshold: Value, direction: Value
) -> Value:
    dot = _multiply(op, x, _packed_words(op, bits, leading=1))
    return functions.compare(op, dot, threshold, direction)


def latent_conv2d_body(
    op: Any, ref: Attributes, x: Value, weight: Value, scale: Value, bias: Value
) -> Value:
    words = _latent_words(op, op.Transpose(weight, perm=[0, 2, 3, 1]))
    dot = _convolve(op, ref, x, words, op.Shape(weight, start=2))
    return _affine_pictures(op, dot, scale, bias)


def latent_linear_body(
    op: Any, ref: Attributes, x: Value, weight: Value, scale: Value, bias: Value
) -> Value:
    dot = _multiply(op, x, _latent_words(op, weight))
    return functions.affine(op, op.Cast(dot, to=functions.FLOAT), scale, bias)
