"""Convolutions and dense layers, float and binary, as convolutions of the plan.

A dense layer over [C, H, W] is a convolution as large as its input: ONNX lists its weights by
(c, h, w), the runtime reads them by (h, w, c).
"""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy import bits
from bindeploy.emit.plan_builder import Builder, View, name_of, operand, refusal
from bindeploy.emit.plan_layout import Layout, Picture
from bindeploy.emit.plan_quantization import input_scale
from bindeploy.emit.plan_window import Window, window

VECTORS: dict[str, dict[str, type]] = {
    "binary_conv": {"scale": np.float32, "bias": np.float32},
    "binary_conv_threshold": {"threshold": np.int32, "direction": np.int8},
    "binary_weight_conv": {"scale": np.float32, "bias": np.float32},
    "saturating_conv": {"scale": np.float32, "bias": np.float32},
    "saturating_conv_threshold": {"threshold": np.int32, "direction": np.int8},
}
"""Inputs 2 and 3 of a binary op, one value a filter."""

EXACT = {"saturating_conv": "binary_conv", "saturating_conv_threshold": "binary_conv_threshold"}
"""What a layer with sums of 8 bits is where they have too few products to saturate."""

MOST_EXACT = 127
"""Products whose sum stays within 8 bits, whatever they are."""


def conv(builder: Builder, node: ir.Node) -> View:
    """Conv with constant weights [F, C/group, KH, KW] or [F, C/group, KW]; an optional bias [F]."""
    x = builder.channels_first(node)
    weights = builder.array(node, 1)
    channels, height, width = x.activation.shape
    if weights.ndim != 1 + len(x.shape):
        raise refusal(node, f"weights {list(weights.shape)} do not fit {channels} channels")
    group = group_of(node, x, len(weights), weights.shape[1])
    seen = window(node, weights.shape[2:], height, width)
    bias = builder.array(node, 2) if operand(node, 2) is not None else np.zeros(len(weights))
    shape = (len(weights), *seen.over(height, width))
    kernel = weights.reshape(*weights.shape[:2], *seen.kernel).transpose(0, 2, 3, 1)
    return _float(builder, node, x, kernel, bias, seen, shape, x.layout, group)


def group_of(node: ir.Node, x: View, filters: int, channels: int) -> int:
    """The number of groups of a convolution, each of `channels` channels."""
    group = node.attributes.get_int("group", 1)
    if group < 1 or channels * group != x.activation.shape[0] or filters % group:
        raise refusal(
            node,
            f"{group} groups of {channels} channels and {filters} filters in all "
            f"do not fit {x.activation.shape[0]} channels",
        )
    return group


def gemm(builder: Builder, node: ir.Node) -> View:
    """Gemm of [N, features] with constant weights, as a dense layer."""
    attributes = node.attributes
    factors = (attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0))
    if attributes.get_int("transA", 0) or factors != (1.0, 1.0):
        raise refusal(node, "the runtime has transA 0, alpha 1 and beta 1")
    weights = builder.array(node, 1)
    weights = weights if attributes.get_int("transB", 0) else weights.T
    bias = builder.array(node, 2) if operand(node, 2) is not None else np.zeros(1)
    return linear(builder, node, weights, bias.reshape(-1))


def linear(builder: Builder, node: ir.Node, weights: NDArray, bias: NDArray) -> View:
    """Dense layer of [N, features], or of every row of a value with more axes, with weights
    [F, features]; bias [F] or [1]."""
    x, one = _rows(builder, node)
    filters = len(weights)
    if weights.shape != (filters, math.prod(one)):
        raise refusal(node, f"weights {list(weights.shape)} do not fit {math.prod(one)} features")
    kernel = x.layout.channels_last(weights, one) if x.flat else weights[:, None, None, :]
    if bias.size not in (1, filters):
        raise refusal(node, f"its bias has {bias.size} values for {filters} features")
    bias = np.broadcast_to(bias, filters)
    layout = Layout.FLAT if x.flat else x.layout
    shape = (filters, *x.activation.shape[1:]) if not x.flat else (filters, 1, 1)
    return _float(builder, node, x, kernel, bias, Window(one[1:]), shape, layout)


def _rows(builder: Builder, node: ir.Node) -> tuple[View, Picture]:
    """What a dense layer reads, and the picture that one of its outputs sees: all of [N, features],
    one pixel of anything else."""
    x = builder.view(node, 0)
    if x.flat:
        return x, x.activation.shape
    x = builder.last_as_channels(node)
    return x, (x.activation.shape[0], 1, 1)


