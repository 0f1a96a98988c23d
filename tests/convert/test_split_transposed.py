"""Transposed convolutions, by numbers: stock onnxruntime before, two engines after, all exact."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bindeploy.convert import dialect, notes
from bindeploy.convert.binarize_layers import BinarizeLayers
from bindeploy.convert.explain import explain
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.split_transposed import SplitTransposed
from bindeploy.convert.widen_one_dimensional import WidenOneDimensional

PASSES = (NameLayers, SplitTransposed, WidenOneDimensional, BinarizeLayers)


def transposed(graph, x, channels, filters, kernel, bias=True, *, group=1, **attributes):
    """A ConvTranspose `up` of weights +-alpha; alpha and bias are halves, so all sums are exact."""
    scale = 2.0 ** graph.random.integers(-3, 2, (1, filters // group, *[1] * len(kernel)))
    weight = graph.random.choice([-1.0, 1.0], (channels, filters // group, *kernel)) * scale
    inputs = [x, graph.constant("up.weight", weight)]
    if bias:
        inputs.append(graph.constant("up.bias", graph.random.integers(-9, 9, filters) / 2))
    return graph.node("ConvTranspose", inputs, name="up", group=group, **attributes)


def sign(graph, x):
    return graph.node("BinarySign", [x], dialect.LATENT)


def reason(model):
    (said,) = {node.metadata_props.get(notes.REASON) for node in model.graph} - {None}
    return said


def axis():
    """Kernel, stride, dilation, pads, output padding, and a size for which some output is left."""
    return st.integers(1, 3).flatmap(
        lambda stride: st.tuples(
            st.integers(stride, stride + 3),
            st.just(stride),
            st.integers(1, 2) if stride == 1 else st.just(1),
            st.integers(0, 2),
            st.integers(0, 2),
            st.integers(0, stride - 1),
            st.integers(5, 6),
        )
    )


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(axis(), min_size=1, max_size=2), st.sampled_from([1, 2]), st.booleans())
def test_every_geometry_gives_the_numbers_of_the_transposed_convolution(
    sketch, passed, images, axes, group, bias
):
    kernel, strides, dilations, before, after, extra, sizes = zip(*axes, strict=True)
    graph = sketch((4, *sizes))
    geometry = {"strides": strides, "dilations": dilations, "pads": before + after}
    x = sign(graph, "x")
    x = transposed(graph, x, 4, 6, kernel, bias, group=group, output_padding=extra, **geometry)
    packed = passed(graph.model(x), PASSES, images(2, 4, *sizes), exactly=True)
    layers = [node for node in packed.graph if node.op_type == "BinaryConv2d"]
    assert len(layers) == np.prod(strides)


def test_a_stride_of_two_is_four_phases_and_depth_to_space(sketch, passed, kinds, images):
    graph = sketch((8, 5, 4))
    x = transposed(graph, sign(graph, "x"), 8, 6, (4, 4), strides=(2, 2), pads=(1, 1, 1, 1))
    packed = passed(graph.model(x), PASSES, images(2, 8, 5, 4), exactly=True)
    woven = ["Concat", "DepthToSpace", "Slice"]
    assert kinds(packed) == ["BinarySign", *["BinaryConv2d"] * 4, *woven]
    assert [node.name for node in packed.graph if node.op_type == "BinaryConv2d"] == [
        f"up/phase_{row}_{column}" for row in (0, 1) for column in (0, 1)
    ]
    (layer,) = explain(packed)
    assert (layer.name, layer.binarized) == ("up", True)
    assert layer.rule is not None
    assert layer.rule.startswith("a phase of a transposed convolution, weights +-1 times a scale")
    assert layer.bytes == 6 * (16 * 4 + 4 * 8)
    used = {value.name for node in packed.graph for value in node.inputs if value is not None}
    assert set(packed.graph.initializers) <= used


def test_a_kernel_as_large_as_its_stride_needs_no_slice(sketch, passed, kinds, images):
    graph = sketch((8, "H", "W"))
    x = transposed(graph, sign(graph, "x"), 8, 6, (2, 2), strides=(2, 2))
    packed = passed(graph.model(x), PASSES, images(2, 8, 5, 4), exactly=True)
    assert kinds(packed)[-2:] == ["Concat", "DepthToSpace"]


@pytest.mark.parametrize("geometry", [{}, {"pads": (1, 2, 0, 1)}, {"dilations": (2, 1)}])
def test_a_stride_of_one_is_one_convolution(sketch, passed, kinds, images, geometry):
    graph = sketch((8, "H", "W"))
    x = transposed(graph, sign(graph, "x"), 8, 6, (3, 3), group=2, **geometry)
    packed = passed(graph.model(x), PASSES, images(2, 8, 5, 4), exactly=True)
    assert kinds(packed) == ["BinarySign", "BinaryConv2d"]
    assert packed.graph[-1].name == "up"


def test_a_float_input_is_multiplied_by_signs(sketch, passed, kinds, images):
    graph = sketch((8, 5, 4))
    x = transposed(graph, "x", 8, 6, (3, 3), strides=(2, 2), pads=(1, 1, 0, 0))
    packed = passed(graph.model(x), PASSES, images(2, 8, 5, 4))
    assert kinds(packed).count("BinaryWeightConv2d") == 4


@pytest.mark.parametrize("size", [7, "L"])
def test_rows_are_woven_of_rows(sketch, passed, kinds, images, size):
    graph = sketch((8, size))
    x = transposed(graph, sign(graph, "x"), 8, 6, (5,), strides=(3,), pads=(1, 2))
    packed = passed(graph.model(x), PASSES, images(2, 8, 7), exactly=True)
    assert kinds(packed) == [
        *("BinarySign", "Unsqueeze", *["BinaryConv2d"] * 3, "Concat", "Squeeze"),
        *("Reshape", "Transpose", "Reshape", "Slice"),
    ]


@pytest.mark.parametrize(
    "geometry",
    [
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"output_shape": (11, 8)},
        {"output_shape": (12, 9), "auto_pad": "SAME_UPPER", "output_padding": (1, 0)},
    ],
)
def test_a_padding_that_follows_from_the_output(sketch, passed, kinds, images, geometry):
    graph = sketch((8, 5, 4))
    x = transposed(graph, sign(graph, "x"), 8, 6, (5, 4), strides=(2, 2), **geometry)
    packed = passed(graph.model(x), PASSES, images(2, 8, 5, 4), exactly=True)
    assert kinds(packed).count("BinaryConv2d") == 4


@pytest.mark.parametrize(
    ("kernel", "geometry", "expected"),
    [
        ((1, 3), {"strides": (2, 2)}, "its kernel of 1 is smaller than its stride of 2"),
        ((3, 3), {"strides": (2, 2), "dilations": (2, 1)}, "it has dilation 2 with stride 2"),
        (
            (3, 3),
            {"strides": (2, 2), "group": 8},
            "in phase [1, 1] of its stride: one weight a filter only multiplies",
        ),
    ],
)
def test_what_is_not_split_stays_and_says_why(sketch, kinds, kernel, geometry, expected):
    graph = sketch((8, 5, 4))
    model = graph.model(transposed(graph, sign(graph, "x"), 8, 8, kernel, **geometry))
    for step in PASSES:
        assert not step()(model).modified or step is NameLayers
    assert kinds(model) == ["BinarySign", "ConvTranspose"]
    assert reason(model) == expected


def test_different_strides_over_an_image_of_unknown_size_stay(sketch, passed, images):
    graph = sketch((8, "H", "W"))
    x = transposed(graph, sign(graph, "x"), 8, 8, (3, 3), strides=(1, 2))
    kept = passed(graph.model(x), PASSES, images(2, 8, 5, 4), exactly=True)
    assert reason(kept) == "strides [1, 2] differ, over an image of unknown size"


def test_float_weights_stay(sketch, passed, images):
    graph = sketch((8, 5, 4))
    weight = graph.constant("up.weight", graph.random.normal(size=(8, 6, 2, 2)))
    x = graph.node("ConvTranspose", ["x", weight], strides=(2, 2))
    kept = passed(graph.model(x), PASSES, images(2, 8, 5, 4))
    assert reason(kept) == "weights are float, of 192 values"


def test_weights_up_to_rounding_are_alike_in_every_phase(sketch):
    graph = sketch((8, 5, 4))
    weight = graph.random.choice([-0.3, 0.3], (8, 6, 4, 4))
    weight *= graph.random.uniform(1 - 4e-6, 1 + 4e-6, weight.shape)
    x = graph.node("ConvTranspose", ["x", graph.constant("up.weight", weight)], strides=(2, 2))
    model = graph.model(x)
    SplitTransposed()(model)
    phases = [node.inputs[1].const_value.numpy() for node in model.graph if node.op_type == "Conv"]
    alphas = np.stack([np.abs(phase).reshape(6, -1) for phase in phases], axis=1)
    assert alphas.shape == (6, 4, 32)
    assert (alphas == alphas[:, :1, :1]).all()
