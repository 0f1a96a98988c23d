"""The layers that kernels of ours compute: all of the dialect, and the float ones beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindeploy import bits
from bindeploy.emit.tvm import outputs, products
from bindeploy.emit.tvm.convolution import Layer, Tile, convolution
from bindeploy.emit.tvm.values import Recipe, Values, array_of, shape_of

Attributes = Mapping[str, Any]
Lowering = Callable[[Values, Sequence[Any], Attributes], Any]


def _window(attributes: Attributes) -> dict[str, tuple[int, int]]:
    return {
        "strides": tuple(attributes.get("strides", (1, 1))),
        "dilations": tuple(attributes.get("dilations", (1, 1))),
    }


def _run(
    values: Values,
    name: str,
    x: Any,
    weight: NDArray,
    layer: Layer,
    product: Any,
    output: Any,
    residual: Any = None,
) -> Any:
    """[1, OH, OW, ...]: `x` is padded NHWC, `weight` [F, KH, KW, D]."""
    tile = Tile.of(layer, values.processor)
    function = convolution(name, tile, product, output, values.processor)
    vectors = list(output.vectors(tile).values())
    inputs = [x, product.laid_out(weight, tile), *vectors]
    inputs += [] if residual is None else [residual]
    return values.call(function, inputs, output.shape(tile), output.dtype)


def binary_convolution(
    values: Values,
    inputs: Sequence[Any],
    attributes: Attributes,
    *,
    threshold: bool = False,
    saturating: bool = False,
) -> Any:
    """BinaryConv2d, BinaryConv2dThreshold, and those whose sums of 8 bits saturate."""
    x, packed, first, second = inputs
    filters = words_of_rows(array_of(packed))
    groups, channels = int(attributes["group"]), int(attributes["channels"])
    pads = tuple(attributes["pads"])
    words = values.padded(values.words(x, groups), pads, 0)
    _, height, width, depth = shape_of(words)
    layer = Layer(
        height,
        width,
        depth // groups,
        len(filters),
        tuple(filters.shape[1:3]),
        groups=groups,
        **_window(attributes),
    )
    count = channels * filters.shape[1] * filters.shape[2]
    correction = None
    if any(pads) and attributes["pad_value"] == 0.0:
        correction = _correction(layer, pads, filters, channels)
    return _binary(
        values,
        x,
        words,
        filters,
        layer,
        count,
        correction,
        channels,
        (first, second),
        threshold,
        saturating,
        None,
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
    x, packed, first, second = inputs
    filters = words_of_rows(array_of(packed))[:, None, None, :]
    words = values.words(x, 1)
    _, height, width, depth = shape_of(words)
    layer = Layer(height, width, depth, len(filters))
    channels = int(attributes["channels"])
    rank = (*shape_of(x)[:-1], len(filters))
    return _binary(
        values,
        x,
        words,
        filters,
        layer,
        channels,
        None,
        channels,
        (first, second),
        threshold,
        saturating,
        rank,
    )


def _binary(
    values: Values,
    x: Any,
    words: Any,
    filters: NDArray,
    layer: Layer,
    count: int,
    correction: outputs.Correction | None,
    channels: int,
    vectors: tuple[Any, Any],
    threshold: bool,
    saturating: bool,
    rank: Sequence[int] | None,
) -> Any:
    product = products.SaturatingBits(channels) if saturating else products.Bits()
    about: dict[str, Any] = {"count": None if saturating else count, "correction": correction}
    first, second = (array_of(vector) for vector in vectors)
    name = "saturating" if saturating else "binary"
    name += "_dense" if rank else "_convolution"
    if threshold:
        bits_out = outputs.Threshold(threshold=first, direction=second, **about)
        made = _run(values, f"{name}_threshold", words, filters, layer, product, bits_out)
        return values.from_words(made, layer.filters, layer.groups, rank)

    def run(residual: Any, bounds: outputs.Bounds, last_bounds: outputs.Bounds) -> Any:
        affine = outputs.Affine(
            scale=first,
            bias=second,
            bounds=bounds,
            residual=residual is not None,
            last_bounds=last_bounds,
            **about,
        )
        made = _run(values, name, words, filters, layer, product, affine, residual)
        return values.from_last(made, rank)

    return values.follow(Recipe(run))


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
    x, packed, scale, bias = (inputs[0], *map(array_of, inputs[1:]))
    negative = bits.unpack(packed, int(attributes["channels"])) < 0
    return _floats(values, x, negative, products.Signs(), scale, bias, attributes)


def weight_linear(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """BinaryWeightLinear."""
    x, packed, scale, bias = (inputs[0], *map(array_of, inputs[1:]))
    negative = (bits.unpack(packed, int(attributes["channels"])) < 0)[:, None, None, :]
    return _floats(values, x, negative, products.Signs(), scale, bias, None)


def _floats(
    values: Values,
    x: Any,
    weight: NDArray,
    product: Any,
    scale: NDArray,
    bias: NDArray,
    attributes: Attributes | None,
) -> Any:
    """A convolution of numbers with `weight` [F, KH, KW, C / groups]; a dense layer without
    `attributes`."""
    last, groups, window, rank = values.channels_last(x), 1, {}, None
    if attributes is None:
        rank = (*shape_of(x)[:-1], len(weight))
    else:
        groups, window = int(attributes.get("group", 1)), _window(attributes)
        last = values.padded(last, attributes["pads"], attributes.get("pad_value", 0.0))
    _, height, width, channels = shape_of(last)
    layer = Layer(
        height,
        width,
        channels // groups,
        len(weight),
        tuple(weight.shape[1:3]),
        groups=groups,
        **window,
    )

    def run(residual: Any, bounds: outputs.Bounds, last_bounds: outputs.Bounds) -> Any:
        affine = outputs.Affine(
            scale=scale,
            bias=bias,
            bounds=bounds,
            residual=residual is not None,
            last_bounds=last_bounds,
        )
        name = type(product).__name__.lower() + ("_dense" if rank else "_convolution")
        made = _run(values, name, last, weight, layer, product, affine, residual)
        return values.from_last(made, rank)

    return values.follow(Recipe(run))


def convolution_of_floats(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Conv of a picture with constant weights; None for what TVM is to do itself."""
    weight, bias = array_of(inputs[1]), array_of(inputs[2]) if len(inputs) > 2 else None
    if weight is None or weight.ndim != 4 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    about = {"pads": (0, 0, 0, 0), **attributes}
    ones = np.ones(len(weight), np.float32)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    kernel = weight.transpose(0, 2, 3, 1)
    return _floats(values, inputs[0], kernel, products.Floats(), ones, bias, about)


