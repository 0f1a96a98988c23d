"""Pass: transposes that come in pairs go, with what stands between them turned.

Converters from frameworks that keep channels last wrap every convolution in two transposes, and
take neighbours away only where nothing they do not know stands between, such as a sign:

    Transpose(Transpose(x, p), q)  =  Transpose(x, p[q])            nothing, where that is the order
    f(Transpose(x, p))             =  Transpose(f(x), p)            f number by number
    Pad(Transpose(x, p), pads)     =  Transpose(Pad(x, pads'), p)   pads'[p[i]] = pads[i]

So a transpose wanders down to the next one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, dialect, names
from bindeploy.convert.names import Names

POINTWISE = frozenset(
    {(dialect.LATENT, "BinarySign")}
    | {
        ("", name)
        for name in (
            *("Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid"),
            *("HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Relu", "Sigmoid"),
            *("Sign", "Softplus", "Sqrt", "Sub", "Tanh"),
        )
    }
)
"""Operators that take numbers one by one; beside x they may read constants of one number."""


class CancelTransposes(InPlacePass):
    """1. Transpose, Transpose: the second does both.
    2. Transpose, operators of `POINTWISE` and Pads of constant size, Transpose: as 1, the operators
       before it turned, where each of them alone reads the one before it.
    3. A transpose that changes no order goes, as does one that nothing reads any more.
    """

    def call(self, model: ir.Model) -> PassResult:
        taken = names.of(model)
        modified = False
        for node in list(model.graph):
            order = _order(node)
            if order is None:
                continue
            for reader in list(node.outputs[0].consumers()):
                modified |= _meet(node, order, reader, taken)
            unread = not node.outputs[0].uses() and not node.outputs[0].is_graph_output()
            if unread:
                model.graph.remove(node, safe=True)
            elif order == sorted(order) and not node.outputs[0].is_graph_output():
                constants.bypass(node)
                modified = True
        return PassResult(model, modified)


def _order(node: ir.Node) -> list[int] | None:
    """The permutation of a Transpose that says it; None for any other node."""
    if (node.domain, node.op_type) != ("", "Transpose") or node.inputs[0] is None:
        return None
    order = list(node.attributes.get_ints("perm", []))
    return order if order and sorted(order) == list(range(len(order))) else None


def _meet(first: ir.Node, order: list[int], reader: ir.Node, taken: Names) -> bool:
    """Let the transpose that `reader` is, or leads to, do what the first does; False without one.

    One that would change nothing is taken away when its turn comes.
    """
    between: list[ir.Node] = []
    value, x = first.outputs[0], first.inputs[0]
    while (after := _order(reader)) is None:
        if not _can_be_turned(reader, value, len(order)):
            return False
        between.append(reader)
        value = reader.outputs[0]
        if value.is_graph_output() or len(value.uses()) != 1:
            return False
        (reader,) = value.consumers()
    if len(after) != len(order):
        return False
    start = between[0] if between else reader
    start.replace_input_with(start.inputs.index(first.outputs[0]), x)
    for node in between:
        _turn(node, order, taken)
    both = [order[axis] for axis in after]
    reader.attributes["perm"] = ir.AttrInt64s("perm", both)
    return True


def _can_be_turned(node: ir.Node, value: ir.Value, rank: int) -> bool:
    """Whether f(Transpose(x)) = Transpose(f(x)) for the node's f, `value` being the one computed
    input that it reads.
    """
    beside = [each for each in node.inputs if each is not None and each is not value]
    if len(node.outputs) != 1 or sum(each is value for each in node.inputs) != 1:
        return False
    arrays = [constants.read(each) for each in beside]
    if (node.domain, node.op_type) == ("", "Pad"):
        all_axes = len(node.inputs) < 4 or node.inputs[3] is None
        return bool(arrays) and arrays[0] is not None and all_axes and arrays[0].size == 2 * rank
    return (node.domain, node.op_type) in POINTWISE and all(
        array is not None and array.size == 1 and array.ndim <= rank for array in arrays
    )


def _turn(node: ir.Node, order: list[int], taken: Names) -> None:
    """Let the node, which read Transpose(x, order), read x: turn its pads and its shape."""
    (output,), graph = node.outputs, node.graph
    assert graph is not None, "a pass turns nodes of a graph"
    if output.shape is not None and len(output.shape) == len(order):
        output.shape = ir.Shape([output.shape[order.index(axis)] for axis in range(len(order))])
    pads = constants.read(node.inputs[1]) if node.op_type == "Pad" else None
    if pads is not None:
        turned = np.empty_like(pads).reshape(2, -1)
        turned[:, order] = pads.reshape(2, -1)
        made = ir.node("Constant", [], attributes={"value": ir.tensor(turned.reshape(-1))})
        made.name = made.outputs[0].name = taken.new(f"{node.name}/pads")
        graph.insert_before(node, [made])
        node.replace_input_with(1, made.outputs[0])
