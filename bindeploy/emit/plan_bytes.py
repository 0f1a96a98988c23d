"""Where every byte of a plan goes: the parts are those of an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bindeploy.convert.file_bytes import PARTS
from bindeploy.emit.plan_format import HEADER, NODE, NONE, TENSOR, Place, Type, opcodes


def plan_bytes(path: Path) -> dict[str, int]:
    """Bytes of each of `PARTS`; their sum is the size of the plan at `path`, one of ours.

    "graph" is the header, the tables, the names, and the padding between constants.
    """
    content = path.read_bytes()
    header = np.frombuffer(content, HEADER, 1)[0]
    tensors = np.frombuffer(content, TENSOR, header["tensor_count"], HEADER.itemsize)
    first_node = HEADER.itemsize + tensors.nbytes
    nodes = np.frombuffer(content, NODE, header["node_count"], first_node)
    names = {code: name for name, code in opcodes().items()}
    part: dict[int, str] = {}
    for node in nodes:
        for index, tensor in enumerate(node["inputs"]):
            if tensor != NONE:
                kind = int(tensors[tensor]["type"])
                part.setdefault(int(tensor), _part(names[int(node["op"])], index, kind))
    found = dict.fromkeys(PARTS, 0)
    for index, tensor in enumerate(tensors):
        if tensor["place"] == Place.CONSTANT:
            found[part.get(index, "float")] += int(tensor["bytes"])
    return found | {"graph": len(content) - sum(found.values())}


def _part(op: str, index: int, kind: int) -> str:
    """The part of a constant that is input `index` of a plan's op."""
    if kind == Type.U8:
        return "bits"
    weight = op.startswith("int8_") and index == 1
    packed = op.startswith(("binary_", "saturating_", "int8_"))
    return "scales" if packed and not weight else "float"
