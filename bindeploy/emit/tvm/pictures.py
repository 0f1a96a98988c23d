"""What is no layer: pools, functions of one number, moves; kept NHWC or packed if they can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax, topi

from bindeploy.emit.tvm import pools
from bindeploy.emit.tvm.layers import Attributes, Lowering
from bindeploy.emit.tvm.processor import WORD
from bindeploy.emit.tvm.values import TO_LAST, Values, array_of, constant, shape_of

ELEMENTWISE = {
    *("Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Pow", "Relu"),
    *("DequantizeLinear", "QuantizeLinear"),
    *("Round", "Sigmoid", "Sqrt", "Sub", "Tanh", "Where", "Greater", "GreaterOrEqual", "Less"),
}
"""Ops of each number by itself, broadcast: TVM's converters serve NHWC as well as NCHW."""


def elementwise(
    values: Values, inputs: Sequence[Any], convert: Callable[[Sequence[Any]], Any]
) -> Any:
    """`convert` of the NHWC forms, where a picture among the inputs has one; else None."""
    tensors = [x for x in inputs if isinstance(x, tvm.ir.Var)]
    if not any(values.forms(x).last is not None and len(shape_of(x)) == 4 for x in tensors):
        return None
    if any(len(shape_of(x)) != 4 for x in tensors):
        return None
    given = type(inputs)(  # TVM's own list, which has None behind its end
        values.channels_last(x) if isinstance(x, tvm.ir.Var) else _turned(x)
        for x in inputs  # type: ignore[call-arg]
    )
    return values.from_last(values.emit(convert(given)))


def _turned(x: Any) -> Any:
    """A constant that meets NHWC as it met NCHW."""
    array = array_of(x) if x is not None else None
    if array is None or array.size == 1:
        return x
    return constant(array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_LAST))


