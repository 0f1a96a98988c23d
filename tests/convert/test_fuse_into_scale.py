"""Affine functions go into the constants of the layer before them, rounded once."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bindeploy.convert import constants
from bindeploy.convert.fuse_into_scale import FuseIntoScale
from bindeploy.convert.pipeline import run

RANDOM = np.random.default_rng(4)
VECTOR = RANDOM.uniform(0.5, 2, 8).astype(np.float32)


def affine_functions(graph, x, form, normalize=True):
    """Every affine function there is, on both sides of its operator."""
    if normalize:
        x = graph.normalize(x, 8, "bn")
    x = graph.node("Mul", [x, graph.constant("m", VECTOR.reshape(form))], name="mul")
    x = graph.node("Add", [graph.constant("p", VECTOR.reshape(form)), x], name="add")
    x = graph.node("Sub", [x, graph.constant("s", np.float32(0.3))], name="sub")
    x = graph.node("Sub", [graph.constant("t", VECTOR[::-1].reshape(form)), x], name="from")
    x = graph.node("Neg", [graph.node("Identity", [x])], name="neg")
    return graph.node("Div", [x, graph.constant("d", np.float32(-0.7))], name="div")


SAID = "mul and add and sub and from and neg and div in its scale and bias"


@pytest.mark.parametrize("kind", ["BinaryConv2d", "BinaryWeightConv2d"])
def test_of_a_binary_convolution(sketch, converted, kinds, images, kind):
    graph = sketch((5, 6, 6))
    x = affine_functions(graph, graph.conv_of("x", 5, 8, "a", kind=kind), (8, 1, 1))
    model = graph.model(graph.node("GlobalAveragePool", [x]))
    assert kinds(converted(model, images(3, 5, 6, 6))) == [kind, "GlobalAveragePool"]
    assert run(model).layers[0].rule == f"latent {kind}, bn and {SAID}"


@pytest.mark.parametrize("shape", [(5,), (3, 5)])
@pytest.mark.parametrize("kind", ["BinaryLinear", "BinaryWeightLinear"])
def test_of_a_linear_layer_along_its_last_axis(sketch, converted, kinds, images, shape, kind):
    graph = sketch(shape)
    x = graph.linear("x", 5, 8, "a", kind=kind)
    x = affine_functions(graph, x, (-1,), normalize=len(shape) == 1)
    assert kinds(converted(graph.model(x), images(4, *shape))) == [kind]


def test_behind_moves_the_channels_are_found_again(sketch, converted, kinds, images):
    graph = sketch((5, 12))
    axis = graph.constant("axis", np.array([2]))
    x = graph.conv_of(
        graph.node("Unsqueeze", ["x", axis]), 5, 8, "a", kernel=(1, 3), pads=(0, 1, 0, 1)
    )
    x = affine_functions(graph, graph.node("Squeeze", [x, axis]), (8, 1))
    packed = converted(graph.model(x), images(3, 5, 12))
    assert kinds(packed) == ["Unsqueeze", "BinaryConv2d", "Squeeze"]


def standard(graph, kind, x, **attributes):
    """A layer with float weights, of 8 filters; but for MatMul with a bias."""
    shape = {"Conv": (8, 5, 3, 3), "Gemm": (5, 8), "MatMul": (5, 8)}[kind]
    shape = shape[::-1] if attributes.get("transB") else shape
    weight = graph.constant("layer.weight", RANDOM.normal(size=shape))
    bias = [] if kind == "MatMul" else [graph.constant("layer.bias", VECTOR)]
    return graph.node(kind, [x, weight, *bias], **attributes)


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "expected"),
    [
        ("Conv", (5, 6, 6), {"pads": (1, 1, 1, 1)}, "Conv"),
        ("Gemm", (5,), {}, "Gemm"),
        ("Gemm", (5,), {"transB": 1, "alpha": 0.5, "beta": 2.0}, "Gemm"),
        ("MatMul", (5,), {}, "Gemm"),
    ],
)
def test_of_a_layer_of_floats(sketch, passed, kinds, images, kind, shape, attributes, expected):
    graph = sketch(shape)
    x = standard(graph, kind, "x", **attributes)
    x = affine_functions(graph, x, (8, 1, 1) if kind == "Conv" else (-1,))
    found = passed(graph.model(x), [FuseIntoScale], images(3, *shape))
    assert kinds(found) == [expected]
    assert [value.name for value in found.graph.outputs] == [x]


def test_a_product_of_more_axes_takes_factors_and_leaves_the_shift(sketch, passed, kinds, images):
    graph = sketch((4, 5))
    x = graph.node("Mul", [standard(graph, "MatMul", "x"), graph.constant("m", VECTOR)])
    x = graph.node("Neg", [x])
    x = graph.node("Mul", [graph.node("Add", [x, graph.constant("p", VECTOR)]), "m"])
    found = passed(graph.model(x), [FuseIntoScale], images(3, 4, 5))
    assert kinds(found) == ["MatMul", "Add", "Mul"]


@pytest.mark.parametrize(
    "last",
    [
        lambda graph, x: graph.node("Mul", [x, graph.constant("c", RANDOM.normal(size=(8, 8, 8)))]),
        lambda graph, x: graph.node("Mul", [x, x]),
        lambda graph, x: graph.node("Add", [x, graph.constant("five", np.ones((1, 1, 8, 8, 8)))]),
        lambda graph, x: graph.node(
            "Mul", [x, graph.constant("last", RANDOM.normal(size=(1, 1, 8)))]
        ),
        lambda graph, x: graph.node("Relu", [x]),
        lambda graph, x: graph.node("Concat", [x, x], axis=1),
    ],
    ids=["of pixels", "squared", "of more axes", "of columns", "bent", "joined"],
)
def test_what_is_not_affine_in_one_channel_stays(sketch, passed, kinds, images, last):
    graph = sketch((5, 8, 8))
    x = graph.node("Mul", [standard(graph, "Conv", "x", pads=(1, 1, 1, 1)), "half"])
    graph.constant("half", np.float32(0.5))
    model = graph.model(last(graph, x))
    found = passed(model, [FuseIntoScale], images(2, 5, 8, 8))
    assert kinds(found) == ["Conv", kinds(model)[-1]]


def test_a_constant_divided_by_a_value_is_not_affine(sketch, kinds):
    graph = sketch((5, 6, 6))
    x = graph.node("Div", [graph.constant("one", np.float32(1)), standard(graph, "Conv", "x")])
    assert kinds(FuseIntoScale()(graph.model(x)).model) == ["Conv", "Div"]


def test_a_value_that_something_else_reads_keeps_its_functions(sketch, passed, kinds, images):
    graph = sketch((5, 6, 6))
    first = standard(graph, "Conv", "x", pads=(1, 1, 1, 1))
    shift = graph.constant("shift", VECTOR.reshape(8, 1, 1))
    second = graph.node("Add", [first, shift])
    last = graph.node("Mul", [graph.node("Add", [first, second]), shift])
    found = passed(graph.model(last), [FuseIntoScale], images(2, 5, 6, 6))
    assert kinds(found) == ["Conv", "Add", "Add", "Mul"]


def test_a_learned_shift_after_a_sum_stays_with_the_floats(sketch, converted, kinds, images):
    """x + shift goes to the next binary layer, x itself to the sum after it: ReActNet's block."""
    graph = sketch((8, 6, 6))
    shift = graph.constant("shift", VECTOR.reshape(8, 1, 1))
    signed = graph.node("Add", ["x", shift])
    x = graph.normalize(graph.conv(signed, 8, 8, "a"), 8, "bn")
    x = graph.node("Add", [x, "x"])
    packed = converted(graph.model(x), images(2, 8, 6, 6))
    assert kinds(packed) == ["Add", "BinaryConv2d", "Add"]


