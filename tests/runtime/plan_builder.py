"""Plans for tests, packed by hand: `runtime/src/model.h` once more, independent of the emitter."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
OPCODES = {
    name: int(code)
    for code, name in re.findall(r"BD_OP\((\d+), (\w+)\)", (RUNTIME / "src/ops.inc").read_text())
}
F32, I32, U8, I8, BITS = 1, 2, 3, 4, 5
TYPES = {"float32": F32, "int32": I32, "uint8": U8, "int8": I8}
NONE = 0xFFFFFFFF
HEADER_BYTES, TENSOR_BYTES, NODE_BYTES = 64, 48, 108
INFINITY = float("inf")


def aligned(size: int) -> int:
    return -(-size // 64) * 64


@dataclass
class Tensor:
    name: str
    type: int
    shape: tuple[int, ...]
    data: bytes | None
    offset: int = 0

    @property
    def size(self) -> int:
        if self.type == BITS:
            return math.prod(self.shape[:3]) * -(-self.shape[3] // 64) * 8
        return math.prod(self.shape) * (4 if self.type in (F32, I32) else 1)


@dataclass
class Node:
    op: str
    name: str
    inputs: tuple[int | None, ...]
    output: int
    settings: dict[str, object]

    def pack(self, name: int) -> bytes:
        def of(key: str, default: Any) -> Any:
            return self.settings.get(key, default)

        given = (NONE if tensor is None else tensor for tensor in self.inputs)
        inputs = (*given, *(NONE,) * (8 - len(self.inputs)))
        code = self.settings.get("opcode", OPCODES.get(self.op))
        head = struct.pack("<11I", code, name, *inputs, self.output)
        window = struct.pack(
            "<10i",
            *of("kernel", (1, 1)),
            *of("strides", (1, 1)),
            *of("pads", (0, 0, 0, 0)),
            *of("dilations", (1, 1)),
        )
        numbers = struct.pack(
            "<3iI", of("group", 1), of("pad_value", 1), of("channel_offset", 0), of("flags", 0)
        )
        clamp = struct.pack("<2f", of("minimum", -INFINITY), of("maximum", INFINITY))
        return head + window + numbers + clamp


@dataclass
class Plan:
    """Tensors are given by index; activations are placed one after the other, none reused."""

    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    input: int = 0
    output: int = 0

    def activation(self, name: str, shape: tuple[int, ...], type: int = F32) -> int:
        used = sum(aligned(t.size) for t in self.tensors if t.data is None)
        self.tensors.append(Tensor(name, type, shape, None, used))
        return len(self.tensors) - 1

    def constant(self, name: str, array: NDArray) -> int:
        shape = (*array.shape, 1, 1, 1)[:4]
        data = np.ascontiguousarray(array).tobytes()
        self.tensors.append(Tensor(name, TYPES[str(array.dtype)], shape, data))
        return len(self.tensors) - 1

    def node(self, op: str, inputs: tuple[int | None, ...], output: int, **settings: object) -> int:
        name = str(settings.pop("name", f"{op}{len(self.nodes)}"))
        self.nodes.append(Node(op, name, inputs, output, settings))
        return output

    @property
    def tables_bytes(self) -> int:
        return HEADER_BYTES + TENSOR_BYTES * len(self.tensors) + NODE_BYTES * len(self.nodes)

    def to_bytes(self) -> bytes:
        names = b""
        nodes = b""
        tensors = b""
        constants = b""
        for node in self.nodes:
            nodes += node.pack(len(names))
            names += node.name.encode() + b"\0"
        all_names = names + b"".join(t.name.encode() + b"\0" for t in self.tensors)
        begin = aligned(self.tables_bytes + len(all_names))
        for tensor in self.tensors:
            offset = tensor.offset if tensor.data is None else begin + len(constants)
            place = 0 if tensor.data is None else 1
            row = (tensor.type, place, *tensor.shape, offset, tensor.size, len(names), 0)
            tensors += struct.pack("<6I2Q2I", *row)
            names += tensor.name.encode() + b"\0"
            if tensor.data is not None:
                constants += tensor.data.ljust(aligned(len(tensor.data)), b"\0")
        body = (tensors + nodes + names).ljust(begin - HEADER_BYTES, b"\0") + constants
        arena = sum(aligned(t.size) for t in self.tensors if t.data is None)
        sizes = (HEADER_BYTES + len(body), arena)
        counts = (len(self.tensors), len(self.nodes), self.input, self.output, len(names))
        header = struct.pack(
            "<8s2I2Q8I", b"BDPLAN\r\n", 2, zlib.crc32(body), *sizes, *counts, 0, 0, 0
        )
        return header + body


def repaired(plan: bytes) -> bytes:
    """The same bytes with a size and a checksum that fit them."""
    fixed = bytearray(plan)
    fixed[12:16] = struct.pack("<I", zlib.crc32(plan[HEADER_BYTES:]))
    fixed[16:24] = struct.pack("<Q", len(plan))
    return bytes(fixed)
