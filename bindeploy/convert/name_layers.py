"""Pass: every node gets a unique name, a layer that of the torch module it came from."""

from __future__ import annotations

import re

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import dialect

WEIGHT, BIAS = ".weight", ".bias"
NAMED_AFTER_WEIGHT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
NAMED_AFTER_BIAS = NAMED_AFTER_WEIGHT - {"BatchNormalization", "MatMul"}
NAMED_AFTER_PATH = NAMED_AFTER_WEIGHT - {"MatMul"}
"""A product of two values stands for no module: its path is that of the module around it."""

LONGEST_ROAD = 64
"""Values between a weight and the layer that reads it."""

SCOPE = re.compile(r"'([\w.]*)'")
PATH = re.compile(r"/(.+)/\w+")
"""How torch's TorchScript exporter names a node: `/layer1/layer1.0/conv1/Conv`."""
LONGEST_NOTE = 10_000
"""Characters of a note that are read."""


class NameLayers(InPlacePass):
    """1. A layer whose weight is `layer1.0.conv1.weight`, or computed from it, is named
       `layer1.0.conv1`; failing that by its bias; failing that by what torch's exporter noted, or
       by the path it made the node's name of.
    2. A node without a name is named after its first output.
    3. A name already taken by an earlier node gets the suffix `_2`, `_3`, ...

    The outcome depends on the names and order of the nodes alone, and running it again changes
    nothing, so the graph before conversion and the one after it agree on the names.
    """

    def call(self, model: ir.Model) -> PassResult:
        taken: set[str] = set()
        numbers: dict[str, int] = {}
        modified = False
        for node in model.graph:
            wanted = _module(node) or node.name or node.outputs[0].name or node.op_type
            name = wanted
            while name in taken:
                numbers[wanted] = numbers.get(wanted, 1) + 1
                name = f"{wanted}_{numbers[wanted]}"
            taken.add(name)
            modified |= name != node.name
            node.name = name
        return PassResult(model, modified)


def _module(node: ir.Node) -> str | None:
    """The torch module that a layer stands for."""
    if node.domain == dialect.LATENT or (node.domain == "" and node.op_type in NAMED_AFTER_WEIGHT):
        return _from_weight(node) or _from_bias(node) or _from_scope(node) or _from_path(node)
    return None


def _from_weight(node: ir.Node) -> str | None:
    """The name of the one `.weight` that the layer's second factor is computed from."""
    waiting = list(node.inputs[1:2])
    found: set[str] = set()
    for _ in range(LONGEST_ROAD):
        if not waiting:
            return found.pop() if len(found) == 1 else None
        value = waiting.pop()
        producer = None if value is None else value.producer()
        if producer is not None:
            waiting.extend(producer.inputs)
        elif value is not None and not value.is_initializer():
            return None  # computed from the input: no weight of this layer
        elif value is not None and (value.name or "").endswith(WEIGHT):
            found.add((value.name or "").removesuffix(WEIGHT))
    return None


def _from_bias(node: ir.Node) -> str | None:
    bias = node.inputs[2] if node.op_type in NAMED_AFTER_BIAS and len(node.inputs) > 2 else None
    if bias is None or not bias.is_initializer() or not (bias.name or "").endswith(BIAS):
        return None
    return (bias.name or "").removesuffix(BIAS)


def _from_scope(node: ir.Node) -> str | None:
    """What torch's exporter noted; of a layer it fused with BatchNorm, that is the BatchNorm."""
    note = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    scopes = SCOPE.findall(note[:LONGEST_NOTE])
    return (scopes[-2] or None) if len(scopes) > 1 else None


def _from_path(node: ir.Node) -> str | None:
    """The modules in the node's name: `layer1.0.conv1` of `/layer1/layer1.0/conv1/Conv`."""
    path = PATH.fullmatch(node.name or "")
    if path is None or node.op_type not in NAMED_AFTER_PATH:
        return None
    parts = path[1].split("/")
    # A child of an nn.Sequential carries its parent's name: the next part says it again.
    pairs = zip(parts, parts[1:], strict=False)
    return ".".join(
        [part for part, after in pairs if not after.startswith(f"{part}.")] + parts[-1:]
    )
