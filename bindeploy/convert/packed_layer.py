"""A packed layer in the place of the node it is made from: what every pass that packs ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants, dialect
from bindeploy.convert.dialect_reference import pack_filters


def replace(
    node: ir.Node,
    op_type: str,
    weight: NDArray,
    scale: NDArray,
    bias: NDArray,
    attributes: Mapping[str, Any],
) -> ir.Node:
    """Put the layer `op_type` of the dialect in the place of `node`, with its name and its notes.

    Its constants are the signs of `weight` [F, C/group, ...] as the initializer `<name>.bits`, and
    `<name>.scale` and `<name>.bias`, float32 [F]; names that `node` alone held are free for them.
    """
    graph = node.graph
    assert graph is not None, "a pass replaces nodes of a graph"
    for index in range(1, len(node.inputs)):
        release(node, index)
    packed = [
        constants.initializer(graph, f"{node.name}.{name}", array)
        for name, array in (("bits", pack_filters(weight)), ("scale", scale), ("bias", bias))
    ]
    layer = ir.node(
        op_type,
        [node.inputs[0], *packed],
        attributes={"channels": weight.shape[1], **attributes},
        domain=dialect.DOMAIN,
        name=node.name,
    )
    constants.replace(node, layer)
    return layer


def release(node: ir.Node, index: int) -> None:
    """Take input `index` from the node, and its initializer out of the graph if none reads it."""
    value, graph = node.inputs[index], node.graph
    node.replace_input_with(index, None)
    if value is None or graph is None or value.uses():
        return
    if value.is_initializer() and not (value.is_graph_output() or value.is_graph_input()):
        graph.initializers.pop(str(value.name), None)