def relu(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    return _bounded(values, inputs[0], (0.0, None))


def clip(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    bounds: list[float | None] = []
    for x in list(inputs)[1:3]:
        array = array_of(x) if x is not None else None
        if x is not None and (array is None or not np.isfinite(array).all()):
            return None
        bounds.append(None if array is None else float(array))
    bounds += [None] * (2 - len(bounds))
    return _bounded(values, inputs[0], (bounds[0], bounds[1]))


def _bounded(values: Values, x: Any, bounds: tuple[float | None, float | None]) -> Any:
    """The layer that made `x` with bounds, where nobody else reads it."""
    recipe = values.recipe(x)
    bounded = recipe.with_bounds(bounds) if recipe else None
    return values.follow(bounded) if bounded else None


def add(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """A sum as the residual of the layer that made one of its terms, if nobody else reads that."""
    for x, other in (inputs, inputs[::-1]):
        both = isinstance(x, tvm.ir.Var) and isinstance(other, tvm.ir.Var) and x is not other
        if not both or shape_of(x) != shape_of(other):
            continue
        recipe = values.recipe(x)
        joined = recipe.with_residual(values.channels_last(other)) if recipe else None
        if joined:
            return values.follow(joined)
    return None


def prelu(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """max(x, 0) + slope * min(x, 0)."""
    x, slope = inputs
    if values.forms(x).last is None or array_of(slope) is None or len(shape_of(x)) != 4:
        return None
    last, zero = values.channels_last(x), relax.const(np.float32(0))
    below = relax.op.multiply(relax.op.minimum(last, zero), _turned(slope))
    return values.from_last(values.emit(relax.op.add(relax.op.maximum(last, zero), below)))


def batch_normalization(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """x * slope + offset, a slope and an offset a channel."""
    arrays = [array_of(x) for x in list(inputs)[1:5]]
    if any(array is None for array in arrays) or len(shape_of(inputs[0])) != 4:
        return None
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    slope = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    offset = (bias - mean * slope).astype(np.float32)
    last = values.channels_last(inputs[0])
    scaled = relax.op.multiply(last, constant(slope.astype(np.float32)))
    return values.from_last(values.emit(relax.op.add(scaled, constant(offset))))


def sign(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """BinarySign."""
    shape = shape_of(inputs[0])
    picture = len(shape) == 4 and shape[0] == 1
    x = inputs[0] if picture else values.rows(inputs[0])
    rank = None if picture else shape
    return values.from_words(values.words(x, 1), values.picture(x)[2], 1, rank)


def _window(values: Values, x: Any, attributes: Attributes) -> pools.Window | None:
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or attributes.get("ceil_mode", 0):
        return None
    if len(shape_of(x)) != 4 or attributes.get("storage_order", 0):
        return None
    height, width, _ = values.picture(x)
    return pools.Window.of(
        height,
        width,
        attributes["kernel_shape"],
        attributes.get("strides", (1, 1)),
        attributes.get("pads", (0, 0, 0, 0)),
        attributes.get("dilations", (1, 1)),
    )


def binary_max_pool(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """BinaryMaxPool2d."""
    return _pool_signs(values, inputs[0], array_of(inputs[1]) < 0, attributes)


def _pool_signs(values: Values, x: Any, falling: Any, attributes: Attributes) -> Any:
    window = _window(values, x, attributes)
    assert window is not None, "the dialect has no other windows"
    words = values.words(x, 1)
    shape = shape_of(words)
    padded = np.pad(falling, (0, -len(falling) % WORD))
    mask = np.packbits(padded, bitorder="little").view("<u4")
    function = pools.binary_max_pool("binary_max_pool", shape, window, values.processor)
    made = values.call(function, [words, mask], (1, *window.out, shape[3]), "uint32")
    return values.from_words(made, len(falling), 1)


def max_pool(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """MaxPool; of a value that was made of signs, on the bits."""
    x = inputs[0]
    window = _window(values, x, attributes)
    if window is None:
        return None
    forms = values.forms(x)
    if 1 in forms.words and forms.signs:
        return _pool_signs(values, x, np.zeros(values.picture(x)[2], bool), attributes)
    last = values.channels_last(x)
    shape = shape_of(last)
    function = pools.max_pool("max_pool", shape, window, values.processor)
    return values.from_last(values.call(function, [last], (1, *window.out, shape[3]), "float32"))


def average_pool(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    window = _window(values, inputs[0], attributes)
    if window is None:
        return None
    counts_pads = bool(attributes.get("count_include_pad", 0))
    return _average(values, inputs[0], window, counts_pads)


def global_average_pool(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    if len(shape_of(inputs[0])) != 4:
        return None
    height, width, _ = values.picture(inputs[0])
    whole = pools.Window.of(height, width, (height, width), (1, 1), (0, 0, 0, 0))
    return _average(values, inputs[0], whole, True)


def _average(values: Values, x: Any, window: pools.Window, counts_pads: bool) -> Any:
    last = values.channels_last(x)
    shape = shape_of(last)
    function = pools.average_pool("average_pool", shape, window, counts_pads, values.processor)
    return values.from_last(values.call(function, [last], (1, *window.out, shape[3]), "float32"))


def concat(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Concat of pictures that exist as NHWC."""
    if not all(_is_last(values, x) for x in inputs):
        return None
    axis = TO_LAST.index(int(attributes["axis"]) % 4)
    return values.from_last(
        values.emit(relax.op.concat([*map(values.channels_last, inputs)], axis))
    )


def _is_last(values: Values, x: Any) -> bool:
    """Whether `x` is a picture that exists as NHWC."""
    return isinstance(x, tvm.ir.Var) and len(shape_of(x)) == 4 and values.forms(x).last is not None


def slice_(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Slice of a picture that exists as NHWC, by constants."""
    x, *given = inputs[:5]
    if not _is_last(values, x) or len(given) < 4:
        return None
    starts, ends, axes, steps = (None if array is None else array_of(array) for array in given)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    turned = [TO_LAST.index(int(axis) % 4) for axis in axes]
    bounds = (array.tolist() for array in (starts, ends, steps))
    return values.from_last(
        values.emit(relax.op.strided_slice(values.channels_last(x), turned, *bounds))
    )


def pad(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Pad of a picture that exists as NHWC, by constants."""
    x, pads, fill, axes = (*inputs, None, None)[:4]
    widths, number = array_of(pads), 0.0 if fill is None else array_of(fill)
    plain = attributes.get("mode", b"constant") == b"constant" and axes is None
    if not plain or not _is_last(values, x) or widths is None or number is None:
        return None
    before, after = widths.reshape(2, 4)[:, TO_LAST].tolist()
    if min(before + after) < 0:
        return None
    pairs = [width for pair in zip(before, after, strict=True) for width in pair]
    padded = relax.op.nn.pad(values.channels_last(x), pairs, pad_value=float(number))
    return values.from_last(values.emit(padded))


def reduce_mean(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """ReduceMean over all pixels of a picture."""
    x, axes = (*inputs, None)[:2]
    over = None if axes is None else array_of(axes)
    if over is None or len(shape_of(x)) != 4 or {int(axis) % 4 for axis in over} != {2, 3}:
        return None
    mean = global_average_pool(values, [x], attributes)
    if attributes.get("keepdims", 1):
        return mean
    return values.from_last(values.channels_last(mean), shape_of(mean)[:2])


def approximated(
    values: Values, inputs: Sequence[Any], attributes: Attributes, *, function: Any
) -> Any:
    """A function of each number by polynomials, 1e-6 from the true one; the C library's is slow."""
    x = values.channels_last(inputs[0]) if _is_last(values, inputs[0]) else inputs[0]
    made = values.block.emit_te(function, x)
    return made if x is inputs[0] else values.from_last(made)


def gelu(x: Any) -> Any:
    """x * Phi(x)."""
    half, root = (tvm.tirx.const(value, "float32") for value in (0.5, math.sqrt(0.5)))
    error = topi.fast_erf(topi.multiply(x, root))
    return topi.multiply(topi.multiply(x, half), topi.add(error, tvm.tirx.const(1, "float32")))


def gelu_of(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    if attributes.get("approximate", b"none") != b"none":
        return None
    return approximated(values, inputs, attributes, function=gelu)


def softmax(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    axis = int(attributes.get("axis", -1))
    return values.block.emit_te(topi.nn.fast_softmax, inputs[0], axis=axis)


def flatten(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Flatten; pixels of one channel after the other are all the same where there is one pixel."""
    x = inputs[0]
    shape = shape_of(x)
    if len(shape) != 4 or attributes.get("axis", 1) != 1 or math.prod(shape[2:]) != 1:
        return None
    forms = values.forms(x)
    value = values.from_last(values.channels_last(x), (1, shape[1]))
    values.forms(value).words |= forms.words
    return value


PICTURES: dict[str, Lowering] = {
    "Add": add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "BinaryMaxPool2d": binary_max_pool,
    "BinarySign": sign,
    "Clip": clip,
    "Concat": concat,
    "Erf": partial(approximated, function=topi.fast_erf),
    "Exp": partial(approximated, function=topi.fast_exp),
    "Flatten": flatten,
    "Gelu": gelu_of,
    "GlobalAveragePool": global_average_pool,
    "MaxPool": max_pool,
    "PRelu": prelu,
    "Pad": pad,
    "ReduceMean": reduce_mean,
    "Relu": relu,
    "Slice": slice_,
    "Softmax": softmax,
    "Tanh": partial(approximated, function=topi.fast_tanh),
}
