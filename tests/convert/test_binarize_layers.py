"""Layers whose weights are +-alpha, by numbers: stock onnxruntime before, two engines after."""

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy.convert import binary_weights, dialect, notes
from bindeploy.convert.binarize_layers import BinarizeLayers
from bindeploy.convert.fold_latent_weights import FoldLatentWeights
from bindeploy.convert.name_layers import NameLayers

PASSES = (NameLayers, BinarizeLayers)


def signs(graph, *shape):
    return graph.random.choice([-1.0, 1.0], shape)


def alphas(graph, filters, rank):
    return graph.random.uniform(0.01, 2, filters).reshape(-1, *[1] * (rank - 1))


def binary(graph, *shape):
    """A weight of +-1 times a scale per filter, the filters on the first axis."""
    return signs(graph, *shape) * alphas(graph, shape[0], len(shape))


def sign(graph, x):
    return graph.node("BinarySign", [x], dialect.LATENT)


def said(model, name):
    """What the passes noted on a node: its rule or its reason."""
    (node,) = [node for node in model.graph if node.name == name]
    return node.metadata_props.get(notes.RULE) or node.metadata_props.get(notes.REASON)


def layer(model, name):
    (node,) = [node for node in model.graph if node.name == name]
    return node


GEOMETRIES = [
    {},
    {"strides": (2, 1), "pads": (1, 0, 2, 1)},
    {"dilations": (2, 1), "pads": (2, 2, 0, 1)},
    {"strides": (2, 2), "auto_pad": "SAME_UPPER"},
    {"strides": (3, 2), "auto_pad": "SAME_LOWER"},
    {"strides": (2, 2), "auto_pad": "VALID"},
]


