"""Pass: latent layers become packed layers.

    latent BinaryConv2d(x, u, scale, bias)  ->  BinaryConv2d(x, bits(u), scale, bias)

with bit 0 where u >= 0 and bit 1 elsewhere, filters laid out [F, KH, KW, channels]. Nothing else
of the latent weight was ever read, so the outputs are equal bit for bit.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, dialect, notes, packed_layer
from bindeploy.errors import BindeployError


class FoldLatentWeights(InPlacePass):
    """1. Every latent layer of constant weight, scale and bias becomes its packed namesake.

    `BinarySign` has no weight and stays.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node, op in list(dialect.layers(model)):
            if op.domain == dialect.LATENT and "weight" in op.inputs:
                _pack(node)
                modified = True
        return PassResult(model, modified)


def _pack(node: ir.Node) -> None:
    arrays = [constants.read(value) for value in node.inputs[1:]]
    for name, array in zip(("weight", "scale", "bias"), arrays, strict=True):
        if array is None:
            raise BindeployError(
                f"node `{node.name}` computes its `{name}` from the input: only constants are "
                "packed"
            )
    weight, scale, bias = arrays
    assert weight is not None and scale is not None and bias is not None
    layer = packed_layer.replace(node, node.op_type, weight, scale, bias, node.attributes)
    notes.rule(layer, f"latent {node.op_type}")
