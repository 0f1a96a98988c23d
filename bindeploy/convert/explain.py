"""What became of every layer, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bindeploy.convert import constants, dialect
from bindeploy.convert.inspect import inspect, is_binary_layer, is_layer
from bindeploy.convert.name_layers import NameLayers


@dataclass(frozen=True)
class Layer:
    """A layer of the unconverted graph: the rule that binarized it, or why it stayed float.

    `op`, `macs` (for one image) and `bytes` (of its constants) are those after conversion.
    """

    name: str
    op: str
    binarized: bool
    rule: str | None
    reason: str | None
    macs: int
    bytes: int


def explain(before: ir.Model, after: ir.Model) -> list[Layer]:
    """An entry for each Conv, Gemm, MatMul, latent and packed layer of `before`, in order."""
    before = before.clone()
    NameLayers()(before)
    costs = {row["name"]: row for row in inspect(after)["layers"]}
    converted = {node.name: node for node in after.graph}
    entries = []
    for node in before.graph:
        name = node.name or ""
        if not is_layer(node) or name not in costs:
            continue
        binarized = is_binary_layer(converted[name])
        entries.append(
            Layer(
                name=name,
                op=converted[name].op_type,
                binarized=binarized,
                rule=_rule(node, converted) if binarized else None,
                reason=None if binarized else _reason(node),
                macs=costs[name]["binary_macs"] + costs[name]["float_macs"],
                bytes=costs[name]["bytes"],
            )
        )
    return entries


def _rule(node: ir.Node, converted: dict[str | None, ir.Node]) -> str:
    """How the layer came to its bits: `latent BinaryConv2d, thresholded with bn1`."""
    input_bits = _integer_bits(node.inputs[0])
    start = "already a" if node.domain == dialect.DOMAIN else "latent"
    start = f"{start} {node.op_type}" + (f", {input_bits}-bit input" if input_bits else "")
    if node.domain == dialect.DOMAIN:
        return start
    normalization = _normalization_after(node)
    fused = normalization is not None and normalization not in converted
    if converted[node.name].op_type.endswith("Threshold"):
        return f"{start}, thresholded with {normalization}" if fused else f"{start}, thresholded"
    return f"{start}, {normalization} in its scale and bias" if fused else start


def _integer_bits(value: ir.Value | None) -> int | None:
    """The width of the integers that `value` stands for, where DequantizeLinear made it."""
    maker = value.producer() if value is not None else None
    if maker is None or (maker.domain, maker.op_type) != ("", "DequantizeLinear"):
        return None
    zero = constants.read(maker.inputs[2]) if len(maker.inputs) > 2 else None
    return 8 * zero.dtype.itemsize if zero is not None else None


def _normalization_after(node: ir.Node) -> str | None:
    """The name of the first batch normalization after the layer, before its way forks."""
    uses = node.outputs[0].uses()
    while len(uses) == 1:
        ((reader, _),) = uses
        if reader.op_type == "BatchNormalization":
            return reader.name
        if reader.op_type not in ("MaxPool", "Identity", "Dropout"):
            return None
        uses = reader.outputs[0].uses()
    return None


def _reason(node: ir.Node) -> str:
    """Why a standard layer keeps its floats."""
    weight = constants.read(node.inputs[1])
    if weight is None:
        return "both factors are computed"
    if _reads_input(node):
        return "first layer: weights are float"
    return f"weights are float, of {np.unique(weight).size} values"


def _reads_input(node: ir.Node) -> bool:
    """Whether no other layer stands between the graph's input and this one."""
    waiting = [node.inputs[0]]
    while waiting:
        value = waiting.pop()
        producer = value.producer() if value is not None else None
        if producer is None:
            continue
        if is_layer(producer):
            return False
        waiting.extend(producer.inputs)
    return True
