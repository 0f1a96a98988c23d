"""The bytes of a plan: `runtime/src/model.h`, written.

    header | tensors | nodes | names | zero padding to 64 | constants, each at a multiple of 64

Everything is little endian. Opcodes come from `runtime/src/ops.inc`, where they stand once.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np

from bindeploy.errors import BindeployError
from bindeploy.files import resource

MAGIC = b"BDPLAN\r\n"
VERSION = 2
NONE = 0xFFFFFFFF
ALIGNMENT = 64

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("checksum", "<u4"),
        ("file_bytes", "<u8"),
        ("arena_bytes", "<u8"),
        ("tensor_count", "<u4"),
        ("node_count", "<u4"),
        ("input", "<u4"),
        ("output", "<u4"),
        ("names_bytes", "<u4"),
        ("input_rank", "<u4"),
        ("output_rank", "<u4"),
        ("reserved", "<u4"),
    ]
)
TENSOR = np.dtype(
    [
        ("type", "<u4"),
        ("place", "<u4"),
        ("shape", "<u4", 4),
        ("offset", "<u8"),
        ("bytes", "<u8"),
        ("name", "<u4"),
        ("reserved", "<u4"),
    ]
)
SETTINGS = [
    ("kernel", "<i4", 2),
    ("strides", "<i4", 2),
    ("pads", "<i4", 4),
    ("dilations", "<i4", 2),
    ("group", "<i4"),
    ("pad_value", "<i4"),
    ("channel_offset", "<i4"),
    ("flags", "<u4"),
    ("minimum", "<f4"),
    ("maximum", "<f4"),
]
"""The fields of a node that its op gives a meaning to."""

NODE = np.dtype(
    [("op", "<u4"), ("name", "<u4"), ("inputs", "<u4", 8), ("output", "<u4"), *SETTINGS]
)

Shape = tuple[int, int, int, int]


class Type(IntEnum):
    """What a tensor's elements are."""

    F32 = 1
    I32 = 2
    U8 = 3
    I8 = 4
    BITS = 5


class Place(IntEnum):
    """Where a tensor lives: in the arena, or in the file itself."""

    ARENA = 0
    CONSTANT = 1


TYPE_OF = {"float32": Type.F32, "int32": Type.I32, "uint8": Type.U8, "int8": Type.I8}


@cache
def opcodes() -> dict[str, int]:
    """Name -> code of every op, as `runtime/src/ops.inc` lists them."""
    text = (resource("runtime") / "src" / "ops.inc").read_text()
    rows = re.findall(r"^BD_OP\((\d+), (\w+)\)", text, re.MULTILINE)
    return {name: int(code) for code, name in rows}


def aligned(size: int) -> int:
    """`size` bytes rounded up to the alignment of tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass
class Tensor:
    """One row of the tensor table: an activation at `offset` in the arena, or a constant."""

    name: str
    type: Type
    shape: Shape
    constant: bytes | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes: a row of bits (one pixel) is ceil(C / 64) words of 8 bytes."""
        if self.type is Type.BITS:
            return math.prod(self.shape[:3]) * -(-self.shape[3] // 64) * 8
        return math.prod(self.shape) * (4 if self.type in (Type.F32, Type.I32) else 1)


@dataclass
class Node:
    """One row of the node table; fields that its op does not use are 0, absent inputs None."""

    op: str
    name: str
    inputs: tuple[int | None, ...]
    output: int
    kernel: tuple[int, int] = (0, 0)
    strides: tuple[int, int] = (0, 0)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (0, 0)
    group: int = 0
    pad_value: int = 0
    channel_offset: int = 0
    flags: int = 0
    minimum: float = 0.0
    maximum: float = 0.0


class Names:
    """The names of a plan as one run of NUL-terminated UTF-8, each once, fit to print."""

    def __init__(self) -> None:
        self.bytes = b""
        self._offsets: dict[str, int] = {}

    def offset(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self.bytes)
            self.bytes += re.sub(r"[\x00-\x1f\x7f]", "_", name).encode() + b"\0"
        return self._offsets[name]


@dataclass
class Plan:
    """What the runtime loads: tensors, the nodes in the order they run, one input and one output.

    The input and output tensors are [1, C, H, W], or [1, H, W, C] where the ONNX model has channels
    last; `input_rank` and `output_rank` (2, 3 or 4) say how many axes it gave them.
    """

    tensors: Sequence[Tensor]
    nodes: Sequence[Node]
    input: int
    output: int
    arena_bytes: int
    input_rank: int = 4
    output_rank: int = 4

    def to_bytes(self) -> bytes:
        """The file `model.bd`, byte for byte as `runtime/src/model.h` defines it."""
        names = Names()
        tensors = np.zeros(len(self.tensors), TENSOR)
        nodes = np.zeros(len(self.nodes), NODE)
        try:
            for row, node in zip(nodes, self.nodes, strict=True):
                _fill_node(row, node, names)
            for row, tensor in zip(tensors, self.tensors, strict=True):
                _fill_tensor(row, tensor, names)
        except OverflowError as error:
            raise BindeployError(
                f"the model has a size that no plan holds ({error}): make it smaller"
            ) from error

        tables = HEADER.itemsize + tensors.nbytes + nodes.nbytes + len(names.bytes)
        constants = bytearray()
        for row, tensor in zip(tensors, self.tensors, strict=True):
            if tensor.constant is not None:
                row["offset"] = aligned(tables) + len(constants)
                constants += tensor.constant.ljust(aligned(len(tensor.constant)), b"\0")
        padding = b"\0" * (aligned(tables) - tables)
        body = tensors.tobytes() + nodes.tobytes() + names.bytes + padding + bytes(constants)

        header = np.zeros((), HEADER)
        header["magic"] = MAGIC
        header["version"] = VERSION
        header["checksum"] = zlib.crc32(body)
        header["file_bytes"] = HEADER.itemsize + len(body)
        header["arena_bytes"] = self.arena_bytes
        header["tensor_count"] = len(tensors)
        header["node_count"] = len(nodes)
        header["input"] = self.input
        header["output"] = self.output
        header["names_bytes"] = len(names.bytes)
        header["input_rank"] = self.input_rank
        header["output_rank"] = self.output_rank
        return header.tobytes() + body


def _fill_tensor(row: np.void, tensor: Tensor, names: Names) -> None:
    row["type"] = tensor.type
    row["place"] = Place.ARENA if tensor.constant is None else Place.CONSTANT
    row["shape"] = tensor.shape
    row["offset"] = tensor.offset
    row["bytes"] = tensor.size
    row["name"] = names.offset(tensor.name)


def _fill_node(row: np.void, node: Node, names: Names) -> None:
    row["op"] = opcodes()[node.op]
    row["name"] = names.offset(node.name)
    row["inputs"] = NONE
    for index, tensor in enumerate(node.inputs):
        if tensor is not None:
            row["inputs"][index] = tensor
    row["output"] = node.output
    for name in (str(setting[0]) for setting in SETTINGS):
        row[name] = getattr(node, name)
