"""The bytes of a plan are those that `runtime/src/model.h` defines."""

import re
import zlib

import numpy as np
import pytest

from bindeploy.emit import plan_format
from bindeploy.emit.plan_format import HEADER, NODE, TENSOR, Node, Plan, Tensor, Type
from bindeploy.files import resource

SOURCES = resource("runtime") / "src"
MODEL_H = (SOURCES / "model.h").read_text()
C_TYPES = {"char": "S", "uint32_t": "<u4", "int32_t": "<i4", "uint64_t": "<u8", "float": "<f4"}


def struct_in_c(name: str) -> tuple[int, list[tuple[str, str, int]]]:
    """Bytes that the comment states, and (field, dtype, count) of each field."""
    match = re.search(rf"struct {name} {{ /\* (\d+) bytes.*?\n(.*?)\n}};", MODEL_H, re.DOTALL)
    assert match is not None
    body = re.sub(r"/\*.*?\*/", "", match[2])
    fields = re.findall(r"(\w+) (\w+)(?:\[(\d+)\])?;", body)
    return int(match[1]), [(field, C_TYPES[c], int(n or 1)) for c, field, n in fields]


def struct_in_python(dtype: np.dtype) -> list[tuple[str, str, int]]:
    fields = []
    for name in dtype.names:
        field = dtype[name]
        if field.char == "S":
            fields.append((name, "S", field.itemsize))
        else:
            fields.append((name, field.base.str, field.itemsize // field.base.itemsize))
    return fields


@pytest.mark.parametrize(
    ("name", "dtype"), [("header", HEADER), ("tensor", TENSOR), ("node", NODE)]
)
def test_a_struct_has_the_fields_and_the_size_that_c_gives_it(name, dtype):
    size, fields = struct_in_c(f"bd_plan_{name}")
    assert dtype.itemsize == size
    assert struct_in_python(dtype) == fields


def test_constants_of_the_format_are_those_of_c():
    magic = re.search(r'BD_PLAN_MAGIC "(.*)"', MODEL_H)[1]
    assert magic.encode().decode("unicode_escape").encode() == plan_format.MAGIC
    assert int(re.search(r"BD_PLAN_VERSION (\d+)u", MODEL_H)[1]) == plan_format.VERSION
    for prefix, enumeration in (("type", Type), ("place", plan_format.Place)):
        listed = re.search(rf"enum bd_{prefix} {{(.*?)}}", MODEL_H)[1]
        codes = {name: int(code) for name, code in re.findall(r"BD_(\w+) = (\d+)", listed)}
        assert codes == {member.name: int(member) for member in enumeration}


def test_every_row_of_ops_inc_is_read():
    rows = (SOURCES / "ops.inc").read_text().count("\nBD_OP(")
    codes = plan_format.opcodes()
    assert len(codes) == rows
    assert codes["to_nhwc"] == 1
    assert codes["crop_pad"] == 15


def small_plan(name: str = "x") -> Plan:
    tensors = [
        Tensor(name, Type.F32, (1, 2, 3, 5)),
        Tensor("scale", Type.F32, (5, 1, 1, 1), constant=np.arange(5, dtype="<f4").tobytes()),
        Tensor("bits", Type.BITS, (1, 2, 3, 65), offset=128),
        Tensor("direction", Type.I8, (3, 1, 1, 1), constant=b"\1\xff\1"),
    ]
    node = Node("affine", "a", (0, 1), 2, pads=(1, -2, 3, 4), minimum=-np.inf, maximum=2.5)
    return Plan(tensors, [node], input=0, output=2, arena_bytes=256)


def tables(content: bytes) -> tuple[np.void, np.ndarray, np.ndarray, bytes]:
    header = np.frombuffer(content, HEADER, 1)[0]
    tensors = np.frombuffer(content, TENSOR, header["tensor_count"], HEADER.itemsize)
    start = HEADER.itemsize + tensors.nbytes
    nodes = np.frombuffer(content, NODE, header["node_count"], start)
    names = content[start + nodes.nbytes :][: header["names_bytes"]]
    return header, tensors, nodes, names


def test_the_header_counts_and_checks_what_follows():
    content = small_plan().to_bytes()
    header, *_ = tables(content)
    assert content.startswith(b"BDPLAN\r\n")
    assert header["checksum"] == zlib.crc32(content[64:])
    assert header["file_bytes"] == len(content)
    assert header["arena_bytes"] == 256
    assert (header["tensor_count"], header["node_count"]) == (4, 1)
    assert (header["input"], header["output"]) == (0, 2)


def test_constants_lie_at_multiples_of_64_and_hold_their_bytes():
    content = small_plan().to_bytes()
    _, tensors, _, _ = tables(content)
    constants = tensors[tensors["place"] == 1]
    assert len(constants) == 2
    held = (np.arange(5, dtype="<f4").tobytes(), b"\1\xff\1")
    for row, expected in zip(constants, held, strict=True):
        assert row["offset"] % 64 == 0
        assert content[row["offset"] :][: row["bytes"]] == expected


def test_a_row_of_bits_is_padded_to_words_of_64():
    _, tensors, _, _ = tables(small_plan().to_bytes())
    assert tensors["bytes"].tolist() == [2 * 3 * 5 * 4, 20, 2 * 3 * 2 * 8, 3]


def test_a_node_keeps_its_settings_and_leaves_absent_inputs_none():
    _, _, nodes, names = tables(small_plan().to_bytes())
    (node,) = nodes
    assert node["op"] == plan_format.opcodes()["affine"]
    assert node["inputs"].tolist() == [0, 1] + [0xFFFFFFFF] * 6
    assert node["pads"].tolist() == [1, -2, 3, 4]
    assert (node["minimum"], node["maximum"]) == (-np.inf, 2.5)
    assert names[node["name"] :].split(b"\0")[0] == b"a"


def test_names_are_printable_and_stand_once():
    names = plan_format.Names()
    first, second = names.offset("conv\n1\0"), names.offset("é")
    assert names.offset("conv\n1\0") == first
    assert names.bytes[first:second] == b"conv_1_\0"
    assert names.bytes[second:] == "é\0".encode()


def test_the_same_plan_gives_the_same_bytes():
    assert small_plan().to_bytes() == small_plan().to_bytes()
    assert small_plan("x").to_bytes() != small_plan("y").to_bytes()
