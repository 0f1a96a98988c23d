"""Pass: every node gets a unique name, a layer that of the torch module it came from."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import dialect

SUFFIX = ".weight"
NAMED_AFTER_WEIGHT = frozenset({"Conv", "Gemm", "MatMul", "BatchNormalization"})


class NameLayers(InPlacePass):
    """1. A layer whose weight initializer is `layer1.0.conv1.weight` is named `layer1.0.conv1`.
    2. A node without a name is named after its first output.
    3. A name already taken by an earlier node gets the suffix `_2`, `_3`, ...

    The outcome depends on the names and order of the nodes alone, and running it again changes
    nothing, so the graph before conversion and the one after it agree on the names.
    """

    def call(self, model: ir.Model) -> PassResult:
        taken: set[str] = set()
        modified = False
        for node in model.graph:
            wanted = _module(node) or node.name or node.outputs[0].name or node.op_type
            name, count = wanted, 2
            while name in taken:
                name, count = f"{wanted}_{count}", count + 1
            taken.add(name)
            modified |= name != node.name
            node.name = name
        return PassResult(model, modified)


def _module(node: ir.Node) -> str | None:
    """The torch module's name, read off the weight of a layer."""
    is_layer = node.domain == dialect.LATENT or (
        node.domain == "" and node.op_type in NAMED_AFTER_WEIGHT
    )
    weight = node.inputs[1] if is_layer and len(node.inputs) > 1 else None
    if weight is None or not weight.is_initializer() or not (weight.name or "").endswith(SUFFIX):
        return None
    return (weight.name or "").removesuffix(SUFFIX)
