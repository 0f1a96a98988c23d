"""What became of every layer, and why."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bindeploy.convert import constants, notes, type_inference
from bindeploy.convert.inspect import (
    cost,
    is_binary_layer,
    is_int8_layer,
    is_layer,
    is_weight_only,
)


@dataclass(frozen=True)
class Layer:
    """A layer of the source graph: the rule that binarized it, or the reason why it stayed float.

    `op`, `macs` (for one image) and `bytes` (of its constants) are those after conversion; a layer
    for which several nodes stand is counted whole.
    """

    name: str
    op: str
    binarized: bool
    rule: str | None
    reason: str | None
    macs: int
    bytes: int


def explain(model: ir.Model) -> list[Layer]:
    """An entry for each layer of the source, in order, from the notes that the passes left."""
    type_inference.infer(model)
    parts: dict[str, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if is_layer(node):
            parts[node.metadata_props.get(notes.LAYER, str(node.name))].append(node)
    return [_entry(name, nodes) for name, nodes in parts.items()]


def _entry(name: str, nodes: list[ir.Node]) -> Layer:
    first, rows = nodes[0], [cost(node) for node in nodes]
    # Files of others hold MatMulNBits of 4-bit weights: only a pass of ours says that it is bits.
    lowered = is_weight_only(first) and notes.RULE in first.metadata_props
    binarized = is_binary_layer(first) or lowered
    return Layer(
        name=name,
        op=first.op_type,
        binarized=binarized,
        rule=_rule(first) if binarized else None,
        reason=None if binarized else _reason(first),
        macs=sum(row["binary_macs"] + row["float_macs"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
    )


def _rule(node: ir.Node) -> str:
    """How the layer came to its bits: `latent BinaryConv2d, thresholded with bn1`."""
    said = node.metadata_props.get(notes.RULE, f"already a {node.op_type}")
    input_bits = _integer_bits(node.inputs[0])
    first, *rest = said.split(", ")
    return ", ".join([first, f"{input_bits}-bit input", *rest]) if input_bits else said


def _integer_bits(value: ir.Value | None) -> int | None:
    """The width of the integers that `value` stands for, where DequantizeLinear made it."""
    maker = value.producer() if value is not None else None
    if maker is None or (maker.domain, maker.op_type) != ("", "DequantizeLinear"):
        return None
    zero = constants.read(maker.inputs[2]) if len(maker.inputs) > 2 else None
    return 8 * zero.dtype.itemsize if zero is not None else None


def _reason(node: ir.Node) -> str:
    """Why a standard layer keeps its floats: what a pass said of it, or what its weights are."""
    if notes.REASON in node.metadata_props:
        return node.metadata_props[notes.REASON]
    if is_int8_layer(node) or is_weight_only(node):
        return f"already a {node.op_type}"
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
