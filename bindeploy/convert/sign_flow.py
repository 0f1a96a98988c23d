"""Which values matter only by their sign: the question every binarizing pass asks first."""

from __future__ import annotations

import onnx_ir as ir

from bindeploy.convert import dialect

MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that move values and change none: sign(move(x)) = move(sign(x))."""


def only_signs_are_read(value: ir.Value) -> bool:
    """Whether sign(value) may stand for `value` without any engine seeing a difference.

    True when `value` is no output of the graph and every consumer binarizes it, asks only for its
    Shape, or is an operator whose output's sign follows from its input's sign (a move, or a
    MaxPool: sign(max x) = max sign(x)) and whose own consumers binarize.
    """
    uses = value.uses()
    return bool(uses) and not value.is_graph_output() and all(_reads_sign(*use) for use in uses)


def _reads_sign(node: ir.Node, index: int) -> bool:
    if index != 0:
        return False
    op = dialect.op_of(node)
    if op is not None:
        return op.binarizes
    if node.domain != "":
        return False
    if node.op_type == "Shape":
        return True
    keeps_sign = node.op_type in MOVES or (node.op_type == "MaxPool" and one_output(node))
    return keeps_sign and only_signs_are_read(node.outputs[0])


def one_output(node: ir.Node) -> bool:
    """Whether nothing reads the node's further outputs (indices of MaxPool, mask of Dropout)."""
    return not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that reads `value` as its first input, when nothing else reads it."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    ((node, index),) = uses
    return node if index == 0 else None
