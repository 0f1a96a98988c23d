"""Weight-only dense layers as onnxruntime's own operator: the same numbers, a valid file."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bindeploy import bits
from bindeploy.convert import notes
from bindeploy.convert.file_bytes import onnx_bytes
from bindeploy.convert.inspect import inspect
from bindeploy.convert.lower_weight_only import INT8, LowerWeightOnly, lower_weight_only, packed
from bindeploy.convert.pipeline import convert
from bindeploy.convert.pipeline import run as run_pipeline
from bindeploy.emit.onnx import save


@pytest.fixture
def dense(sketch):
    """A function: two weight-only dense layers over [..., depth], converted."""

    def make(depth: int, width: int = 21, *, leading=(), bias=True):
        drawing = sketch((*leading, depth))
        y = "x"
        for name, channels, filters in [("first", depth, width), ("second", width, 5)]:
            given = None if bias else np.zeros(filters)
            y = drawing.node("Tanh", [y])
            y = drawing.linear(y, channels, filters, name, "BinaryWeightLinear", bias=given)
        return convert(drawing.model(y))

    return make


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 64, 127, 128, 129, 300])
@pytest.mark.parametrize("leading", [(), (3,)])
def test_numbers_are_those_of_the_function_body(dense, images, depth, leading):
    model = dense(depth, leading=leading)
    lowered, names = lower_weight_only(model)
    assert names == ["first", "second"]
    assert [node.op_type for node in lowered.graph] == [
        *("Tanh", "MatMulNBits", "Add"),
        *("Tanh", "MatMulNBits", "Add"),
    ]
    assert [value.name for value in lowered.graph.outputs] == [
        value.name for value in model.graph.outputs
    ]
    x = images(7, *leading, depth)
    expected = run(model, x)
    np.testing.assert_allclose(run(lowered, x), expected, rtol=1e-5, atol=1e-5)


def test_a_bias_of_zeros_needs_no_node(dense, images):
    model = dense(40, bias=False)
    lowered, _ = lower_weight_only(model)
    assert [node.op_type for node in lowered.graph] == ["Tanh", "MatMulNBits"] * 2
    x = images(7, 40)
    np.testing.assert_allclose(run(lowered, x), run(model, x), rtol=1e-5, atol=1e-5)


def test_x_may_be_rounded_to_8_bits_and_is_not_by_default(dense, images):
    model, x = dense(256), images(7, 256)
    expected = run(model, x)
    rounded = run(lower_weight_only(model, INT8)[0], x)
    off = np.abs(rounded - expected).max() / np.abs(expected).max()
    assert 1e-5 < off < 0.05


def test_the_file_is_valid_and_holds_two_bits_a_weight(dense, tmp_path):
    lowered, _ = lower_weight_only(dense(1024, 512))
    save(lowered, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    packed_bytes = 1024 * 512 * 2 // 8 + 4 * 512 * (1024 // 128)
    assert packed_bytes < (tmp_path / "model.onnx").stat().st_size < 1.1 * packed_bytes
    assert not lowered.functions


def test_the_model_it_was_made_from_stays_as_it_is(dense):
    model = dense(40)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    lower_weight_only(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_other_layers_stay_and_what_was_done_is_noted(sketch, images):
    drawing = sketch((16, 6, 6))
    y = drawing.conv_of("x", 16, 8, "conv", kind="BinaryWeightConv2d", pad_value=0.0)
    y = drawing.node("Flatten", [y])
    y = drawing.linear(y, 8 * 36, 12, "dense", "BinaryWeightLinear")
    model = convert(drawing.model(drawing.linear(y, 12, 4, "last")))
    lower = LowerWeightOnly()
    copy = model.clone()
    lower(copy)
    assert lower.lowered == ["dense"]
    kinds = {node.name: node for node in copy.graph}
    assert notes.RULE in kinds["dense"].metadata_props
    assert {kinds["conv"].op_type, kinds["last"].op_type} == {"BinaryWeightConv2d", "BinaryLinear"}
    assert {name for _, name, _ in copy.functions} == {"BinaryWeightConv2d", "BinaryLinear"}
    x = images(3, 16, 6, 6)
    np.testing.assert_allclose(run(copy, x), run(model, x), rtol=1e-4, atol=1e-4)


def test_packing_keeps_every_sign_and_fills_rows_with_zero_weights():
    signs = bits.sign(np.random.default_rng(0).normal(size=(5, 37)))
    q = packed(signs, 32)
    assert q.shape == (5, 2, 8)
    found = (q[..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(5, 64).astype(int) - 2
    np.testing.assert_array_equal(found[:, :37], signs)
    assert not found[:, 37:].any()


def test_a_lowered_layer_is_still_told_and_counted(dense, tmp_path):
    model = dense(100)
    layers = run_pipeline(model, weight_only="matmulnbits").layers
    assert [(layer.name, layer.op, layer.binarized) for layer in layers] == [
        ("first", "MatMulNBits", True),
        ("second", "MatMulNBits", True),
    ]
    assert all((layer.rule or "").endswith("MatMulNBits of 2 bits") for layer in layers)
    lowered, _ = lower_weight_only(model)
    before, after = inspect(model)["total"], inspect(lowered)["total"]
    assert after["float_macs"] == before["float_macs"] == 100 * 21 + 21 * 5
    assert after["parameters"] == before["parameters"] == 100 * 21 + 21 * 5 + 2 * (21 + 5)
    save(lowered, tmp_path / "model.onnx")
    assert onnx_bytes(tmp_path / "model.onnx")["bits"] == 21 * 128 // 4 + 5 * 32 // 4


def test_a_matmulnbits_of_others_is_not_called_bits(dense):
    theirs = run_pipeline(dense(40), weight_only="matmulnbits").model
    layers = run_pipeline(theirs).layers
    assert [(layer.binarized, layer.reason) for layer in layers] == [
        (False, "already a MatMulNBits")
    ] * 2