def test_constants_that_would_not_be_finite_are_left_where_they_are(sketch, passed, kinds, images):
    graph = sketch((5, 6, 6))
    x = standard(graph, "Conv", "x")
    graph.constant("large", np.float32(1e30))
    for _ in range(2):
        x = graph.node("Mul", [x, "large"])
    x = graph.node("Div", [graph.node("Div", [x, "large"]), "large"])
    found = FuseIntoScale()(graph.model(x)).model
    assert kinds(found) == ["Conv", "Mul", "Div", "Div"]
    assert np.isfinite(constants.read(found.graph[0].inputs[1])).all()


def test_the_constants_are_rounded_once(sketch):
    """There and back again, which roundings to float32 on the way would not reach."""
    graph = sketch((5, 6, 6))
    scale = RANDOM.uniform(0.1, 1, 8).astype(np.float32)
    x = graph.conv_of("x", 5, 8, "a", scale=scale, bias=scale)
    third = graph.constant("third", np.float32(1 / 3))
    x = graph.node("Add", [graph.node("Mul", [x, third]), third])
    x = graph.node("Div", [graph.node("Sub", [x, third]), third])
    packed = run(graph.model(graph.node("GlobalAveragePool", [x]))).model
    found = [constants.read(value) for value in packed.graph[0].inputs[2:]]
    np.testing.assert_array_equal(found, [scale, scale])


