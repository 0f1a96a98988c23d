"""Expand beside an operator that broadcasts, by numbers and by what stays."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from bindeploy.convert.drop_expand import DropExpand
from bindeploy.convert.engines import onnxruntime_run

CONSTANTS = "float[3,1] b = {1, -2, 3}, float one = {1}, int64[1] three = {3}, int64[1] five = {5}"


def parsed(body: str, types="(float[N,3,5] x) => (float[N,3,5] y)", constants=CONSTANTS):
    text = f'<ir_version: 10, opset_import: ["": 20]> g {types} <{constants}> {{ {body} }}'
    return ir.from_proto(
        onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True)
    )


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(x) e = Expand(b, s) y = Add(x, e)",
        "s = Shape(x) e = Expand(b, s) y = Sub(e, x)",
        "s = Shape(x) e = Expand(b, s) f = Relu(x) y = PRelu(f, e)",
        "n = Shape <start=0, end=1> (x) s = Concat <axis=0> (n, three, five) e = Expand(b, s) "
        "y = Mul(x, e)",
    ],
)
def test_an_operator_that_broadcasts_needs_no_expand(body):
    model = parsed(body)
    if "Concat" in body:  # whose sizes exporters write down and inference does not
        expanded = next(node for node in model.graph if node.op_type == "Expand").outputs[0]
        expanded.shape = model.graph.inputs[0].shape
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    before = onnxruntime_run(ir.to_proto(model))(x)[0]
    assert DropExpand()(model).modified
    assert not {"Expand", "Shape", "Concat"} & set(kinds(model))
    np.testing.assert_array_equal(onnxruntime_run(ir.to_proto(model))(x)[0], before)


@pytest.mark.parametrize(
    ("body", "types"),
    [
        ("s = Shape(z) e = Expand(b, s) y = Add(x, e)", "(float[1,3,5] x, float[N,3,5] z)"),
        ("s = Shape(z) e = Expand(b, s) y = Add(x, e)", "(float[K,3,5] x, float[N,3,5] z)"),
        ("s = Shape(x) e = Expand(b, s) y = Add(x, e)", "(float[N,1,5] x)"),
        ("s = Shape(x) e = Expand(b, s) y = Concat <axis=0> (x, e)", "(float[N,3,5] x)"),
        ("s = Shape(x) e = Expand(b, s) y = PRelu(e, x)", "(float[N,3,5] x)"),
        ("s = Shape(x) y = Expand(b, s)", "(float[N,3,5] x)"),
    ],
    ids=["larger", "another size", "shape grows", "no broadcast", "slope", "output"],
)
def test_an_expand_that_something_needs_stays(body, types):
    model = parsed(body, f"{types} => (float[a,b,c] y)")
    assert not DropExpand()(model).modified
    assert "Expand" in kinds(model)
