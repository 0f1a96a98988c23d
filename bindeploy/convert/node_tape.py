"""Nodes in the making: what a pass writes where one node becomes several."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from bindeploy.convert import constants, notes
from bindeploy.convert.names import Names


class Tape:
    """The nodes that are to stand for a node whose first input is `x`; each call appends one.

    Numbers become constants of x's element type, float32 where it is unknown.
    """

    def __init__(self, x: ir.Value) -> None:
        self.x = x
        self.dtype = (x.dtype or ir.DataType.FLOAT).numpy()
        self.nodes: list[ir.Node] = []

    def __call__(self, op_type: str, *inputs: Any, domain: str = "", **attributes: Any) -> ir.Value:
        """The output of a new node; an input that is a number becomes a constant."""
        values = [each if isinstance(each, ir.Value) else self.constant(each) for each in inputs]
        return self._append(ir.node(op_type, values, attributes=attributes, domain=domain))

    def constant(self, number: Any) -> ir.Value:
        """A number of x's type, or an array of its own type."""
        array = number if isinstance(number, np.ndarray) else np.array(number, self.dtype)
        return self._append(ir.node("Constant", [], attributes={"value": ir.tensor(array)}))

    def unless(self, number: float, op_type: str, x: ir.Value, by: ir.Value) -> ir.Value:
        """op(x, by), or x itself where `by` is that single number, which changes nothing."""
        array = constants.read(by)
        if array is not None and array.size == 1 and array.ndim < 2 and (array == number).all():
            return x
        return self(op_type, x, by)

    def replace(self, node: ir.Node, value: ir.Value, names: Names) -> None:
        """Put the nodes in the place of `node`, with its notes; who read it reads `value`.

        The last of them is called as `node` was, what they compute has new names out of `names`.
        """
        graph = node.graph
        assert graph is not None, "a pass replaces nodes of a graph"
        last = value.producer()
        if last is None or last not in self.nodes:
            value = self("Identity", value)
            last = self.nodes[-1]
        for number, made in enumerate(self.nodes):
            made.name = node.name if made is last else f"{node.name}/{made.op_type}_{number}"
            made.outputs[0].name = names.new(f"{node.outputs[0].name}/{made.op_type}")
        value.type = ir.TensorType(ir.DataType.from_numpy(self.dtype))
        notes.carry(node, last)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], self.nodes, node.outputs, [value]
        )

    def _append(self, node: ir.Node) -> ir.Value:
        self.nodes.append(node)
        return node.outputs[0]
