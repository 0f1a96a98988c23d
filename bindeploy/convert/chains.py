"""What follows a layer, node by node, as long as each value has one reader: a chain of steps.

A step is a function of one channel, a move (which carries values elsewhere and changes none), or a
max pool. Along a move the channels are kept track of, so that a constant of one number a channel
finds its filters again behind Squeeze, Transpose, DepthToSpace or Concat.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bindeploy.convert import channelwise_operators
from bindeploy.convert.channelwise import Function, Layout
from bindeploy.convert.moves import moved
from bindeploy.convert.sign_flow import one_output


@dataclass(frozen=True)
class Move:
    """A node whose output holds the values of `x`, laid out as `layout`."""

    node: ir.Node
    x: ir.Value
    layout: Layout


@dataclass(frozen=True)
class Pool:
    """A MaxPool of `x`, laid out as `layout`, each window within one filter's values."""

    node: ir.Node
    x: ir.Value
    layout: Layout


Step = Function | Move | Pool


def follow(value: ir.Value, layout: Layout) -> list[Step]:
    """The longest chain of steps from `value`, whose channels lie so."""
    steps: list[Step] = []
    while (node := _only_reader(value)) is not None:
        step: Step | None = channelwise_operators.read(node, value, layout)
        step = step or _pool(node, value, layout) or _move(node, value, layout)
        if step is None:
            break
        steps.append(step)
        layout = step.layout if isinstance(step, Move) else layout
        value = node.outputs[0]
    return steps


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads `value`, but for nodes that ask for its Shape."""
    readers = [node for node, _ in value.uses() if (node.domain, node.op_type) != ("", "Shape")]
    if len(readers) != 1 or value.is_graph_output():
        return None
    producer = value.producer()
    same_graph = producer is not None and producer.graph is readers[0].graph
    return readers[0] if same_graph else None


def _pool(node: ir.Node, x: ir.Value, layout: Layout) -> Pool | None:
    """MaxPool over whole windows: one rounded up may lie beyond the image, where nothing is."""
    if (node.domain, node.op_type) != ("", "MaxPool") or not one_output(node):
        return None
    over_space = layout.rank is not None and layout.axis == 1 - layout.rank
    if layout.shared or not over_space or node.attributes.get_int("ceil_mode", 0) != 0:
        return None
    return Pool(node, x, layout)


def _move(node: ir.Node, x: ir.Value, layout: Layout) -> Move | None:
    behind = moved(node, x, layout)
    return None if behind is None else Move(node, x, behind)
