"""What is no layer: pools, functions of one number, moves; kept NHWC or packed if they can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bindeploy.emit.tvm import pools
from bindeploy.emit.tvm.layers import Attributes, Lowering
from bindeploy.emit.tvm.processor import WORD
from bindeploy.emit.tvm.values import TO_LAST, Values, array_of, constant, shape_of

ELEMENTWISE = {
    *("Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Pow", "Relu"),
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
    (x,) = inputs
    shape = shape_of(x)
    rank = None if len(shape) == 4 else shape
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
    function = pools.binary_max_pool("binary_max_pool", shape, window)
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
    "Flatten": flatten,
    "GlobalAveragePool": global_average_pool,
    "MaxPool": max_pool,
    "PRelu": prelu,
    "Relu": relu,
}