def gemm(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """Gemm of [1, features] with constant weights."""
    weight, bias = array_of(inputs[1]), array_of(inputs[2]) if len(inputs) > 2 else None
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    if weight is None or not plain or attributes.get("transA", 0):
        return None
    weight = weight if attributes.get("transB", 0) else weight.T
    if bias is None:
        bias = np.zeros(1, np.float32)
    return _dense(values, inputs[0], weight, np.broadcast_to(bias.reshape(-1), len(weight)))


def matmul(values: Values, inputs: Sequence[Any], attributes: Attributes) -> Any:
    """MatMul with a constant matrix on the right."""
    weight = array_of(inputs[1])
    if weight is None or weight.ndim != 2 or shape_of(inputs[0])[0] != 1:
        return None
    return _dense(values, inputs[0], weight.T, np.zeros(weight.shape[1], np.float32))


def _dense(values: Values, x: Any, weight: NDArray, bias: NDArray) -> Any:
    ones = np.ones(len(weight), np.float32)
    kernel = weight[:, None, None, :]
    return _floats(values, x, kernel, products.Floats(), ones, bias, None)


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
    "Conv": convolution_of_floats,
    "Gemm": gemm,
    "MatMul": matmul,
}
"""Who lowers an op; where it returns None, TVM's own converter does."""
