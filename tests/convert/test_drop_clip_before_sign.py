"""Operators that cannot change a sign go where only signs are read; those that can, stay."""

import numpy as np
import pytest

from bindeploy.convert.engines import run_onnxruntime
from bindeploy.convert.pipeline import run


def residual(graph, channels=4):
    """Floats that no threshold can stand for: a layer's output and its input, added."""
    return graph.node("Add", [graph.conv("x", channels, channels, "a"), "x"])


SLOPES = np.float32([0.25, 2.0, 1.0, 1e-3]).reshape(4, 1, 1)


@pytest.mark.parametrize(
    ("kind", "constant", "attributes"),
    [
        ("LeakyRelu", None, {"alpha": 0.1}),
        ("PRelu", SLOPES, {}),
        ("PRelu", np.float32(0.25), {}),
        ("Tanh", None, {}),
        ("Softsign", None, {}),
        ("Mul", SLOPES, {}),
        ("Div", np.float32(3.0), {}),
        ("Max", np.float32(-0.5), {}),
        ("Min", np.float32(0.0), {}),
    ],
)
def test_what_keeps_every_sign_goes(sketch, converted, kinds, images, kind, constant, attributes):
    graph = sketch((4, 6, 6))
    constants = [] if constant is None else [graph.constant("c", constant)]
    x = graph.node(kind, [residual(graph), *constants], **attributes)
    packed = converted(graph.model(graph.conv(x, 4, 4, "b")), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2d", "Add", "BinaryConv2d"]


@pytest.mark.parametrize(
    ("kind", "constant", "attributes"),
    [
        ("LeakyRelu", None, {"alpha": 0.0}),
        ("PRelu", SLOPES - 1, {}),
        ("Mul", -SLOPES, {}),
        ("Mul", SLOPES * [[[1]], [[0]], [[1]], [[1]]], {}),
        ("Sub", np.float32(0.5), {}),
        ("Max", np.float32(0.0), {}),
        ("Min", np.float32(-0.5), {}),
        ("Abs", None, {}),
        ("Relu", None, {}),
        ("Sigmoid", None, {}),
    ],
)
def test_what_changes_a_sign_stays(sketch, converted, kinds, images, kind, constant, attributes):
    graph = sketch((4, 6, 6))
    constants = [] if constant is None else [graph.constant("c", constant)]
    x = graph.node(kind, [residual(graph), *constants], **attributes)
    packed = converted(graph.model(graph.conv(x, 4, 4, "b")), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2d", "Add", kind, "BinaryConv2d"]


def test_what_floats_read_stays(sketch, converted, kinds, images):
    graph = sketch((4, 6, 6))
    x = graph.node("Tanh", [residual(graph)])
    x = graph.node("Add", [graph.conv(x, 4, 4, "b"), x])
    packed = converted(graph.model(x), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2d", "Add", "Tanh", "BinaryConv2d", "Add"]


def test_a_product_that_takes_another_shape_stays(sketch, converted, kinds, images):
    graph = sketch((4, 6, 6))
    x = graph.node("GlobalAveragePool", [residual(graph)])
    x = graph.node("Mul", [x, graph.constant("c", np.ones((1, 4, 3, 3)))])
    packed = converted(graph.model(graph.conv(x, 4, 4, "b")), images(3, 4, 6, 6))
    assert kinds(packed)[-2:] == ["Mul", "BinaryConv2d"]


@pytest.mark.parametrize("kind", ["Relu", "Sigmoid", "HardSigmoid", "Abs"])
def test_a_layer_whose_input_is_always_plus_one_says_so(sketch, kind):
    graph = sketch((4, 6, 6))
    x = graph.node(kind, [residual(graph)], name="act")
    x = graph.node("MaxPool", [x], kernel_shape=(2, 2))
    model = graph.model(graph.conv(x, 4, 4, "b"))
    assert [layer.rule for layer in run(model).layers] == [
        "latent BinaryConv2d",
        f"latent BinaryConv2d, input +1 everywhere after {kind} `act`",
    ]


@pytest.mark.parametrize("kind", ["Tanh", "Softsign"])
def test_onnxruntime_keeps_the_sign_of_small_and_large_numbers(sketch, kind):
    graph = sketch((1,))
    small = 2.0 ** -np.arange(0, 126, 3)
    x = np.concatenate([small, -small, 100 * small, -100 * small]).astype(np.float32)[:, None]
    found, _ = run_onnxruntime(graph.model(graph.node(kind, ["x"])), x)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x))
    assert (found != 0).all()
