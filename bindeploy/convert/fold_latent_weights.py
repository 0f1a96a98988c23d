"""Pass: latent layers become packed layers.

    latent BinaryConv2d(x, u, scale, bias)  ->  BinaryConv2d(x, bits(u), scale, bias)

with bit 0 where u >= 0 and bit 1 elsewhere, filters laid out [F, KH, KW, channels]. Nothing else
of the latent weight was ever read, so the outputs are equal bit for bit.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnxscript.optimizer import fold_constants

from bindeploy.convert import constants, dialect, notes
from bindeploy.convert.dialect_reference import pack_filters
from bindeploy.errors import BindeployError

NO_LIMIT = 1 << 40
"""Bytes: the folder skips large tensors by default, and weights are large."""


class FoldLatentWeights(InPlacePass):
    """1. What depends on constants alone (a scale computed from the weight) is computed.
    2. Every latent layer becomes its packed namesake.

    `BinarySign` has no weight and stays.
    """

    def call(self, model: ir.Model) -> PassResult:
        folded = fold_constants(
            model,
            onnx_shape_inference=False,
            input_size_limit=NO_LIMIT,
            output_size_limit=NO_LIMIT,
        )
        modified = folded.modified
        for node, op in list(dialect.layers(model)):
            if op.domain == dialect.LATENT and "weight" in op.inputs:
                _pack(model.graph, node)
                modified = True
        return PassResult(model, modified)


def _pack(graph: ir.Graph, node: ir.Node) -> None:
    arrays = [constants.read(value) for value in node.inputs[1:]]
    for name, array in zip(("weight", "scale", "bias"), arrays, strict=True):
        if array is None:
            raise BindeployError(
                f"node `{node.name}` computes its `{name}` from the input: only constants are "
                "packed"
            )
    weight, scale, bias = arrays
    assert weight is not None and scale is not None and bias is not None
    x, *latent = node.inputs
    for index in (1, 2, 3):
        node.replace_input_with(index, None)
    constants.remove_unused(graph)
    packed = [
        constants.initializer(graph, f"{node.name}.{name}", array)
        for name, array in (("bits", pack_filters(weight)), ("scale", scale), ("bias", bias))
    ]
    attributes = {"channels": ir.AttrInt64("channels", weight.shape[1]), **node.attributes}
    bits = ir.node(
        node.op_type, [x, *packed], attributes=attributes, domain=dialect.DOMAIN, name=node.name
    )
    constants.replace(node, bits)
    notes.rule(bits, f"latent {node.op_type}")
