"""The layers that kernels of ours compute: all of the dialect, and the float ones beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from bindeploy import bits
from bindeploy.convert.dialect_reference import HIGHEST
from bindeploy.emit.tvm import matrices, outputs, products
from bindeploy.emit.tvm.convolution import Layer, convolution
from bindeploy.emit.tvm.values import Recipe, Values, array_of, shape_of

Attributes = Mapping[str, Any]
Lowering = Callable[[Values, Sequence[Any], Attributes], Any]


def _window(attributes: Attributes) -> dict[str, tuple[int, int]]:
    return {
        "strides": tuple(attributes.get("strides", (1, 1))),
        "dilations": tuple(attributes.get("dilations", (1, 1))),
    }


def _layer(
    values: Values,
    x: Any,
    weight: NDArray,
    layer: Layer,
    product: Any,
    vectors: Sequence[NDArray],
    *,
    threshold: bool = False,
    rank: Sequence[int] | None = None,
    **about: Any,
) -> Any:
    """What a layer gives: `x` is padded NHWC, `weight` [F, KH, KW, D].

    `vectors` are scale and bias, or threshold and direction; `rank` is the shape of a dense layer's
    result; `about` goes to the output.
    """
    tile, processor = product.tile(layer, values.processor)
    laid_out = product.laid_out(weight, tile)
    name = f"{product.name}_{'dense' if rank else 'convolution'}"

    def run(name: str, output: Any, *more: Any) -> Any:
        function = convolution(name, tile, product, output, processor)
        inputs = [x, laid_out, *output.vectors(tile).values(), *more]
        return values.call(function, inputs, output.shape(tile), output.dtype)

    first, second = vectors
    if threshold:
        signs = outputs.Threshold(threshold=first, direction=second, **about)
        made = run(f"{name}_threshold", signs)
        return values.from_words(made, layer.filters, layer.groups, rank)

    def affine(residual: Any, bounds: outputs.Bounds, last_bounds: outputs.Bounds) -> Any:
        more = [] if residual is None else [residual]
        output = outputs.Affine(
            scale=first,
            bias=second,
            bounds=bounds,
            residual=bool(more),
            last_bounds=last_bounds,
            **about,
        )
        return values.from_last(run(name, output, *more), rank)

    return values.follow(Recipe(affine))


def binary_convolution(
    values: Values,
    inputs: Sequence[Any],
    attributes: Attributes,
    *,
    threshold: bool = False,
    saturating: bool = False,
) -> Any:
    """BinaryConv2d, BinaryConv2dThreshold, and those whose sums of 8 bits saturate."""
    x, (packed, *vectors) = inputs[0], map(array_of, inputs[1:4])
    filters = words_of_rows(packed)
    groups, channels = int(attributes["group"]), int(attributes["channels"])
    pads, window = tuple(attributes["pads"]), _window(attributes)
    count = channels * filters.shape[1] * filters.shape[2]
    saturates = saturating and count > HIGHEST
    depthwise = groups == len(filters) > 1 and channels == 1 and not saturates
    if depthwise:
        groups = 1
    words = values.padded(values.words(x, groups), pads, 0)
    _, height, width, depth = shape_of(words)
    depth = 1 if depthwise else depth // groups
    layer = Layer(height, width, depth, len(filters), filters.shape[1:3], **window, groups=groups)
    holes = any(pads) and attributes["pad_value"] == 0.0
    correction = _correction(layer, pads, filters, channels) if holes and not saturates else None
    product: Any = products.Bits()
    if saturates:
        product = products.SaturatingBits(channels, pads if holes else None)
    elif depthwise:
        product = products.DepthwiseBits()
    return _layer(
        values,
        words,
        filters,
        layer,
        product,
        vectors,
        threshold=threshold,
        count=None if saturates else count,
        correction=correction,
    )


def binary_linear(
    values: Values,
    inputs: Sequence[Any],
    attributes: Attributes,
    *,
    threshold: bool = False,
    saturating: bool = False,
) -> Any:
    """BinaryLinear, BinaryLinearThreshold, and those whose sums of 8 bits saturate."""
    (packed, *vectors), channels = map(array_of, inputs[1:4]), int(attributes["channels"])
    x, filters = values.rows(inputs[0]), words_of_rows(packed)[:, None, None, :]
    words = values.words(x, 1)
    _, height, width, depth = shape_of(words)
    saturates = saturating and channels > HIGHEST
    return _layer(
        values,
        words,
        filters,
        Layer(height, width, depth, len(filters)),
        products.SaturatingBits(channels) if saturates else products.Bits(),
        vectors,
        threshold=threshold,
        rank=(*shape_of(inputs[0])[:-1], len(filters)),
        count=None if saturates else channels,
    )


def words_of_rows(packed: NDArray) -> NDArray[np.uint32]:
    """uint8 [..., 4 * words] as uint32 [..., words]."""
    return np.ascontiguousarray(packed).view("<u4")


def _correction(
    layer: Layer, pads: tuple[int, ...], filters: NDArray, channels: int
) -> outputs.Correction:
    """What padded taps, read as +1, add: the sum of their weights, by which taps are padded."""
    weights = bits.unpack(filters.view(np.uint8), channels).sum(axis=-1, dtype=np.int32)
    rows, down = _classes(layer, 0, pads[0], layer.height - pads[2])
    columns, across = _classes(layer, 1, pads[1], layer.width - pads[3])
    inside = down[:, None, :, None] & across[None, :, None, :]
    amount = np.einsum("rcij,fij->rcf", (~inside).astype(np.int32), weights)
    return outputs.Correction(amount.astype(np.int32), rows, columns)


def _classes(layer: Layer, axis: int, first: int, end: int) -> tuple[NDArray, NDArray]:
    """For each output row (or column) its class, and for each class which taps are inside."""
    starts = np.arange(layer.out[axis]) * layer.strides[axis]
    taps = starts[:, None] + np.arange(layer.kernel[axis]) * layer.dilations[axis]
    classes, number = np.unique((taps >= first) & (taps < end), axis=0, return_inverse=True)
    return number.reshape(-1).astype(np.int32), classes


def weight_convolution(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """BinaryWeightConv2d: float activations, weights of one bit that stay so."""
    packed, *vectors = map(array_of, inputs[1:4])
    negative = bits.unpack(packed, int(attributes["channels"])) < 0
    last = values.channels_last(inputs[0])
    return _convolution(values, last, negative, products.Signs(), vectors, attributes)


def weight_linear(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """BinaryWeightLinear."""
    packed, *vectors = map(array_of, inputs[1:4])
    negative = bits.unpack(packed, int(attributes["channels"])) < 0
    last, leading = values.channels_last(values.rows(inputs[0])), shape_of(inputs[0])[:-1]
    return _dense(values, last, leading, negative, products.Signs(), vectors)


def int8_convolution(
    values: Values, inputs: Sequence[Any], attributes: Attributes, *, threshold: bool = False
) -> Any:
    """Int8Conv2d, Int8Conv2dThreshold."""
    weight, step, *vectors = map(array_of, inputs[1:5])
    last = values.quantized(values.channels_last(inputs[0]), float(step))
    kernel = weight.transpose(0, 2, 3, 1)
    return _convolution(values, last, kernel, products.Bytes(), vectors, attributes, threshold)


def int8_linear(
    values: Values, inputs: Sequence[Any], attributes: Attributes, *, threshold: bool = False
) -> Any:
    """Int8Linear, Int8LinearThreshold."""
    weight, step, *vectors = map(array_of, inputs[1:5])
    last, leading = values.channels_last(values.rows(inputs[0])), shape_of(inputs[0])[:-1]
    last = values.quantized(last, float(step))
    return _dense(values, last, leading, weight, products.Bytes(), vectors, threshold)


def _convolution(
    values: Values,
    last: Any,
    weight: NDArray,
    product: Any,
    vectors: Sequence[NDArray],
    attributes: Attributes,
    threshold: bool = False,
) -> Any:
    """Of numbers [1, H, W, C], with `weight` [F, KH, KW, C / groups]."""
    fill = attributes.get("pad_value", 0.0)
    last = values.padded(last, attributes["pads"], fill)
    groups = int(attributes.get("group", 1))
    _, height, width, channels = shape_of(last)
    depth = channels // groups
    if groups == len(weight) > 1 and depth == 1 and product.sum_dtype == "float32":
        if weight.dtype == bool:  # one bit a channel and tap: numbers are as good
            weight = np.where(weight, np.float32(-1), np.float32(1))
        groups, product = 1, products.DepthwiseFloats()
    layer = Layer(
        height, width, depth, len(weight), weight.shape[1:3], **_window(attributes), groups=groups
    )
    return _layer(values, last, weight, layer, product, vectors, threshold=threshold)


def _dense(
    values: Values,
    last: Any,
    leading: Sequence[int],
    weight: NDArray,
    product: Any,
    vectors: Sequence[NDArray],
    threshold: bool = False,
) -> Any:
    """Of numbers [1, 1, rows, C], with `weight` [F, C]: [*leading, F]."""
    _, height, width, depth = shape_of(last)
    layer, kernel = Layer(height, width, depth, len(weight)), weight[:, None, None, :]
    rank = (*leading, len(weight))
    return _layer(values, last, kernel, layer, product, vectors, threshold=threshold, rank=rank)


def convolution_of_floats(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Conv of a picture with constant weights; None for what TVM is to do itself."""
    weight, bias = array_of(inputs[1]), array_of(inputs[2]) if len(inputs) > 2 else None
    if weight is None or weight.ndim != 4 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    about = {"pads": (0, 0, 0, 0), **attributes}
    vectors = _affine(len(weight), bias)
    kernel = weight.transpose(0, 2, 3, 1)
    last = values.channels_last(inputs[0])
    return _convolution(values, last, kernel, products.Floats(), vectors, about)


