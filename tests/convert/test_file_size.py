"""Files are small, and every byte of them is accounted for."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from bindeploy.convert import dialect
from bindeploy.convert.dialect_compact import compact
from bindeploy.convert.file_bytes import PARTS, onnx_bytes
from bindeploy.convert.float_twin import float_twin
from bindeploy.convert.inspect import inspect
from bindeploy.convert.pipeline import convert
from bindeploy.emit.onnx import save
from bindeploy.emit.plan import write_plan
from bindeploy.emit.plan_bytes import plan_bytes

LARGEST_BODY = 2500
"""Bytes of one function body; a file has a handful."""

LARGEST_OF_PICTURES = 3800
"""Of a convolution whose body has no Conv, since its sums saturate on the way."""


@pytest.mark.parametrize("op", dialect.OPS.values(), ids=lambda op: "::".join(op.key))
def test_a_function_body_is_small_and_says_every_constant_once(op):
    body = ir.serde.serialize_function(dialect.function(op))
    largest = LARGEST_OF_PICTURES if op.name.startswith("SaturatingBinaryConv") else LARGEST_BODY
    assert body.ByteSize() < largest
    constants = [
        node.attribute[0].t.raw_data
        + bytes([node.attribute[0].t.data_type])
        + bytes(node.attribute[0].t.dims)
        for node in body.node
        if node.op_type == "Constant" and node.attribute[0].HasField("t")
    ]
    assert len(set(constants)) == len(constants)
    assert not any(node.name for node in body.node)
    written = [name for node in body.node for name in node.output]
    assert len({*written, *body.input}) == len(written) + len(body.input)
    assert written[-1] == body.output[0] == "y"


def test_compacting_keeps_constants_apart_that_differ_in_type_or_shape():
    one = ir.Value(name="x")
    given = [np.int64([1]), np.int64(1), np.int32([1]), np.int64([1])]
    nodes = [ir.node("Constant", [], attributes={"value": ir.tensor(array)}) for array in given]
    last = ir.node("Concat", [node.outputs[0] for node in nodes], attributes={"axis": 0})
    graph = ir.Graph([one], last.outputs, nodes=[*nodes, last], opset_imports={"": 20})
    body = ir.Function("test", "Body", graph=graph, attributes=[])
    compact(body)
    assert [node.op_type for node in body] == ["Constant"] * 3 + ["Concat"]
    read = [value.name for value in last.inputs]
    assert read[0] == read[3] and len(set(read)) == 3


@pytest.fixture
def network(sketch):
    drawing = sketch((16, 8, 8))
    y = drawing.node(
        "Conv", ["x", drawing.constant("stem", drawing.random.normal(size=(40, 16, 3, 3)))]
    )
    for name in ("first", "second"):
        y = drawing.conv(y, 40, 40, name)
        y = drawing.normalize(y, 40, f"{name}.bn")
    y = drawing.node("GlobalAveragePool", [y])
    y = drawing.node("Flatten", [y])
    return convert(drawing.model(drawing.linear(y, 40, 10, "last", "BinaryWeightLinear")))


def test_the_parts_of_an_onnx_file_are_its_size(network, tmp_path):
    path = tmp_path / "model.onnx"
    save(network, path)
    parts = onnx_bytes(path)
    assert tuple(parts) == PARTS and sum(parts.values()) == path.stat().st_size
    row = 4 * -(-40 // 32)
    assert parts["bits"] == 2 * 40 * 9 * row + 10 * row
    assert parts["float"] == 4 * 40 * 16 * 9
    assert 5 * 40 + 4 * 2 * (40 + 10) <= parts["scales"] <= 4 * 2 * (40 + 40 + 10)
    graph = onnx.load(path).graph
    assert parts["graph"] > sum(node.ByteSize() for node in graph.node)


def test_the_parts_of_a_plan_are_its_size(network, tmp_path):
    path, plan = tmp_path / "model.onnx", tmp_path / "model.bd"
    save(network, path)
    write_plan(network, plan)
    parts, portable = plan_bytes(plan), onnx_bytes(path)
    assert tuple(parts) == PARTS and sum(parts.values()) == plan.stat().st_size
    assert parts["bits"] == portable["bits"]
    assert parts["scales"] <= portable["scales"]
    assert parts["float"] >= portable["float"]


def test_numbers_spelled_out_in_a_foreign_file_count_as_what_they_take(tmp_path):
    spelled = helper.make_tensor("w", TensorProto.INT64, [3], [1, 2, 3])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [3])],
        [spelled],
    )
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph), path)
    parts = onnx_bytes(path)
    assert parts["float"] == 2 + 3 and sum(parts.values()) == path.stat().st_size


def test_a_layer_of_some_hundred_weights_is_smaller_packed_than_as_floats(sketch, tmp_path):
    def sizes(depth: int) -> tuple[int, int]:
        drawing = sketch((depth,))
        packed = convert(drawing.model(drawing.linear("x", depth, 32, "dense")))
        save(packed, tmp_path / "model.onnx")
        twin = float_twin(onnx.load(tmp_path / "model.onnx"))
        return (tmp_path / "model.onnx").stat().st_size, twin.ByteSize()

    small, small_twin = sizes(32)
    assert small < small_twin
    large, large_twin = sizes(2048)
    assert large_twin > 24 * large


def test_inspecting_a_model_without_imports_infers_its_shapes_all_the_same(network, caplog):
    del network.opset_imports[dialect.DOMAIN]
    with caplog.at_level(logging.WARNING):
        rows = inspect(network)["layers"]
    assert not caplog.records
    assert [row["output_shape"] for row in rows if row["name"] == "last"] == [[10]]


CONVERT = """
import sys
from pathlib import Path
from bindeploy.convert import pipeline
from bindeploy.emit.onnx import save
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
before = peak()
save(pipeline.run(pipeline.load(sys.argv[1])).model, Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_converting_takes_less_than_four_times_the_memory_of_the_floats(sketch, saved, tmp_path):
    drawing = sketch((2048,))
    y = drawing.linear("x", 2048, 2048, "first")
    path = saved(drawing.model(drawing.linear(y, 2048, 2048, "second")), "latent.onnx")
    command = [sys.executable, "-c", CONVERT, str(path), str(tmp_path / "packed.onnx")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size = path.stat().st_size
    assert size > 2 * 4 * 2048**2
    assert size < int(done.stdout) < 4 * size
