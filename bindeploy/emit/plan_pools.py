"""Pools: over windows, and over the whole picture."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_builder import (
    Builder,
    View,
    constant_array,
    name_of,
    operand,
    refusal,
)
from bindeploy.emit.plan_layout import Layout
from bindeploy.emit.plan_window import Window, window

COUNT_PADS = 1
"""Flag of average_pool: pads count in the divisor."""


def max_pool(builder: Builder, node: ir.Node) -> View:
    """MaxPool; of a value that exists as signs alone, on the bits."""
    x = builder.channels_first(node)
    if x.activation.floats is None:
        return _pool_signs(builder, node, x, np.ones(x.activation.shape[0], np.int8))
    return _pool(builder, node, x, "max_pool", (builder.floats(x, name_of(node)),))


def binary_max_pool2d(builder: Builder, node: ir.Node) -> View:
    """BinaryMaxPool2d: direction * MaxPool(direction * sign(x)), direction i8[C]."""
    x = builder.picture(node)
    direction = builder.array(node, 1)
    channels = x.activation.shape[0]
    if direction.shape != (channels,):
        raise refusal(node, f"direction {list(direction.shape)} does not fit {channels} channels")
    return _pool_signs(builder, node, x, direction.astype(np.int8))


def average_pool(builder: Builder, node: ir.Node) -> View:
    """AveragePool."""
    x = builder.channels_first(node)
    counts_pads = node.attributes.get_int("count_include_pad", 0)
    if counts_pads and node.attributes.get_int("ceil_mode", 0):
        raise refusal(node, "count_include_pad with ceil_mode is not supported")
    inputs = (builder.floats(x, name_of(node)),)
    return _pool(builder, node, x, "average_pool", inputs, COUNT_PADS if counts_pads else 0)


def global_average_pool(builder: Builder, node: ir.Node) -> View:
    """GlobalAveragePool: [N, C, H, W] -> [N, C, 1, 1], [N, C, W] -> [N, C, 1]."""
    x = builder.channels_first(node)
    return _average(builder, node, x, x.layout)


def reduce_mean(builder: Builder, node: ir.Node) -> View:
    """ReduceMean over H and W, wherever they stand."""
    x = builder.view(node, 0)
    listed = constant_array(operand(node, 1))
    axes = listed if listed is not None else node.attributes.get_ints("axes", ())
    named = "N" + x.layout.axes
    over = sorted(named[int(axis) % len(named)] for axis in axes)
    if x.flat or over != sorted(set(named) & set("HW")):
        raise refusal(node, f"axes {list(map(int, axes))}; the runtime has the mean over H and W")
    kept = node.attributes.get_int("keepdims", 1)
    return _average(builder, node, x, x.layout if kept else Layout.FLAT)


def _average(builder: Builder, node: ir.Node, x: View, layout: Layout) -> View:
    channels, height, width = x.activation.shape
    inputs = (builder.floats(x, name_of(node)),)
    whole = asdict(Window((height, width)))
    return builder.result(node, "average_pool", inputs, (channels, 1, 1), layout, **whole)


def _pool_signs(builder: Builder, node: ir.Node, x: View, direction: NDArray) -> View:
    name = name_of(node)
    inputs = (builder.signs(x, name), builder.constant(direction, f"{name}/direction"))
    return _pool(builder, node, x, "binary_max_pool", inputs)


def _pool(
    builder: Builder, node: ir.Node, x: View, op: str, inputs: tuple[int, ...], flags: int = 0
) -> View:
    channels, height, width = x.activation.shape
    kernel = node.attributes.get_ints("kernel_shape", ())
    if len(kernel) != len(x.shape) - 1:
        raise refusal(node, f"its kernel has {len(kernel)} axes, its input {len(x.shape) - 1}")
    seen = window(node, kernel, height, width)
    if seen.dilations != (1, 1):
        raise refusal(node, "dilated pools are not supported")
    if any(pad >= seen.kernel[axis % 2] for axis, pad in enumerate(seen.pads)):
        raise refusal(node, f"pads {list(seen.pads)} must be smaller than its kernel")
    if node.attributes.get_int("ceil_mode", 0):
        seen = seen.rounded_up(height, width)
    shape = (channels, *seen.over(height, width))
    return builder.result(node, op, inputs, shape, x.layout, flags=flags, **asdict(seen))
