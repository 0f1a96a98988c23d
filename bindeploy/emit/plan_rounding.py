"""Floats that only layers of integers read are integers already: the layer that makes them rounds.

    layer -> f32 -> int8 layer, which rounds it        layer, which rounds -> i8 -> int8 layer

Done when all nodes are there. The same floats are rounded by the same scale, strip by strip while
they are in the first-level cache, and a quarter of the bytes stays in memory.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from bindeploy.emit.plan_builder import RESIDUALS, Builder
from bindeploy.emit.plan_format import Node, Type

ROUND_THEIR_INPUT = {"int8_conv": 2, "int8_conv_threshold": 2, "binary_weight_int8_conv": 2}
"""Ops that read integers, and the input that is the scale by which they round floats."""


def round_between_layers(builder: Builder, output: int) -> None:
    """Round wherever it can be; `output` is the tensor that the plan's caller reads."""
    scales: dict[int, set[int | None]] = defaultdict(set)
    for node in builder.nodes:
        for index, tensor in enumerate(node.inputs):
            if tensor is not None:
                scales[tensor].add(_scale(node) if index == 0 else None)
    for layer in builder.nodes:
        if layer.output == output or not _can_round(layer):
            continue
        wanted = scales[layer.output]
        if len(wanted) == 1 and None not in wanted:
            absent = (None,) * (RESIDUALS[layer.op] + 2 - len(layer.inputs))
            layer.inputs = (*layer.inputs, *absent, *wanted)
            builder.tensors[layer.output] = replace(builder.tensors[layer.output], type=Type.I8)


def _scale(node: Node) -> int | None:
    """The scale by which a node rounds its input, None where it does not."""
    return node.inputs[ROUND_THEIR_INPUT[node.op]] if node.op in ROUND_THEIR_INPUT else None


def _can_round(layer: Node) -> bool:
    """Whether a node is a layer without groups that adds no residual."""
    if layer.op not in RESIDUALS or layer.group > 1:
        return False
    return layer.inputs[RESIDUALS[layer.op] : RESIDUALS[layer.op] + 1] in ((), (None,))
