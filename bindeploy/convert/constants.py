"""Constant inputs of nodes: read as numpy, written as initializers."""

from __future__ import annotations

from itertools import chain, count
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import notes


def read(value: ir.Value | None) -> NDArray | None:
    """The array of a constant value; None for a computed or absent one."""
    if value is None or (value.is_graph_input() and not value.is_initializer()):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


_OUTPUTS: WeakKeyDictionary[ir.Graph, set[str | None]] = WeakKeyDictionary()
"""The names of every node's outputs, as they were when a graph got its first initializer here: to
look through all nodes for each of ten thousand layers takes a minute. Passes that name outputs
themselves do not name them like constants."""


def initializer(graph: ir.Graph, name: str, array: NDArray) -> ir.Value:
    """A new initializer called `name`, or `name.1`, `name.2`, ... where `name` is taken."""
    if graph not in _OUTPUTS:
        _OUTPUTS[graph] = {output.name for node in graph for output in node.outputs}
    inputs, outputs = {value.name for value in graph.inputs}, _OUTPUTS[graph]
    candidates = chain([name], (f"{name}.{number}" for number in count(1)))
    unique = next(
        candidate
        for candidate in candidates
        if not (candidate in graph.initializers or candidate in inputs or candidate in outputs)
    )
    array = np.asarray(array, order="C")
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=unique),
    )
    graph.register_initializer(value)
    return value


def remove_unused(graph: ir.Graph) -> None:
    """Drop the initializers that no node reads, so that their names are free again."""
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]


def replace(old: ir.Node, new: ir.Node) -> None:
    """Put `new` in the place of `old` in its graph, with its notes; who read `old` reads `new`."""
    graph = old.graph
    assert graph is not None, "a pass replaces nodes of a graph"
    notes.carry(old, new)
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs[:1], new.outputs)


def bypass(node: ir.Node) -> None:
    """Take a one-in one-out node away: its readers read its first input."""
    graph, source, output = node.graph, node.inputs[0], node.outputs[0]
    assert graph is not None and source is not None
    if output.is_graph_output():
        raise ValueError("an output of the graph keeps its node")
    ir.convenience.replace_all_uses_with(output, source)
    graph.remove(node, safe=True)
