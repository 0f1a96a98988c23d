"""Transposes that meet, by numbers, and those that never do."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from bindeploy.convert import dialect
from bindeploy.convert.cancel_transposes import CancelTransposes
from bindeploy.convert.engines import onnxruntime_run

CONSTANTS = (
    "int64[8] pads = {0, 1, 2, 0, 0, 3, 0, 0}, int64[2] some = {1, 1}, int64[1] axis = {1},"
    " float one = {1}, float half = {0.5}, float[3] each = {1, 2, 3}"
)
TYPES = "(float[N,3,4,5] x) => (float[a,b,c,d] y)"
LAST, FIRST = "Transpose <perm=[0,2,3,1]>", "Transpose <perm=[0,3,1,2]>"


def parsed(body: str) -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["": 20, "bindeploy.latent": 1]>
    g {TYPES} <{CONSTANTS}> {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    model = model.clone()
    dialect.attach_functions(model)
    return list(onnxruntime_run(ir.to_proto(model))(x))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"t = {LAST} (x) u = {FIRST} (t) y = Relu(u)", ["Relu"]),
        (f"t = {LAST} (x) u = {LAST} (t) y = Relu(u)", ["Transpose", "Relu"]),
        (f"t = {LAST} (x) u = Transpose <perm=[1,0,2,3]> (t) y = Abs(u)", ["Transpose", "Abs"]),
        (f"t = {LAST} (x) s = Tanh(t) u = {FIRST} (s) y = Relu(u)", ["Tanh", "Relu"]),
        (
            f"t = {LAST} (x) s = bindeploy.latent.BinarySign(t) p = Pad(s, pads, one) "
            f"u = {FIRST} (p) y = Relu(u)",
            ["BinarySign", "Pad", "Relu"],
        ),
        (
            f"t = {LAST} (x) a = Mul(half, t) b = Clip(a, half, one) u = {FIRST} (b) y = Relu(u)",
            ["Mul", "Clip", "Relu"],
        ),
        (
            f"t = {LAST} (x) s = Tanh(t) u = {FIRST} (s) r = Relu(u) v = {FIRST} (r) "
            f"w = {FIRST} (v) z = {FIRST} (w) y = Neg(z)",
            ["Tanh", "Relu", "Neg"],
        ),
        (
            f"t = {LAST} (x) s = Tanh(t) u = {FIRST} (s) v = {FIRST} (t) y = Add(u, v)",
            ["Tanh", "Add"],
        ),
        (f"t = {LAST} (x) s = Tanh(t) y = {FIRST} (s)", ["Tanh", "Transpose"]),
    ],
)
def test_transposes_that_meet_go(x, body, left):
    model = parsed(body)
    before = run(model, x)
    assert CancelTransposes()(model).modified
    assert kinds(model) == left
    for found, expected in zip(run(model, x), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    proto = ir.to_proto(model)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    assert not CancelTransposes()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        f"t = {LAST} (x) s = Tanh(t) y = Relu(s)",
        f"t = {LAST} (x) s = Mul(t, each) y = {FIRST} (s)",
        f"t = {LAST} (x) s = Add(t, t) y = {FIRST} (s)",
        f"t = {LAST} (x) s = Softmax(t) y = {FIRST} (s)",
        f"t = {LAST} (x) s = Pad(t, some, one, axis) y = {FIRST} (s)",
        f"t = {LAST} (x) s = Tanh(t) u = {FIRST} (s) v = Relu(s) w = {FIRST} (v) y = Add(u, w)",
        "t = Transpose(x) u = Transpose(t) y = Relu(u)",
    ],
    ids=["alone", "per channel", "twice", "no function", "pad of axes", "read twice", "no order"],
)
def test_transposes_that_do_not_meet_stay(x, body):
    model = parsed(body)
    before = kinds(model)
    CancelTransposes()(model)
    assert kinds(model) == before
