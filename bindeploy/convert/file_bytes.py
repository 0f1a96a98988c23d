"""Where every byte of an ONNX file goes."""

from __future__ import annotations

from pathlib import Path

import onnx

from bindeploy.convert import dialect, lower_weight_only

PARTS = ("bits", "scales", "float", "graph")
"""Packed weights; what stands beside them (scale, bias, threshold, direction); all other constants;
and what is no constant: nodes, names, shapes, function bodies."""

PART_OF = {
    "bits": "bits",
    "scale": "scales",
    "bias": "scales",
    "input_scale": "scales",
    "threshold": "scales",
    "direction": "scales",
}
"""The part that a constant input of a dialect op belongs to, by the input's name."""

WEIGHT_ONLY = {(lower_weight_only.DOMAIN, lower_weight_only.OP): ("x", "bits", "scale")}
"""The inputs of onnxruntime's own operator, by the names of PART_OF."""


def onnx_bytes(path: Path) -> dict[str, int]:
    """Bytes of each of `PARTS`; their sum is the size of the file at `path`, which holds a model.

    A constant in two roles counts once, in the first one; one that lies in another file counts 0.
    """
    content = path.read_bytes()
    graph = onnx.ModelProto.FromString(content).graph
    part: dict[str, str] = {}
    for node in graph.node:
        key = (node.domain, node.op_type)
        roles = dialect.OPS[key].inputs if key in dialect.OPS else WEIGHT_ONLY.get(key, ())
        for role, name in zip(roles, node.input, strict=False):
            part.setdefault(name, PART_OF.get(role, "float"))
    found = dict.fromkeys(PARTS, 0)
    for tensor in graph.initializer:
        found[part.get(tensor.name, "float")] += _payload(tensor)
    return found | {"graph": len(content) - sum(found.values())}


def _payload(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values, which some writers spell out as numbers."""
    if tensor.raw_data:
        return len(tensor.raw_data)
    head = onnx.TensorProto()
    head.CopyFrom(tensor)
    for field in ("float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
        head.ClearField(field)
    return tensor.ByteSize() - head.ByteSize()
