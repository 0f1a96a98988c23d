"""(s - b) + b in every order, on weights and activations, and in what torch exports of it."""

import logging
import warnings

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnxscript.optimizer import fold_constants
from torch import nn
from torch.nn import functional

from bindeploy.convert.drop_straight_through import DropStraightThrough
from bindeploy.convert.engines import onnxruntime_run

TYPES = "(float[N,4] x) => (float[N,4] y)"
CONSTANTS = "<float zero = {0}, float one = {1}, float half = {0.5}, float big = {12582912}>"


def parsed(body: str, types: str = TYPES, constants: str = CONSTANTS) -> ir.Model:
    head = '<ir_version: 10, opset_import: ["": 20]> g'
    text = f"{head} {types} {constants} {{ {body} }}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return onnxruntime_run(ir.to_proto(model))(x)[0]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (64, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "estimate",
    [
        "d = Sub(s, b) e = Add(d, b)",
        "d = Sub(s, b) e = Add(b, d)",
        "d = Add(s, b) e = Sub(d, b)",
        "d = Add(b, s) e = Sub(d, b)",
        "d = Sub(b, b) e = Add(s, d)",
        "d = Sub(b, b) e = Add(d, s)",
        "i = Identity(b) j = Identity(s) d = Sub(j, i) k = Identity(d) e = Add(k, b)",
    ],
)
def test_an_estimator_in_any_order_is_its_sign(x, estimate):
    model = parsed(f"b = Tanh(x) s = Sign(x) {estimate} y = Identity(e)")
    before = run(model, x)
    assert DropStraightThrough()(model).modified
    assert set(kinds(model)) <= {"Sign", "Identity"}
    np.testing.assert_array_equal(run(model, x), np.sign(x))
    np.testing.assert_allclose(before, np.sign(x), atol=1e-6)
    assert not DropStraightThrough()(model).modified


@pytest.mark.parametrize(
    "sign",
    [
        "m = one s = Sign(x)",
        "c = GreaterOrEqual(x, zero) m = Neg(half) s = Where(c, half, m)",
        "c = Less(x, zero) f = Cast <to=1> (c) g = Add(f, f) s = Sub(one, g)",
        "t = Sign(x) s = Mul(half, t)",
        "t = Sign(x) u = Neg(t) s = Div(u, half)",
        "t = Sign(x) h = Sqrt(half) s = Mul(t, h)",
    ],
)
def test_the_sign_has_any_spelling_and_a_constant_scale(x, sign):
    sign = sign.replace("m = one ", "")
    model = parsed(f"{sign} d = Sub(s, x) e = Add(x, d) y = Identity(e)")
    assert DropStraightThrough()(model).modified
    assert "x" not in [value.name for value in model.graph[-1].inputs]
    expected = run(parsed(f"{sign} y = Identity(s)"), x)
    np.testing.assert_array_equal(run(model, x), expected)


@pytest.mark.parametrize(
    "body",
    [
        "d = Add(x, big) e = Sub(d, big) y = Identity(e)",  # rounds to whole numbers
        "r = Round(x) d = Sub(r, x) e = Add(d, x) y = Identity(e)",
        "s = Sign(x) b = Tanh(x) c = Tanh(s) d = Sub(s, b) e = Add(d, c) y = Identity(e)",
        "s = Sign(x) b = Tanh(x) d = Sub(b, s) e = Add(d, b) y = Identity(e)",
        "s = Sign(x) t = Mul(s, x) d = Sub(t, x) e = Add(d, x) y = Identity(e)",
        "s = Sign(x) d = Sub(s, x) y = Add(d, x)",
    ],
    ids=["rounding", "no sign", "other b", "b - s + b", "computed scale", "output"],
)
def test_what_is_no_estimator_of_a_sign_stays(x, body):
    model = parsed(body)
    before = run(model, x)
    assert not DropStraightThrough()(model).modified
    np.testing.assert_array_equal(run(model, x), before)


def test_a_function_larger_than_the_sign_stays():
    types = "(float[1,4] x, float[N,4] b) => (float[N,4] y)"
    model = parsed("s = Sign(x) d = Sub(s, b) e = Add(d, b) y = Identity(e)", types)
    assert not DropStraightThrough()(model).modified


def test_an_estimator_whose_sign_others_read_leaves_it_to_them(x):
    body = "b = Tanh(x) s = Sign(x) d = Sub(s, b) e = Add(d, b) f = Mul(e, b) y = Add(f, s)"
    model = parsed(body)
    before = run(model, x)
    DropStraightThrough()(model)
    assert kinds(model) == ["Tanh", "Sign", "Mul", "Add"]
    np.testing.assert_allclose(run(model, x), before, atol=1e-6)


class Approximation(nn.Module):
    """sign(x) forward, a piecewise quadratic backward."""

    def forward(self, x):
        forward = torch.sign(x)
        negative, inside = (x < 0).float(), (x.abs() < 1).float()
        curve = (x * x + 2 * x) * negative + (2 * x - x * x) * (1 - negative)
        backward = curve * inside + (1 - 2 * negative) * (1 - inside)
        return forward.detach() - backward.detach() + backward


class MeanScaled(nn.Conv2d):
    """Weights mean |w| * sign(w) forward, clipped w backward."""

    def forward(self, x):
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True).detach()
        binary, clipped = scale * torch.sign(self.weight), self.weight.clamp(-1, 1)
        return functional.conv2d(x, binary.detach() - clipped.detach() + clipped, self.bias)


@pytest.fixture
def quiet():
    """The exporters of torch say much, by warnings and by logging."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamo", [True, False])
def test_what_torch_exports_of_estimators_loses_them(tmp_path, dynamo):
    torch.manual_seed(0)
    network = nn.Sequential(Approximation(), MeanScaled(40, 12, 3), Approximation())
    x = torch.randn(2, 40, 5, 5)
    path = tmp_path / "network.onnx"
    given = {"opset_version": 20, "dynamo": dynamo, "external_data": False, "verbose": False}
    torch.onnx.export(network.eval(), (x,), path, **given)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(path)))
    before = run(model, x.numpy())
    assert DropStraightThrough()(model).modified
    fold_constants(model, input_size_limit=1 << 30, output_size_limit=1 << 30)
    layers = [kind for kind in kinds(model) if kind in ("Sign", "Conv")]
    assert layers[:2] == ["Sign", "Conv"]
    conv = next(node for node in model.graph if node.op_type == "Conv")
    weight = ir.convenience.get_const_tensor(conv.inputs[1]).numpy()
    for filter_ in np.abs(weight):
        assert np.ptp(filter_) <= (1e-5 * filter_.mean() if dynamo else 0)
    np.testing.assert_allclose(run(model, x.numpy()), before, atol=2e-6)