def test_tied_weights_are_scaled_for_one_layer_alone(sketch, passed, kinds, images):
    graph = sketch((8,))
    weight = graph.constant("tied.weight", RANDOM.normal(size=(8, 8)))
    x = graph.node("Mul", [graph.node("MatMul", ["x", weight]), graph.constant("m", VECTOR)])
    x = graph.node("MatMul", [graph.node("Relu", [x]), weight])
    found = passed(graph.model(x), [FuseIntoScale], images(3, 8))
    assert kinds(found) == ["MatMul", "Relu", "MatMul"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["Add", "Sub", "Mul", "Div", "Neg"]),
        st.lists(st.floats(0.25, 4, width=32), min_size=8, max_size=8),
        st.booleans(),
    ),
    max_size=6,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the fixture is a class
)
@given(steps)
def test_any_chain_of_affine_functions_is_one(sketch, kinds, chain):
    graph = sketch((8,))
    x, slope, shift = graph.node("MatMul", ["x", graph.constant("w", np.eye(8))]), 1.0, 0.0
    for number, (kind, values, first) in enumerate(chain):
        c = np.array(values)
        if kind == "Neg":
            x, slope, shift = graph.node("Neg", [x]), -slope, -shift
            continue
        first = first or kind == "Div"
        operands = [x, graph.constant(f"c{number}", c.astype(np.float32))]
        x = graph.node(kind, operands if first else operands[::-1])
        sign = -1 if kind == "Sub" else 1
        if kind in ("Add", "Sub"):
            slope = slope if first else sign * slope
            shift = shift + sign * c if first else sign * shift + c
        else:
            factor = c if kind == "Mul" else 1 / c
            slope, shift = slope * factor, shift * factor
    found = FuseIntoScale()(graph.model(x)).model
    (layer,) = found.graph
    bias = constants.read(layer.inputs[2]) if layer.op_type == "Gemm" else 0
    weight = np.diagonal(constants.read(layer.inputs[1]))
    np.testing.assert_allclose(weight, np.broadcast_to(slope, 8), rtol=1e-6)
    magnitude = 1 + np.abs(shift)
    np.testing.assert_allclose(bias / magnitude, shift / magnitude, atol=1e-6)


def test_a_model_without_affine_functions_is_left_as_it_is(sketch):
    graph = sketch((5, 6, 6))
    x = graph.node("Identity", [standard(graph, "Conv", "x")])
    model = graph.model(graph.node("Relu", [x]))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not FuseIntoScale()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
