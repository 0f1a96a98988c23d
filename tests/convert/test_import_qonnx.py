"""The quantizers of QONNX by numbers: formulas written here, standard operators in onnxruntime."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnxscript.optimizer import fold_constants

from bindeploy.convert.engines import onnxruntime_run
from bindeploy.convert.import_qonnx import DOMAINS, ROUNDING, ImportQonnx

GENERAL = "qonnx.custom_op.general"

ROUND = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.where(x < 0, np.floor(x), np.ceil(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.where(x < 0, np.ceil(x - 0.5), np.floor(x + 0.5)),
    "HALF_DOWN": lambda x: np.where(x < 0, np.floor(x + 0.5), np.ceil(x - 0.5)),
}


def quantizer(kind, *given, domain=GENERAL, shape=(3, 4, 50), **attributes) -> ir.Model:
    """y = kind(x, *given), the given numbers being initializers."""
    names = [f"c{number}" for number in range(len(given))]
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in zip(names, given, strict=True)
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, ["x", *names], ["y"], "q", domain=domain, **attributes)],
        "quantizer",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, [None] * len(shape))],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(domain, 1)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return onnxruntime_run(ir.to_proto(model))(x)[0]


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


@pytest.fixture
def steps() -> np.ndarray:
    """[3, 4, 50] with both zeros, ties of every scale used here, and numbers out of every range."""
    random = np.random.default_rng(3)
    x = np.round(random.normal(0, 6, (3, 4, 50)) * 8) / 8
    x[0, 0, :2] = 0.0, -0.0
    x[0, 0, 2:4] = 1e4, -1e4
    return x.astype(np.float32)


@pytest.mark.parametrize("domain", sorted(DOMAINS))
@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (1, 4, 1)])
def test_bipolar_quant_is_scale_times_sign_and_zero_is_plus_one(steps, domain, shape):
    scale = np.random.default_rng(1).uniform(0.1, 2, shape).astype(np.float32)
    model = quantizer("BipolarQuant", scale, domain=domain)
    assert ImportQonnx()(model).modified
    expected = np.where(np.signbit(steps) & (steps != 0), -scale, scale)
    np.testing.assert_array_equal(run(model, steps), expected)
    assert kinds(model) == ["GreaterOrEqual", "Where", "Mul"]
    assert not ImportQonnx()(model).modified


def test_a_scale_of_one_writes_no_product(steps):
    model = quantizer("BipolarQuant", [1.0])
    ImportQonnx()(model)
    assert kinds(model) == ["GreaterOrEqual", "Where"]
    assert [node.name for node in model.graph][-1] == "q"


@pytest.mark.parametrize("mode", sorted(ROUNDING))
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize(
    ("signed", "narrow", "bits", "least", "largest"),
    [
        (1, 0, 2, -2, 1),
        (1, 1, 2, -1, 1),
        (1, 1, 4, -7, 7),
        (0, 0, 4, 0, 15),
        (0, 1, 4, 0, 14),
        (0, 0, 1, 0, 1),
        (1, 0, 8, -128, 127),
        (0, 0, 8, 0, 255),
    ],
)
def test_quant_clips_rounds_and_scales(steps, mode, zero, signed, narrow, bits, least, largest):
    scale = np.float32(0.25)
    given = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
    model = quantizer("Quant", scale, zero, bits, **given)
    ImportQonnx()(model)
    expected = scale * (ROUND[mode](np.clip(steps / scale + zero, least, largest)) - zero)
    np.testing.assert_array_equal(run(model, steps), expected)


def test_quant_scales_each_channel_by_its_own(steps):
    scale = np.float32([[0.1], [0.25], [1.0], [3.0]])
    model = quantizer("IntQuant", scale, 0.0, 3, signed=1, narrow=0)
    ImportQonnx()(model)
    expected = scale * np.round(np.clip(steps / scale, -4, 3))
    np.testing.assert_array_equal(run(model, steps), expected)


@pytest.mark.parametrize("zero", [0.0, 0.5])
def test_quant_of_one_signed_bit_is_a_sign(steps, zero):
    model = quantizer("Quant", 0.5, zero, 1, signed=1, narrow=0)
    ImportQonnx()(model)
    expected = np.float32(0.5) * (np.where(steps / 0.5 + zero >= 0, 1, -1) - np.float32(zero))
    np.testing.assert_array_equal(run(model, steps), expected)


@pytest.mark.parametrize(("signed", "dtype"), [(1, np.int8), (0, np.uint8)])
def test_eight_bits_become_quantize_and_dequantize(steps, signed, dtype):
    model = quantizer("Quant", [0.0625], 0, 8, signed=signed, narrow=0)
    ImportQonnx()(model)
    assert kinds(model) == ["QuantizeLinear", "DequantizeLinear"]
    limits = np.iinfo(dtype)
    expected = np.clip(np.round(steps / 0.0625), limits.min, limits.max) * np.float32(0.0625)
    np.testing.assert_array_equal(run(model, steps), expected)


@pytest.mark.parametrize(
    "other",
    [{"narrow": 1}, {"rounding_mode": "FLOOR"}, {"zero": 1.0}, {"scale": [[0.5], [1], [2], [3]]}],
)
def test_eight_bits_that_quantize_linear_rounds_otherwise_are_written_out(other):
    given = {"signed": 1, "narrow": 0, **other}
    scale, zero = given.pop("scale", 0.5), given.pop("zero", 0.0)
    model = quantizer("Quant", scale, zero, 8, **given)
    ImportQonnx()(model)
    assert "QuantizeLinear" not in kinds(model) and "Clip" in kinds(model)


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
def test_trunc_drops_bits(steps, mode):
    model = quantizer("Trunc", 0.125, 2, 8, 5, rounding_mode=mode)
    ImportQonnx()(model)
    expected = 0.125 * (ROUND[mode](np.round(steps / 0.125 + 2) / 8) - 2)
    np.testing.assert_array_equal(run(model, steps), expected.astype(np.float32))


def test_trunc_of_version_2_clips_and_rescales(steps):
    model = quantizer("Trunc", 0.125, 4, 8, 0.5, 4, rounding_mode="FLOOR", signed=1, narrow=0)
    ImportQonnx()(model)
    whole = np.clip(np.round(steps / 0.125 + 4) / 4, -8, 7)
    np.testing.assert_array_equal(run(model, steps), 0.5 * (np.floor(whole) - 1))


@pytest.mark.parametrize(
    ("kind", "given", "attributes"),
    [
        ("Quant", (0.5, 0, [2, 3]), {}),
        ("Quant", (0.5, 0, np.nan), {}),
        ("Quant", (0.5, 0, 0), {}),
        ("Quant", (0.5, 0), {}),
        ("Quant", (0.5, 0, 4), {"rounding_mode": "STOCHASTIC"}),
        ("BipolarQuant", (), {}),
        ("Trunc", (0.5, 0, 8), {}),
        ("MultiThreshold", ([[0.5]],), {}),
        ("FloatQuant", (0.5, 4, 3, 7, 100), {}),
    ],
)
def test_what_is_not_understood_stays(kind, given, attributes):
    model = quantizer(kind, *given, **attributes)
    before = ir.to_proto(model)
    assert not ImportQonnx()(model).modified
    assert ir.to_proto(model) == before
    assert not model.graph[0].inputs[0].uses()[1:], "no node is left behind that reads x"


def test_a_computed_bit_width_stays_and_a_computed_scale_does_not(steps):
    text = f"""<ir_version: 10, opset_import: ["": 20, "{GENERAL}": 1]>
    g (float[3,4,50] x, float[] s, float[] n) => (float[3,4,50] y, float[3,4,50] z)
    <float zero = {{0}}, float two = {{2}}> {{
        y = {GENERAL}.Quant <signed=1, narrow=0> (x, s, zero, n)
        z = {GENERAL}.Quant <signed=1, narrow=0> (x, s, zero, two)
    }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    ImportQonnx()(model)
    assert [node.domain for node in model.graph].count(GENERAL) == 1
    assert model.graph.outputs[0].producer().op_type == "Quant"
    del model.graph.outputs[0]
    model.graph.remove(next(node for node in model.graph if node.domain), safe=True)
    session = onnx.reference.ReferenceEvaluator(ir.to_proto(model))
    (found,) = session.run(None, {"x": steps, "s": np.float32(0.5), "n": np.float32(2)})
    np.testing.assert_array_equal(found, 0.5 * np.round(np.clip(steps / 0.5, -2, 1)))


def test_a_transposed_weight_becomes_a_constant_and_shapes_behind_it_are_known():
    random = np.random.default_rng(0)
    text = f"""<ir_version: 10, opset_import: ["": 20, "{GENERAL}": 1]>
    g (float[N,6] x) => (float[N,3] y)
    <float[3,6] w = {{{",".join(f"{v:.4f}" for v in random.normal(size=18))}}},
     float[3,1] s = {{0.5, 0.25, 3}}, float[1] one = {{1}}> {{
        b = {GENERAL}.BipolarQuant(x, one)
        q = {GENERAL}.BipolarQuant(w, s)
        t = Transpose <perm=[1, 0]> (q)
        y = MatMul(b, t)
    }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    weight = model.graph.initializers["w"].const_value.numpy()
    ImportQonnx()(model)
    fold_constants(model)
    layer = model.graph[-1]
    found = ir.convenience.get_const_tensor(layer.inputs[1]).numpy()
    np.testing.assert_array_equal(found.T, np.sign(weight) * [[0.5], [0.25], [3]])
    assert layer.inputs[0].shape == ir.Shape(["N", 6])