def _affine(filters: int, bias: NDArray | None) -> tuple[NDArray, NDArray]:
    """Scale and bias of a layer that has at most a bias."""
    bias = np.zeros(1, np.float32) if bias is None else bias.reshape(-1)
    return np.ones(filters, np.float32), np.broadcast_to(bias, filters)


def gemm(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Gemm of [1, features] with constant weights."""
    weight, bias = array_of(inputs[1]), array_of(inputs[2]) if len(inputs) > 2 else None
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    if weight is None or not plain or attributes.get("transA", 0):
        return None
    weight = weight if attributes.get("transB", 0) else weight.T
    return _dense_of_floats(values, inputs[0], weight, bias)


def matmul(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """MatMul with a constant matrix on the right, or of two batches of matrices."""
    weight = array_of(inputs[1])
    if weight is None:
        return _matrices(values, *inputs)
    if weight.ndim != 2 or len(shape_of(inputs[0])) < 2:
        return None
    return _dense_of_floats(values, inputs[0], weight.T, None)


def _matrices(values: Values, x: Any, y: Any) -> Any:
    left, right = shape_of(x), shape_of(y)
    if values.processor.gpu or len(left) < 3 or left[:-2] != right[:-2]:
        return None
    batch, rows, depth, columns = math.prod(left[:-2]), *left[-2:], right[-1]
    function = matrices.product("matrices", batch, rows, depth, columns, values.processor)
    flat = [
        values.emit(relax.op.reshape(tensor, (batch, *shape[-2:])))
        for tensor, shape in ((x, left), (y, right))
    ]
    made = values.call(function, flat, (batch, rows, columns), "float32")
    return values.emit(relax.op.reshape(made, (*left[:-1], columns)))


def _dense_of_floats(values: Values, x: Any, weight: NDArray, bias: NDArray | None) -> Any:
    last, leading = values.channels_last(values.rows(x)), shape_of(x)[:-1]
    vectors = _affine(len(weight), bias)
    return _dense(values, last, leading, weight, products.Floats(), vectors)


LAYERS: dict[str, Lowering] = {
    "BinaryConv2d": binary_convolution,
    "BinaryConv2dThreshold": partial(binary_convolution, threshold=True),
    "SaturatingBinaryConv2d": partial(binary_convolution, saturating=True),
    "SaturatingBinaryConv2dThreshold": partial(binary_convolution, threshold=True, saturating=True),
    "BinaryLinear": binary_linear,
    "BinaryLinearThreshold": partial(binary_linear, threshold=True),
    "SaturatingBinaryLinear": partial(binary_linear, saturating=True),
    "SaturatingBinaryLinearThreshold": partial(binary_linear, threshold=True, saturating=True),
    "BinaryWeightConv2d": weight_convolution,
    "BinaryWeightLinear": weight_linear,
    "Int8Conv2d": int8_convolution,
    "Int8Conv2dThreshold": partial(int8_convolution, threshold=True),
    "Int8Linear": int8_linear,
    "Int8LinearThreshold": partial(int8_linear, threshold=True),
    "Conv": convolution_of_floats,
    "Gemm": gemm,
    "MatMul": matmul,
}
"""Who lowers an op; where it returns None, TVM's own converter does."""