def _float(
    builder: Builder,
    node: ir.Node,
    x: View,
    kernel: NDArray,
    bias: NDArray,
    seen: Window,
    shape: tuple[int, int, int],
    layout: Layout,
    group: int = 1,
) -> View:
    """A float convolution with `kernel` [F, KH, KW, C/group]."""
    name = name_of(node)
    inputs = (
        builder.floats(x, name),
        builder.constant(kernel.astype(np.float32), f"{name}/weights"),
        builder.constant(bias.astype(np.float32), f"{name}/bias"),
    )
    return builder.result(node, "conv", inputs, shape, layout, group=group, **asdict(seen))


def binary_conv2d(builder: Builder, node: ir.Node, op: str) -> View:
    """BinaryConv2d, BinaryConv2dThreshold, BinaryWeightConv2d, and those that saturate: bits
    [F, KH, KW, row bytes]."""
    x = builder.picture(node)
    packed = builder.array(node, 1)
    channels, height, width = x.activation.shape
    group = group_of(node, x, len(packed), node.attributes.get_int("channels", channels))
    if packed.ndim != 4 or not _fits(node, packed, channels // group):
        raise refusal(node, f"bits {list(packed.shape)} do not fit {channels // group} channels")
    seen = window(node, packed.shape[1:3], height, width)
    shape = (len(packed), *seen.over(height, width))
    pad_value = int(node.attributes.get_float("pad_value", 1.0))
    if op == "binary_weight_conv":
        if pad_value and any(seen.pads):
            raise refusal(node, "pad_value 1 beside float activations is not supported; use 0")
        pad_value = 0
    op = _exact(op, math.prod(seen.kernel) * (channels // group))
    return _binary(
        builder, node, op, x, packed, seen, shape, Layout.CHW, group=group, pad_value=pad_value
    )


def binary_linear(builder: Builder, node: ir.Node, op: str) -> View:
    """BinaryLinear, BinaryLinearThreshold, BinaryWeightLinear, and those that saturate: bits
    [F, row bytes]."""
    x, one = _rows(builder, node)
    packed = builder.array(node, 1)
    features = math.prod(one)
    op = _exact(op, features)
    if op in EXACT and x.flat:  # words of 32 features as ONNX lists them, whatever their pixels
        x = builder.turned(x, node)
        one = x.activation.shape
    if packed.ndim != 2 or not _fits(node, packed, features):
        raise refusal(node, f"bits {list(packed.shape)} do not fit {features} features")
    if math.prod(one[1:]) > 1:
        rows = bits.unpack(packed, features)
        kernel = bits.pack(x.layout.channels_last(rows, one))
    else:
        kernel = packed[:, None, None, :]
    shape = (len(packed), 1, 1) if x.flat else (len(packed), *x.activation.shape[1:])
    layout = Layout.FLAT if x.flat else x.layout
    return _binary(builder, node, op, x, kernel, Window(one[1:]), shape, layout, group=1)


def _exact(op: str, products: int) -> str:
    return EXACT.get(op, op) if products <= MOST_EXACT else op


def _fits(node: ir.Node, packed: NDArray, count: int) -> bool:
    """Whether the last axis of `packed` holds rows of `count` bits, as the node says too."""
    stated = node.attributes.get_int("channels", count)
    return stated == count and packed.shape[-1] == bits.row_bytes(count)


def _binary(
    builder: Builder,
    node: ir.Node,
    op: str,
    x: View,
    kernel: NDArray,
    seen: Window,
    shape: tuple[int, int, int],
    layout: Layout,
    **settings: int,
) -> View:
    """Plan op `op` with packed `kernel` [F, KH, KW, row bytes]."""
    name = name_of(node)
    read = builder.floats if op == "binary_weight_conv" else builder.signs
    vectors: dict[str, NDArray] = {}
    for index, (label, dtype) in enumerate(VECTORS[op].items(), 2):
        vector = builder.array(node, index)
        if vector.shape != (len(kernel),):
            raise refusal(node, f"{label} {list(vector.shape)} does not fit {len(kernel)} filters")
        vectors[label] = vector.astype(dtype)
    inputs = [read(x, name), builder.constant(kernel, f"{name}/bits")]
    step = input_scale(builder, node) if op == "binary_weight_conv" else None
    if step is not None:
        op = "binary_weight_int8_conv"
        inputs.append(builder.constant(step, f"{name}/input_scale"))
        vectors["scale"] = vectors["scale"] * step
    inputs += [builder.constant(vector, f"{name}/{label}") for label, vector in vectors.items()]
    return builder.result(node, op, tuple(inputs), shape, layout, **settings, **asdict(seen))
