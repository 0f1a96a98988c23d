"""A max pool of signs: BinaryMaxPool2d in the place of MaxPool."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants, dialect
from bindeploy.convert.chains import Pool


def can_pool_signs(pool: Pool) -> bool:
    """Over one or two axes, with pads that are written and smaller than the kernel, undilated."""
    given = pool.node.attributes
    kernel, pads = given.get_ints("kernel_shape", []), given.get_ints("pads", [])
    return (
        len(kernel) in (1, 2)
        and len(kernel) + 2 == pool.layout.rank
        and len(pads) in (0, 2 * len(kernel))
        and all(0 <= pad < size for pad, size in zip(pads, [*kernel, *kernel], strict=False))
        and given.get_string("auto_pad", "NOTSET") == "NOTSET"
        and set(given.get_ints("dilations", [1])) == {1}
    )


def pool_signs(node: ir.Node, direction: NDArray[np.int8]) -> None:
    """direction * MaxPool(direction * sign(x)), direction int8 [C], in the place of MaxPool `node`.

    Over one axis, [N, C, L], it goes by [N, C, 1, L]; but where every direction is 1 MaxPool stays
    there, as the greatest of signs is a sign.
    """
    graph, given = node.graph, node.attributes
    assert graph is not None, "a pass replaces nodes of a graph"
    kernel = list(given.get_ints("kernel_shape"))
    strides = list(given.get_ints("strides", [1] * len(kernel)))
    pads = list(given.get_ints("pads", [0] * 2 * len(kernel)))
    one_axis = len(kernel) == 1
    if one_axis and (direction > 0).all():
        return
    x, nodes = node.inputs[0], []
    axis = constants.initializer(graph, f"{node.name}.axis", np.array([2])) if one_axis else None
    if one_axis:
        kernel, strides, pads = [1, *kernel], [1, *strides], [0, pads[0], 0, pads[1]]
        nodes.append(ir.node("Unsqueeze", [x, axis], name=f"{node.name}/widened"))
        (x,) = nodes[-1].outputs
    pooled = ir.node(
        "BinaryMaxPool2d",
        [x, constants.initializer(graph, f"{node.name}.direction", direction)],
        attributes={"kernel_shape": kernel, "strides": strides, "pads": pads},
        domain=dialect.DOMAIN,
        name=node.name,
    )
    nodes.append(pooled)
    if one_axis:
        nodes.append(ir.node("Squeeze", [*pooled.outputs, axis], name=f"{node.name}/narrowed"))
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], nodes, node.outputs[:1], nodes[-1].outputs
    )
