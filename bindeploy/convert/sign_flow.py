"""Where signs come from and where they go: the questions every binarizing pass asks first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bindeploy.convert import constants, dialect

MOVES = frozenset(
    {
        *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity"),
        *("DepthToSpace", "SpaceToDepth", "Expand", "Gather", "Slice", "Tile"),
    }
)
"""Operators that move the values of their first input and change none: sign(move(x)) =
move(sign(x))."""

GIVE_SIGNS = frozenset(
    {(dialect.LATENT, "BinarySign"), (dialect.DOMAIN, "BinaryMaxPool2d")}
    | {key for key, op in dialect.OPS.items() if "threshold" in op.inputs}
)
"""Operators of which every output is +1 or -1."""


def only_signs_are_read(value: ir.Value) -> bool:
    """Whether sign(value) may stand for `value` without any engine seeing a difference.

    True when `value` is no output of the graph and every consumer binarizes it, asks only for its
    Shape, or is an operator whose output's sign follows from its input's sign (a move; a Split, a
    Concat; a Pad, whose constant keeps its own sign; a MaxPool: sign(max x) = max sign(x)) and
    whose own consumers binarize.
    """
    waiting, seen = [value], set()
    while waiting:
        read = waiting.pop()
        if read in seen:
            continue
        seen.add(read)
        if not read.uses() or read.is_graph_output():
            return False
        for node, index in read.uses():
            if _reads_sign(node, index):
                continue
            carriers = _carry_sign(node, index)
            if not carriers:
                return False
            waiting.extend(carriers)
    return True


def _reads_sign(node: ir.Node, index: int) -> bool:
    """Whether the node itself sees no more of its input `index` than the sign."""
    op = dialect.op_of(node)
    if op is not None:
        return op.binarizes and index == 0
    return (node.domain, node.op_type) == ("", "Shape")


def _carry_sign(node: ir.Node, index: int) -> Sequence[ir.Value]:
    """The outputs whose signs are those of the node's input `index`; none where others follow."""
    if node.domain != "":
        return ()
    if node.op_type == "Concat":
        return node.outputs
    if index != 0:
        return ()
    if node.op_type == "Split":
        return [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if node.op_type in MOVES or node.op_type == "Pad":
        return node.outputs
    return node.outputs[:1] if node.op_type == "MaxPool" and one_output(node) else ()


def gives_signs(value: ir.Value | None) -> bool:
    """Whether every number of `value` is +1 or -1: signs, moved, pooled, joined and padded."""
    return value is not None and all(map(_is_sign, sources(value)))


def sources(value: ir.Value) -> list[ir.Value]:
    """The values whose numbers `value` holds, and no others but +1 and -1.

    Looks back through moves, Split, Concat, MaxPool, and Pad with a constant of +1 or -1 or with
    numbers of its input.
    """
    found, waiting, seen = [], [value], set()
    while waiting:
        held = waiting.pop()
        if held in seen:
            continue
        seen.add(held)
        node = held.producer()
        if node is None or not _holds_its_inputs(node, held):
            found.append(held)
            continue
        inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        waiting.extend(each for each in reversed(inputs) if each is not None)
    return found


def _holds_its_inputs(node: ir.Node, output: ir.Value) -> bool:
    if node.domain != "" or not node.inputs:
        return False
    if node.op_type == "MaxPool":
        return output is node.outputs[0]
    return node.op_type in MOVES | {"Concat", "Split"} or (
        node.op_type == "Pad" and _pads_with_signs(node)
    )


def _pads_with_signs(node: ir.Node) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    padding = constants.read(node.inputs[2]) if len(node.inputs) > 2 else None
    return padding is not None and padding.size == 1 and abs(float(padding.reshape(()))) == 1


def _is_sign(value: ir.Value) -> bool:
    node = value.producer()
    if node is not None and node.op_type != "Constant":
        return (node.domain, node.op_type) in GIVE_SIGNS
    array = constants.read(value)
    return array is not None and array.dtype.kind == "f" and bool(np.all(np.abs(array) == 1))


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
