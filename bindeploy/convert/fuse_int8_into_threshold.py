"""Pass: an int8 layer of which only signs are read, after any functions, compares integers.

The same comparison as a binary layer's (`fuse_into_threshold`), on the integers that its sums can
be: of a filter with weights v they are at most L = 128 sum |v|, too many to ask them all. So the
functions between must rise or fall by nature; bisection then finds the first integer at which the
answer changes, by the float expression itself, ties included.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import dialect, notes
from bindeploy.convert.fuse_into_threshold import FuseIntoThreshold

LAYERS = frozenset({(dialect.DOMAIN, "Int8Conv2d"), (dialect.DOMAIN, "Int8Linear")})


class FuseInt8IntoThreshold(InPlacePass):
    """1. Int8Conv2d or Int8Linear -> functions, moves and max pools, of which only signs are read
    -> Int8Conv2dThreshold or Int8LinearThreshold -> moves and binary max pools.
    """

    def call(self, model: ir.Model) -> PassResult:
        result = FuseIntoThreshold(LAYERS).call(model)
        for node, op in dialect.layers(model):
            if "int8_weight" in op.inputs:
                _say_why(node)
        return result


def _say_why(node: ir.Node) -> None:
    """A layer in int8 is not binarized: what was done to it belongs to its reason."""
    said = node.metadata_props.pop(notes.RULE, None)
    if said:
        notes.reason(node, f"{node.metadata_props.get(notes.REASON, 'int8')}, {said}")
