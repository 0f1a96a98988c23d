"""Convolutions over rows, by numbers: stock onnxruntime before, two engines after."""

import numpy as np
import pytest

from bindeploy.convert import dialect
from bindeploy.convert.binarize_layers import BinarizeLayers
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.widen_one_dimensional import WidenOneDimensional

PASSES = (NameLayers, WidenOneDimensional, BinarizeLayers)


def conv(graph, x, channels, filters, name, *, bias=False, group=1, kernel=3, **attributes):
    scale = 2.0 ** graph.random.integers(-3, 2, (filters, 1, 1))
    weight = graph.random.choice([-1.0, 1.0], (filters, channels // group, kernel)) * scale
    inputs = [x, graph.constant(f"{name}.weight", weight)]
    if bias:
        inputs.append(graph.constant(f"{name}.bias", graph.random.normal(size=filters)))
    return graph.node("Conv", inputs, group=group, **attributes)


def sign(graph, x):
    return graph.node("BinarySign", [x], dialect.LATENT)


@pytest.mark.parametrize("of_signs", [True, False])
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"kernel_shape": (3,), "strides": (2,), "pads": (2, 1), "dilations": (2,)},
        {"group": 2, "bias": True, "strides": (3,)},
        {"auto_pad": "SAME_LOWER", "strides": (2,), "kernel": 4},
    ],
)
def test_a_convolution_of_any_geometry(sketch, passed, kinds, images, geometry, of_signs):
    graph = sketch((8, 11))
    x = sign(graph, "x") if of_signs else "x"
    x = conv(graph, x, 8, 6, "c", **geometry)
    wide = passed(graph.model(x), PASSES, images(2, 8, 11))
    kind = "BinaryConv2d" if of_signs else "BinaryWeightConv2d"
    assert kinds(wide)[-3:] == ["Unsqueeze", kind, "Squeeze"]
    assert wide.graph.outputs[0].name == x


def test_a_row_of_unknown_length(sketch, passed, kinds, images):
    graph = sketch((8, "L"))
    x = conv(graph, "x", 8, 6, "c", strides=(2,), pads=(1, 1))
    wide = passed(graph.model(x), PASSES, images(2, 8, 11))
    assert kinds(wide) == ["Unsqueeze", "BinaryWeightConv2d", "Squeeze"]


def test_between_layers_all_stays_an_image(sketch, passed, kinds, images):
    graph = sketch((4, 16))
    x = graph.normalize(conv(graph, "x", 4, 6, "a"), 6, "bn")
    x = graph.node("PRelu", [x, graph.constant("slope", graph.random.normal(size=(6, 1)))])
    x = graph.node("Add", [graph.constant("shift", graph.random.normal(size=(1, 6, 1))), x])
    x = graph.node("Clip", [x, "", graph.constant("high", 0.9)])
    x = graph.node("Mul", [x, graph.constant("along", graph.random.normal(size=14))])
    x = graph.node("MaxPool", [x], kernel_shape=(3,), strides=(2,), pads=(1, 0))
    x = graph.node("AveragePool", [x], kernel_shape=(2,), pads=(0, 1), count_include_pad=1)
    x = sign(graph, x)
    x = conv(graph, x, 6, 6, "b", pads=(1, 1))
    x = graph.node("Relu", [x])
    wide = passed(graph.model(x), PASSES, images(2, 4, 16))
    between = ["BatchNormalization", "PRelu", "Add", "Clip", "Mul", "MaxPool", "AveragePool"]
    assert kinds(wide) == [
        *("Unsqueeze", "BinaryWeightConv2d", *between, "BinarySign", "BinaryConv2d", "Relu"),
        "Squeeze",
    ]


def test_a_shortcut_and_branches_that_join_are_images_too(sketch, passed, kinds, images):
    graph = sketch((6, 12))
    start = graph.node("Relu", ["x"])
    signs = sign(graph, start)
    branches = [conv(graph, signs, 6, 6, name, pads=(1, 1)) for name in "ab"]
    x = graph.node("Add", [start, branches[0]])
    x = graph.node("Concat", [x, branches[1]], axis=1)
    x = conv(graph, sign(graph, x), 12, 6, "c")
    wide = passed(graph.model(x), PASSES, images(2, 6, 12))
    found = kinds(wide)
    assert found.count("Squeeze") == 1 and found[-1] == "Squeeze"
    assert found.count("BinaryConv2d") == 3 and found.count("Unsqueeze") == 2


def stack(graph, rows):
    """[2, N, C, L]: rows plus a constant of a rank that no image has."""
    return graph.node("Add", [rows, graph.constant("stack", np.arange(12.0).reshape(2, 1, 6, 1))])


def test_what_reads_rows_still_finds_them(sketch, passed, kinds, images):
    graph = sketch((6, 12))
    first = conv(graph, "x", 6, 6, "a", pads=(1, 1))
    x = graph.node("Softmax", [first], axis=2)
    y = graph.node("Concat", [first, x, graph.node("Concat", [first, first], axis=2)], axis=2)
    z = graph.node("Add", [first, graph.node("ReduceMean", ["x"], keepdims=0)])
    z = graph.node("Add", [z, graph.node("ReduceMax", [stack(graph, first)])])
    model = graph.model(y, z)
    wide = passed(model, PASSES, images(2, 6, 12))
    assert kinds(wide).count("Squeeze") == 1
    assert [value.name for value in wide.graph.outputs] == [y, z]


def test_layers_that_stay_in_float_stay_rows(sketch, passed, kinds, images):
    graph = sketch((6, 12))
    x = graph.node("Conv", ["x", graph.constant("a.weight", graph.random.normal(size=(6, 6, 3)))])
    x = conv(graph, graph.node("Relu", [x]), 6, 6, "depthwise", group=6)
    kept = passed(graph.model(x), PASSES, images(2, 6, 12))
    assert kinds(kept) == ["Conv", "Relu", "Conv"]
    reasons = [node.metadata_props.get("bindeploy.reason") for node in kept.graph]
    assert reasons[0] == "first layer: weights are float"
    assert reasons[2] == f"1-bit form would be larger: {6 * 3 * 4 + 48} bytes against 72"


def test_a_convolution_over_three_axes_stays_with_a_reason(sketch, passed, kinds, images):
    graph = sketch((4, 3, 5, 5))
    weight = graph.constant("c.weight", graph.random.choice([-0.5, 0.5], (6, 4, 2, 2, 2)))
    x = graph.node("Conv", [sign(graph, "x"), weight])
    kept = passed(graph.model(x), PASSES, images(2, 4, 3, 5, 5))
    assert kinds(kept) == ["BinarySign", "Conv"]
    (reason,) = {node.metadata_props.get("bindeploy.reason") for node in kept.graph} - {None}
    assert reason == "it convolves in 3-D, not 2-D"


def test_constants_of_the_rows_go(sketch):
    graph = sketch((4, 16))
    model = graph.model(conv(graph, "x", 4, 6, "a"))
    for step in PASSES:
        step()(model)
    names = {value.name for node in model.graph for value in node.inputs}
    assert set(model.graph.initializers) <= names
    assert np.array_equal(model.graph.initializers["a.scale"].const_value.numpy().shape, [6])