@pytest.mark.parametrize("of_signs", [True, False])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_convolution_of_any_geometry(sketch, passed, kinds, images, geometry, group, of_signs):
    graph = sketch((15, 8, 9))
    x = sign(graph, "x") if of_signs else "x"
    inputs = [
        x,
        graph.constant("c.weight", binary(graph, 12, 15 // group, 3, 2)),
        graph.constant("c.bias", graph.random.normal(size=12)),
    ]
    model = graph.model(graph.node("Conv", inputs, group=group, **geometry))
    packed = passed(model, PASSES, images(2, 15, 8, 9))
    kind = "BinaryConv2d" if of_signs else "BinaryWeightConv2d"
    assert kinds(packed) == (["BinarySign", kind] if of_signs else [kind])
    assert [value.name for value in layer(packed, "c").inputs[1:]] == [
        "c.bits",
        "c.scale",
        "c.bias",
    ]
    assert set(packed.graph.initializers) == {"c.bits", "c.scale", "c.bias"}
    float_input = "" if of_signs else ", float input (the input of the network)"
    assert said(packed, "c") == f"weights +-1 times a scale per filter{float_input}"


def test_a_stride_over_an_image_of_unknown_size_with_same_padding_stays(
    sketch, passed, kinds, images
):
    graph = sketch((8, "H", "W"))
    weight = graph.constant("c.weight", binary(graph, 8, 8, 3, 3))
    x = graph.node("Conv", ["x", weight], strides=(2, 2), auto_pad="SAME_UPPER")
    packed = passed(graph.model(x), PASSES, images(2, 8, 9, 8))
    assert kinds(packed) == ["Conv"]
    assert said(packed, "c") == "SAME_UPPER pads an image of unknown size"
    graph = sketch((8, "H", "W"))
    weight = graph.constant("c.weight", binary(graph, 8, 8, 3, 3))
    x = graph.node("Conv", ["x", weight], auto_pad="SAME_LOWER")
    assert kinds(passed(graph.model(x), PASSES, images(2, 8, 9, 8))) == ["BinaryWeightConv2d"]


@pytest.mark.parametrize("of_signs", [True, False])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias_shape", [None, (), (1,), (20,), (1, 1), (1, 20)])
def test_a_gemm_with_its_factors(sketch, passed, kinds, images, of_signs, transposed, bias_shape):
    graph = sketch((33,))
    x = sign(graph, "x") if of_signs else "x"
    weight = binary(graph, 20, 33)
    inputs = [x, graph.constant("d.weight", weight if transposed else weight.T)]
    if bias_shape is not None:
        inputs.append(graph.constant("d.bias", graph.random.normal(size=bias_shape)))
    x = graph.node("Gemm", inputs, alpha=-0.75, beta=1.5, transB=transposed)
    packed = passed(graph.model(x), PASSES, images(3, 33))
    assert kinds(packed)[-1] == ("BinaryLinear" if of_signs else "BinaryWeightLinear")


@pytest.mark.parametrize("of_signs", [True, False])
@pytest.mark.parametrize("shape", [(40,), (5, 40), (2, 5, 40)])
def test_a_matmul_over_the_last_axis(sketch, passed, kinds, images, of_signs, shape):
    graph = sketch(shape)
    x = sign(graph, "x") if of_signs else "x"
    x = graph.node("MatMul", [x, graph.constant("d.weight", binary(graph, 24, 40).T)])
    packed = passed(graph.model(x), PASSES, images(3, *shape))
    assert kinds(packed)[-1] == ("BinaryLinear" if of_signs else "BinaryWeightLinear")
    np.testing.assert_array_equal(layer(packed, "d").inputs[2].const_value.numpy().shape, (24,))


@pytest.mark.parametrize(
    ("shape", "constant", "attributes", "reason"),
    [
        ((4,), "left", {}, "weights are on the left"),
        ((4, 6), "none", {}, "both factors are computed"),
        ((2, 4), "stack", {}, "weights are of rank 3, no matrix"),
        ((4,), "right", {"transA": 1}, "its input is transposed"),
        ((4,), "row bias", {}, "bias differs from row to row"),
        ((4,), "computed bias", {}, "bias is computed"),
    ],
)
def test_a_product_of_another_kind_stays_with_a_reason(
    sketch, passed, images, shape, constant, attributes, reason
):
    graph = sketch(shape)
    x = "x"
    if constant == "left":
        x = graph.node("MatMul", [graph.constant("w", binary(graph, 6, 4)), x], name="d")
    elif constant == "none":
        other = graph.node("Transpose", [x], perm=[0, 2, 1])
        x = graph.node("MatMul", [x, other], name="d")
    elif constant == "stack":
        x = graph.node("MatMul", [x, graph.constant("w", signs(graph, 4, 4, 6))], name="d")
    elif constant == "right":
        weight = graph.constant("w", binary(graph, 6, 4).T)
        x = graph.node("Gemm", [x, weight], name="d", **attributes)
    else:
        bias = graph.constant("rows", np.arange(24.0).reshape(4, 6))
        if constant == "computed bias":
            bias = graph.node("Slice", ["x", *[graph.constant(k, [v]) for k, v in CORNER.items()]])
        x = graph.node("Gemm", [x, graph.constant("w", binary(graph, 6, 4).T), bias], name="d")
    kept = passed(graph.model(x, batch=4), PASSES, images(4, *shape))
    assert said(kept, "d") == reason


CORNER = {"starts": 0, "ends": 1, "axes": 1}


@pytest.mark.parametrize("times", [0.25, -0.25, -3.0])
@pytest.mark.parametrize("between", ["nothing", "Flatten", "MaxPool", "Div"])
def test_a_factor_of_signs_goes_into_the_scale(sketch, passed, kinds, images, times, between):
    graph = sketch((6, 4, 4))
    x = sign(graph, "x")
    factor = graph.constant("factor", np.array([times]))
    x = graph.node(*(("Div", [x, factor]) if between == "Div" else ("Mul", [factor, x])))
    if between == "MaxPool":
        x = graph.node("MaxPool", [x], kernel_shape=(2, 2))
    if between == "Flatten":
        weight = graph.constant("d.weight", binary(graph, 10, 96).T)
        x = graph.node("MatMul", [graph.node("Flatten", [x]), weight])
    else:
        weight = graph.constant("d.weight", binary(graph, 10, 6, 3, 3))
        x = graph.node("Conv", [x, weight], pads=(1, 1, 1, 1))
    packed = passed(graph.model(x), PASSES, images(3, 6, 4, 4))
    stays = between == "MaxPool" and times < 0
    assert ("Mul" in kinds(packed) or "Div" in kinds(packed)) == stays
    assert kinds(packed)[-1] in ("BinaryConv2d", "BinaryLinear")
    size = abs(1 / times if between == "Div" else times)
    assert said(packed, "d").endswith(f"input scale {size:.4g} in its scale")


def test_factors_multiply_and_a_fork_takes_them_twice(sketch, passed, kinds, images):
    graph = sketch((6, 5, 5))
    x = graph.node("Mul", [sign(graph, "x"), graph.constant("one", 0.5)])
    x = graph.node("Mul", [x, graph.constant("two", np.full((1, 1, 1, 1), -0.3))])
    weights = [graph.constant(f"{name}.weight", binary(graph, 4, 6, 3, 3)) for name in "ab"]
    a, b = (graph.node("Conv", [x, weight]) for weight in weights)
    packed = passed(graph.model(graph.node("Add", [a, b])), PASSES, images(2, 6, 5, 5))
    assert kinds(packed) == ["BinarySign", "BinaryConv2d", "BinaryConv2d", "Add"]
    assert "a.scale" in packed.graph.initializers


@pytest.mark.parametrize("times", [0.5, -0.5])
def test_a_factor_that_a_float_also_reads_stays(sketch, passed, kinds, images, times):
    graph = sketch((6, 5, 5))
    x = graph.node("Mul", [sign(graph, "x"), graph.constant("one", times)])
    y = graph.node("Conv", [x, graph.constant("a.weight", binary(graph, 6, 6, 1, 1))])
    packed = passed(graph.model(graph.node("Add", [x, y])), PASSES, images(2, 6, 5, 5))
    assert kinds(packed) == ["BinarySign", "Mul", "BinaryConv2d", "Add"]


def test_a_negative_factor_before_padding_of_ones_stays(sketch, passed, kinds, images):
    graph = sketch((6, 5, 5))
    x = graph.node("Mul", [sign(graph, "x"), graph.constant("one", -0.5)])
    model = graph.model(graph.conv_of(x, 6, 4, "a", pad_value=1.0))
    packed = passed(model, (FoldLatentWeights, BinarizeLayers), images(2, 6, 5, 5))
    assert kinds(packed) == ["BinarySign", "Mul", "BinaryConv2d"]


def test_a_factor_that_adds_an_axis_stays(sketch, passed, kinds, images):
    graph = sketch((40,))
    x = graph.node("Mul", [sign(graph, "x"), graph.constant("one", np.full((1, 1, 1), 0.5))])
    x = graph.node("MatMul", [x, graph.constant("d.weight", binary(graph, 24, 40).T)])
    packed = passed(graph.model(x), PASSES, images(3, 40))
    assert kinds(packed) == ["BinarySign", "Mul", "BinaryWeightLinear"]


def test_signs_divided_by_zero_are_no_signs(sketch, kinds):
    graph = sketch((40,))
    x = graph.node("Div", [sign(graph, "x"), graph.constant("zero", 0.0)])
    model = graph.model(graph.node("MatMul", [x, graph.constant("w", binary(graph, 24, 40).T)]))
    BinarizeLayers()(model)
    assert kinds(model) == ["BinarySign", "Div", "BinaryWeightLinear"]


@pytest.mark.parametrize("factor", [np.linspace(0.5, 1, 6).reshape(6, 1, 1), np.zeros(1)])
def test_a_factor_per_channel_and_one_of_zero_are_float_inputs(
    sketch, passed, kinds, images, factor
):
    graph = sketch((6, 5, 5))
    x = graph.node("Mul", [sign(graph, "x"), graph.constant("factor", factor)])
    x = graph.node("Conv", [x, graph.constant("a.weight", binary(graph, 6, 6, 3, 3))])
    packed = passed(graph.model(x), PASSES, images(2, 6, 5, 5))
    assert kinds(packed) == ["BinarySign", "Mul", "BinaryWeightConv2d"]


def test_few_channels_are_packed_for_signs_alone(sketch, passed, kinds, images):
    graph = sketch((8, 6, 6))
    weight = graph.constant("a.weight", binary(graph, 8, 1, 3, 3))
    x = graph.node("Conv", [sign(graph, "x"), weight], group=8)
    assert kinds(passed(graph.model(x), PASSES, images(2, 8, 6, 6)))[-1] == "BinaryConv2d"
    graph = sketch((8, 6, 6))
    weight = graph.constant("a.weight", binary(graph, 8, 1, 3, 3))
    x = graph.node("Conv", ["x", weight], group=8)
    kept = passed(graph.model(x), PASSES, images(2, 8, 6, 6))
    assert kinds(kept) == ["Conv"]
    assert said(kept, "a") == f"1-bit form would be larger: {8 * 9 * 4 + 64} bytes against 288"


def test_float_layers_say_why(sketch, passed, images):
    graph = sketch((3, 8, 8))
    weights = {
        "first": graph.random.normal(size=(6, 3, 3, 3)),
        "float": graph.random.normal(size=(6, 6, 2, 2)),
        "ternary": graph.random.choice([-0.5, 0.0, 0.5], (6, 6, 2, 2)),
        "dead": binary(graph, 6, 6, 2, 2) * (np.arange(6) != 3).reshape(6, 1, 1, 1),
        "depthwise": graph.random.normal(size=(6, 1, 1, 1)),
        "two": graph.random.choice([-0.25, 0.5], (6, 6, 2, 2)),
    }
    x = "x"
    for name, weight in weights.items():
        group = 6 if name == "depthwise" else 1
        x = graph.node("Conv", [x, graph.constant(f"{name}.weight", weight)], group=group)
    kept = passed(graph.model(x), PASSES, images(1, 3, 8, 8))
    assert {name: said(kept, name) for name in weights} == {
        "first": "first layer: weights are float",
        "float": "weights are float, of 144 values",
        "ternary": "weights take 3 values in filter 0",
        "dead": "filter 3 is all zero",
        "depthwise": "one weight a filter only multiplies",
        "two": "weights are -0.25 and 0.5 in filter 0, not +-alpha",
    }


def test_a_sum_that_float32_cannot_count_stays(sketch):
    graph = sketch((2**24,))
    weight = np.ones((2, 2**24), np.float32)
    x = graph.node("Gemm", ["x", graph.constant("d.weight", weight)], transB=1)
    model = graph.model(x)
    assert not BinarizeLayers()(model).modified
    assert said(model, "Gemm_0") == "it sums 2^24 products or more"


def test_weights_up_to_rounding_take_their_mean():
    random = np.random.default_rng(3)
    exact = (random.choice([-1, 1], (5, 64)) * np.full((5, 1), 0.3)).astype(np.float32)
    rough = exact * random.uniform(1 - 4e-6, 1 + 4e-6, exact.shape).astype(np.float32)
    found = binary_weights.read(rough)
    assert found.rule == "weights +-1 times a scale per filter up to rounding"
    np.testing.assert_allclose(found.scale, 0.3, rtol=5e-6)
    assert binary_weights.read(exact).rule == "weights +-alpha"
    uneven = np.where(exact > 0, np.float32(0.30001), exact)
    reason = "weights are -0.3 and 0.30001 in filter 0, not +-alpha"
    assert binary_weights.read(uneven) == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_none(value):
    weight = np.ones((4, 30), np.float32)
    weight[2, 7] = value
    assert binary_weights.read(weight) == "weights are not finite in filter 2"
    weight[2] = value
    assert binary_weights.read(weight) == "weights are not finite in filter 2"


def test_other_types_and_no_weights_at_all():
    assert binary_weights.read(np.ones((2, 3), np.float16)) == "weights are float16, not float32"
    assert binary_weights.read(np.ones((0, 3), np.float32)) == "weights are of shape [0, 3]"
    many = np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32)
    assert binary_weights.read(many) == "weights are float, of more than 1000 values"


def test_filters_beyond_one_block_are_read_alike(monkeypatch):
    random = np.random.default_rng(5)
    weight = (random.choice([-1, 1], (50, 40)) * random.uniform(0.1, 2, 40)).astype(np.float32)
    whole = binary_weights.read(weight.T)
    monkeypatch.setattr(binary_weights, "BLOCK", 128)
    found = binary_weights.read(weight.T)
    np.testing.assert_array_equal(found.scale, whole.scale)
    np.testing.assert_array_equal(found.scale, np.abs(weight[0]))
    weight[49, 39] *= 2
    assert binary_weights.read(weight.T) == "weights take 3 values in filter 39"


def test_the_filters_of_a_transposed_convolution_are_on_its_second_axis():
    weight = np.arange(2 * 3 * 2 * 2).reshape(6, 2, 2).astype(np.float32)
    filters = binary_weights.of_transposed(weight, 2)
    assert filters.shape == (4, 3, 2)
    for group in range(2):
        for filter_ in range(2):
            for channel in range(3):
                np.testing.assert_array_equal(
                    filters[2 * group + filter_, channel], weight[3 * group + channel, filter_]
                )


def test_a_second_run_changes_nothing(sketch):
    graph = sketch((6, 5, 5))
    x = graph.node("Conv", ["x", graph.constant("a.weight", binary(graph, 6, 6, 3, 3))])
    model = graph.model(x)
    assert BinarizeLayers()(model).modified
    before = ir.to_proto(model).SerializeToString()
    assert not BinarizeLayers()(model).modified
    assert ir.to_proto(model).SerializeToString() == before
