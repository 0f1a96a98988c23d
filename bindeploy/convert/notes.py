"""What the passes say of a layer: by which rules it came to its bits, or why it kept its floats.

A note is written on the node itself, travels with it when a pass replaces it (`carry`), and is read
by `explain` when the passes are through. No note is ever written to a file.
"""

from __future__ import annotations

import onnx_ir as ir

LAYER = "bindeploy.layer"
RULE = "bindeploy.rule"
REASON = "bindeploy.reason"


def rule(node: ir.Node, text: str) -> None:
    """Say that a pass brought the layer nearer to bits, and how: `weights +-1 times a scale`.

    What was said before is not said again.
    """
    said = node.metadata_props.get(RULE)
    if said is None or f", {text}," not in f", {said},":
        node.metadata_props[RULE] = f"{said}, {text}" if said else text


def reason(node: ir.Node, text: str) -> None:
    """Say why the layer stays in float: `weights take 3 values in filter 7`."""
    node.metadata_props[REASON] = text


def part_of(node: ir.Node, layer: str) -> None:
    """Say that the node is one of several that stand for the layer `layer` of the source."""
    node.metadata_props[LAYER] = layer


def carry(old: ir.Node, new: ir.Node) -> None:
    """Hand the notes on `old` to the node that takes its place."""
    for key in (LAYER, RULE, REASON):
        if key in old.metadata_props:
            new.metadata_props[key] = old.metadata_props[key]
