"""Pass: an Expand goes where the operator that reads it broadcasts anyway.

    x + Expand(c, shape of x)  =  x + c

A learned shift of one number a channel, `x + self.bias.expand_as(x)` (ReActNet, Liu et al., 2020),
reaches us so; without the Expand it is a constant, which a threshold takes in.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.passes import InPlacePass, PassResult

BROADCASTS = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Where", "PRelu"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    }
)
"""Operators that take their inputs number by number, each spread to the largest shape."""


class DropExpand(InPlacePass):
    """1. In an operator that broadcasts, Expand(c, s) beside an x of shape s: c.
    2. What alone computed the shape s goes too.

    The shape of x is s where s is Shape(x), or where x and the Expand have the same known sizes, or
    unknown ones of the same name.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in list(model.graph):
            if (node.domain, node.op_type) != ("", "Expand") or node.inputs[0] is None:
                continue
            for reader, index in list(node.outputs[0].uses()):
                if _broadcasts(reader, index, node):
                    reader.replace_input_with(index, node.inputs[0])
                    modified = True
        if modified:
            common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


def _broadcasts(reader: ir.Node, index: int, expand: ir.Node) -> bool:
    """Whether the reader spreads its input `index` to what `expand` makes of it by itself."""
    if reader.domain != "" or reader.op_type not in BROADCASTS:
        return False
    if reader.op_type == "PRelu" and index == 0:
        return False
    others = (value for position, value in enumerate(reader.inputs) if position != index)
    return any(value is not None and _has_shape_of(value, expand) for value in others)


def _has_shape_of(x: ir.Value, expand: ir.Node) -> bool:
    asked = expand.inputs[1].producer() if expand.inputs[1] is not None else None
    if asked is not None and (asked.domain, asked.op_type) == ("", "Shape"):
        whole = asked.attributes.get_int("start", 0) == 0 and "end" not in asked.attributes
        given = expand.inputs[0]
        if whole and asked.inputs[0] is x and given is not None and _no_larger(given, x):
            return True
    shape = expand.outputs[0].shape
    if shape is None or x.shape is None or len(shape) != len(x.shape):
        return False
    pairs = zip(shape, x.shape, strict=True)
    return all(size == other and size != ir.SymbolicDim(None) for size, other in pairs)


def _no_larger(value: ir.Value, x: ir.Value) -> bool:
    """Whether an Expand of `value` to the shape of x, which may enlarge x, surely does not."""
    if value.shape is None or x.shape is None or len(value.shape) > len(x.shape):
        return False
    pairs = zip(reversed(tuple(value.shape)), reversed(tuple(x.shape)), strict=False)
    return all(size in (1, other) for size, other in pairs)
