"""Int8Conv2d, Int8Linear and their thresholds, as convolutions of the plan.

The op of the plan reads floats, makes integers of them itself and keeps no tensor of integers.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.emit.plan_builder import Builder, View, name_of, refusal
from bindeploy.emit.plan_convolutions import group_of
from bindeploy.emit.plan_layout import Layout
from bindeploy.emit.plan_window import Window, window

VECTORS: dict[str, dict[str, type]] = {
    "int8_conv": {"scale": np.float32, "bias": np.float32},
    "int8_conv_threshold": {"threshold": np.int32, "direction": np.int8},
}
"""Inputs 3 and 4, one value a filter."""


def int8_conv2d(builder: Builder, node: ir.Node, op: str) -> View:
    """Int8Conv2d, Int8Conv2dThreshold: weights [F, C/group, KH, KW]."""
    x = builder.picture(node)
    weights = builder.array(node, 1)
    channels, height, width = x.activation.shape
    if weights.ndim != 4:
        raise refusal(node, f"weights {list(weights.shape)} do not fit {channels} channels")
    group = group_of(node, x, *weights.shape[:2])
    seen = window(node, weights.shape[2:], height, width)
    shape = (len(weights), *seen.over(height, width))
    kernel = weights.transpose(0, 2, 3, 1)
    return _int8(builder, node, op, x, kernel, seen, shape, group=group)


def int8_linear(builder: Builder, node: ir.Node, op: str) -> View:
    """Int8Linear, Int8LinearThreshold: weights [F, features]."""
    x = builder.vector(node)
    weights = builder.array(node, 1)
    _, height, width = x.activation.shape
    if weights.ndim != 2 or weights.shape[1] != x.activation.features:
        raise refusal(
            node, f"weights {list(weights.shape)} do not fit {x.activation.features} features"
        )
    kernel = x.layout.channels_last(weights, x.activation.shape)
    whole = Window((height, width))
    return _int8(builder, node, op, x, kernel, whole, (len(weights), 1, 1), Layout.FLAT)


def _int8(
    builder: Builder,
    node: ir.Node,
    op: str,
    x: View,
    kernel: NDArray,
    seen: Window,
    shape: tuple[int, int, int],
    layout: Layout = Layout.CHW,
    group: int = 1,
) -> View:
    """Plan op `op` with `kernel` i8 [F, KH, KW, C/group]."""
    name = name_of(node)
    inputs = [
        builder.floats(x, name),
        builder.constant(kernel.astype(np.int8), f"{name}/weights"),
        builder.constant(_input_scale(builder, node), f"{name}/input_scale"),
    ]
    for index, (label, dtype) in enumerate(VECTORS[op].items(), 3):
        vector = builder.array(node, index)
        if vector.shape != (len(kernel),):
            raise refusal(node, f"{label} {list(vector.shape)} does not fit {len(kernel)} filters")
        inputs.append(builder.constant(vector.astype(dtype), f"{name}/{label}"))
    return builder.result(node, op, tuple(inputs), shape, layout, group=group, **asdict(seen))


def _input_scale(builder: Builder, node: ir.Node) -> NDArray[np.float32]:
    """Float32 [1], finite and above 0."""
    scale = builder.array(node, 2)
    if scale.size != 1 or not 0 < scale.item() < np.inf:
        raise refusal(
            node, f"its input scale is {scale.tolist()}; it must be one finite number > 0"
        )
    return scale.reshape(1).astype(np.float32)
