"""Every pass by numbers: onnxruntime on the latent graph against two engines on the packed one."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bindeploy.convert import dialect
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.pipeline import convert
from bindeploy.errors import BindeployError


@pytest.mark.parametrize("pad_value", [0.0, 1.0])
@pytest.mark.parametrize("channels", [3, 33, 64])
def test_a_chain_of_convolutions_becomes_thresholds_and_one_scale(
    sketch, converted, kinds, images, channels, pad_value
):
    graph = sketch((channels, 9, 8))
    x = graph.conv_of("x", channels, 37, "a", strides=(2, 1), pad_value=pad_value)
    x = graph.normalize(x, 37, "bn_a")
    x = graph.conv_of(x, 37, 20, "b", pads=(0, 1, 2, 1), dilations=(2, 1), pad_value=pad_value)
    x = graph.normalize(x, 20, "bn_b")
    packed = converted(graph.model(x), images(3, channels, 9, 8))
    assert kinds(packed) == ["BinaryConv2dThreshold", "BinaryConv2d"]
    assert [node.name for node in packed.graph] == ["a", "b"]


def test_slopes_negative_zero_and_positive_and_negative_scales(sketch, converted, kinds, images):
    graph = sketch((5, 6, 6))
    gamma = np.tile([-1.0, 0.0, 0.7], 4)
    beta = np.repeat([-0.5, 0.0, 0.5, 0.25], 3)
    scale = np.tile([0.1, -0.1, 0.0, 0.3], 3)
    x = graph.conv_of("x", 5, 12, "a", scale=scale)
    x = graph.normalize(x, 12, "bn", gamma=gamma, beta=beta)
    x = graph.conv_of(x, 12, 8, "b")
    packed = converted(graph.model(x), images(4, 5, 6, 6))
    assert kinds(packed) == ["BinaryConv2dThreshold", "BinaryConv2d"]
    direction = packed.graph[0].inputs[3].const_value.numpy()
    threshold = packed.graph[0].inputs[2].const_value.numpy()
    constant = threshold == np.iinfo(np.int32).min
    assert constant[(gamma == 0) | (scale == 0)].all()
    np.testing.assert_array_equal(direction[gamma == 0], np.where(beta[gamma == 0] >= 0, 1, -1))
    moving = ~constant
    np.testing.assert_array_equal(direction[moving], np.sign(gamma * scale)[moving])


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_tie_at_exactly_zero_is_plus_one(sketch, converted, images, slope):
    graph = sketch((3, 5, 5))
    mean = 0.25 * np.arange(-9, 9, 2)
    zeros, ones = np.zeros(9), np.ones(9)
    x = graph.conv_of("x", 3, 9, "a", scale=0.25 * ones, bias=zeros)
    x = graph.normalize(x, 9, "bn", gamma=slope * ones, beta=zeros, mean=mean, var=ones)
    x = graph.conv_of(x, 9, 4, "b")
    packed = converted(graph.model(x), images(8, 3, 5, 5))
    expected = np.arange(-9, 9, 2) + (2 if slope < 0 else 0)  # of 27 products every sum is odd
    np.testing.assert_array_equal(packed.graph[0].inputs[2].const_value.numpy(), expected)


def test_a_value_that_floats_also_read_keeps_scale_and_bias(sketch, converted, kinds, images):
    graph = sketch((16, 6, 6))
    first = graph.normalize(graph.conv("x", 16, 16, "a"), 16, "bn_a")
    second = graph.normalize(graph.conv(first, 16, 16, "b"), 16, "bn_b")
    total = graph.node("Add", [first, second])
    x = graph.conv(total, 16, 16, "c")
    packed = converted(graph.model(x), images(2, 16, 6, 6))
    assert kinds(packed) == ["BinaryConv2d", "BinaryConv2d", "Add", "BinaryConv2d"]


@pytest.mark.parametrize("order", ["pool first", "normalization first", "pool alone"])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_a_max_pool_pools_bits(sketch, converted, kinds, images, order, pads):
    graph = sketch((6, 9, 9))
    x = graph.conv("x", 6, 10, "a")
    gamma = np.tile([-1.0, 1.0, 0.0, -0.3, 0.2], 2)
    if order == "normalization first":
        x = graph.normalize(x, 10, "bn", gamma=gamma)
    x = graph.node("MaxPool", [x], name="pool", kernel_shape=(3, 3), strides=(2, 2), pads=pads)
    if order == "pool first":
        x = graph.normalize(x, 10, "bn", gamma=gamma)
    x = graph.conv(x, 10, 4, "b")
    packed = converted(graph.model(x), images(4, 6, 9, 9))
    assert kinds(packed) == ["BinaryConv2dThreshold", "BinaryMaxPool2d", "BinaryConv2d"]
    direction = packed.graph[1].inputs[1].const_value.numpy()
    expected = np.where(gamma < 0, -1, 1) if order == "pool first" else np.ones(10)
    np.testing.assert_array_equal(direction, expected)


def test_a_pool_of_other_floats_stays_a_max_pool(sketch, converted, kinds, images):
    graph = sketch((6, 8, 8))
    x = graph.node("MaxPool", ["x"], kernel_shape=(2, 2), strides=(2, 2))
    x = graph.node("GlobalAveragePool", [graph.conv(x, 6, 6, "a")])
    assert kinds(converted(graph.model(x), images(2, 6, 8, 8))) == [
        "MaxPool",
        "BinaryConv2d",
        "GlobalAveragePool",
    ]


@pytest.mark.parametrize(
    "geometry",
    [
        {"strides": (2, 2), "ceil_mode": 1},
        {"strides": (1, 1), "dilations": (2, 2)},
        {"strides": (2, 2), "auto_pad": "SAME_UPPER"},
    ],
)
def test_a_pool_of_another_geometry_keeps_it(sketch, converted, kinds, images, geometry):
    graph = sketch((6, 8, 8))
    x = graph.conv("x", 6, 6, "a")
    x = graph.node("MaxPool", [x], kernel_shape=(3, 3), **geometry)
    x = graph.conv(x, 6, 6, "b")
    packed = converted(graph.model(x), images(2, 6, 8, 8))
    assert kinds(packed) == ["BinaryConv2dThreshold", "MaxPool", "BinaryConv2d"]


@pytest.mark.parametrize("move", ["Flatten", "Reshape"])
def test_flatten_before_a_linear_layer_carries_signs(sketch, converted, kinds, images, move):
    graph = sketch((4, 5, 5))
    x = graph.normalize(graph.conv("x", 4, 6, "a"), 6, "bn_a")
    shape = [] if move == "Flatten" else [graph.constant("shape", np.array([0, -1]))]
    x = graph.node(move, [x, *shape])
    x = graph.normalize(graph.linear(x, 150, 33, "b"), 33, "bn_b")
    x = graph.normalize(graph.linear(x, 33, 10, "c"), 10, "bn_c")
    packed = converted(graph.model(x), images(5, 4, 5, 5))
    assert kinds(packed) == [
        "BinaryConv2dThreshold",
        move,
        "BinaryLinearThreshold",
        "BinaryLinear",
    ]


def test_normalization_over_tokens_is_not_over_features(sketch, converted, kinds, images):
    graph = sketch((6, 8))
    x = graph.linear("x", 8, 6, "a")
    x = graph.normalize(x, 6, "bn")
    x = graph.linear(x, 6, 4, "b")
    packed = converted(graph.model(x), images(3, 6, 8))
    assert kinds(packed) == ["BinaryLinear", "BatchNormalization", "BinaryLinear"]


def test_clips_identities_dropouts_and_signs_go_where_only_signs_are_read(
    sketch, converted, kinds, images
):
    graph = sketch((4, 6, 6))
    low, high = graph.constant("low", -1.0), graph.constant("high", 1.0)
    x = graph.normalize(graph.conv("x", 4, 8, "a"), 8, "bn")
    x = graph.node("Dropout", [graph.node("Identity", [x])])
    x = graph.node("Clip", [x, low, high])
    x = graph.node("BinarySign", [x], dialect.LATENT)
    x = graph.node("MaxPool", [x], name="pool", kernel_shape=(2, 2))
    x = graph.conv(x, 8, 4, "b")
    packed = converted(graph.model(x), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2dThreshold", "BinaryMaxPool2d", "BinaryConv2d"]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, -0.25), (0.5, 1.0)])
def test_a_clip_that_moves_signs_stays(sketch, converted, kinds, images, bounds):
    graph = sketch((4, 6, 6))
    limits = [graph.constant(f"bound{i}", bound) for i, bound in enumerate(bounds)]
    x = graph.node("Clip", [graph.node("Add", [graph.conv("x", 4, 4, "a"), "x"]), *limits])
    packed = converted(graph.model(graph.conv(x, 4, 4, "b")), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2d", "Add", "Clip", "BinaryConv2d"]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, -0.25), (0.5, 1.0)])
def test_a_clip_that_moves_signs_of_a_layer_is_in_its_threshold(
    sketch, converted, kinds, images, bounds
):
    graph = sketch((4, 6, 6))
    limits = [graph.constant(f"bound{i}", bound) for i, bound in enumerate(bounds)]
    x = graph.node("Clip", [graph.conv("x", 4, 8, "a"), *limits])
    packed = converted(graph.model(graph.conv(x, 8, 4, "b")), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2dThreshold", "BinaryConv2d"]


def test_a_sign_that_floats_read_stays(sketch, converted, kinds, images):
    graph = sketch((4, 6, 6))
    sign = graph.node("BinarySign", ["x"], dialect.LATENT)
    x = graph.node("Add", [graph.conv(sign, 4, 4, "a"), sign])
    packed = converted(graph.model(x), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinarySign", "BinaryConv2d", "Add"]


def test_a_sign_after_a_threshold_is_the_threshold(sketch, converted, kinds, images):
    graph = sketch((4, 6, 6))
    x = graph.normalize(graph.conv("x", 4, 4, "a"), 4, "bn")
    sign = graph.node("BinarySign", [x], dialect.LATENT)
    x = graph.node("Add", [graph.conv(sign, 4, 4, "b"), sign])
    packed = converted(graph.model(x), images(3, 4, 6, 6))
    assert kinds(packed) == ["BinaryConv2dThreshold", "BinaryConv2d", "Add"]


def test_weight_only_layers_pack_and_take_the_normalization(sketch, kinds, images):
    graph = sketch((5, 7, 7))
    x = graph.conv_of("x", 5, 12, "a", kind="BinaryWeightConv2d", pads=(0, 1, 1, 2))
    x = graph.node("Relu", [graph.normalize(x, 12, "bn_a")])
    x = graph.conv_of(x, 12, 8, "b", kind="BinaryWeightConv2d", pad_value=0.0, group=1)
    x = graph.node("Flatten", [x])
    x = graph.linear(x, 384, 10, "c", kind="BinaryWeightLinear")
    latent, batch = graph.model(x), images(3, 5, 7, 7)
    packed = convert(latent)
    assert kinds(packed) == [
        "BinaryWeightConv2d",
        "Relu",
        "BinaryWeightConv2d",
        "Flatten",
        "BinaryWeightLinear",
    ]
    expected, none = run_onnxruntime(latent, batch)
    assert none == {}
    for run in (run_onnxruntime, run_numpy):
        np.testing.assert_allclose(run(packed, batch)[0], expected, rtol=1e-4, atol=1e-4)


def test_float_layers_take_their_normalization(sketch, converted, kinds, images):
    graph = sketch((3, 8, 8))
    random = np.random.default_rng(3)
    stem = graph.constant("stem.weight", random.normal(size=(8, 3, 3, 3)))
    x = graph.normalize(graph.node("Conv", ["x", stem], pads=(1, 1, 1, 1)), 8, "bn_stem")
    x = graph.node("GlobalAveragePool", [graph.conv(x, 8, 8, "a")])
    x = graph.node("Flatten", [x])
    weight = graph.constant("head.weight", random.normal(size=(10, 8)))
    bias = graph.constant("head.bias", random.normal(size=10))
    x = graph.node("Gemm", [x, weight, bias], transB=1, alpha=0.5, beta=2.0)
    x = graph.normalize(x, 10, "bn_head")
    packed = converted(graph.model(x), images(3, 3, 8, 8))
    assert kinds(packed) == ["Conv", "BinaryConv2d", "GlobalAveragePool", "Flatten", "Gemm"]
    assert [packed.graph[0].name, packed.graph[4].name] == ["stem", "head"]


@pytest.mark.parametrize("tapped", ["convolution", "normalization"])
def test_a_value_that_the_graph_gives_out_keeps_its_floats(
    sketch, converted, kinds, images, tapped
):
    graph = sketch((4, 6, 6))
    first = graph.conv("x", 4, 8, "a")
    second = graph.normalize(first, 8, "bn")
    last = graph.conv(second, 8, 4, "b")
    output = first if tapped == "convolution" else second
    model = graph.model(last, output)
    packed = converted(model, images(2, 4, 6, 6))
    kept = ["BatchNormalization"] if tapped == "convolution" else []
    assert kinds(packed) == ["BinaryConv2d", *kept, "BinaryConv2d"]
    assert [value.name for value in packed.graph.outputs] == [last, output]


def test_epsilon_is_the_node_s_own(sketch, converted, images):
    graph = sketch((4, 6, 6))
    x = graph.normalize(graph.conv("x", 4, 32, "a"), 32, "bn_a", var=np.full(32, 1e-3))
    x = graph.normalize(graph.conv(x, 32, 8, "b"), 8, "bn_b", var=np.full(8, 1e-3))
    for node in graph.nodes:
        if node.op_type == "BatchNormalization":
            node.attribute.append(onnx.helper.make_attribute("epsilon", 0.5))
    converted(graph.model(x), images(2, 4, 6, 6))


def test_what_still_trains_is_left_alone(sketch, kinds):
    graph = sketch((4, 6, 6))
    ratio, training = graph.constant("ratio", 0.5), graph.constant("training", np.array(True))
    x = graph.node("Dropout", [graph.conv("x", 4, 4, "a"), ratio, training])
    x = graph.normalize(graph.conv(x, 4, 4, "b"), 4, "bn")
    normalization = graph.nodes[-1]
    normalization.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    normalization.output.extend(["mean", "var"])
    packed = convert(graph.model(graph.conv(x, 4, 4, "c")))
    assert kinds(packed) == [
        "BinaryConv2d",
        "Dropout",
        "BinaryConv2d",
        "BatchNormalization",
        "BinaryConv2d",
    ]


def test_a_gemm_that_adds_a_matrix_keeps_its_normalization(sketch, converted, kinds, images):
    graph = sketch((8,))
    x = graph.linear("x", 8, 6, "a")
    weight = graph.constant("head.weight", np.eye(6))
    matrix = graph.constant("head.bias", np.arange(12.0).reshape(2, 6))
    x = graph.normalize(graph.node("Gemm", [x, weight, matrix]), 6, "bn")
    packed = converted(graph.model(x, batch=2), images(4, 8))
    assert kinds(packed) == ["BinaryLinear", "Gemm", "BatchNormalization"]


def test_a_scale_computed_from_the_weight_is_folded(sketch, converted, kinds, images):
    graph = sketch((4, 6, 6))
    weight = graph.constant("a.weight", np.random.default_rng(1).normal(size=(70, 4, 3, 3)))
    axes = graph.constant("axes", np.array([1, 2, 3]))
    scale = graph.node("ReduceMean", [graph.node("Abs", [weight]), axes], keepdims=0)
    inputs = ["x", weight, scale, graph.constant("zero", np.zeros(70))]
    geometry = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    x = graph.node("BinaryConv2d", inputs, dialect.LATENT, "c", **geometry, pad_value=1.0)
    assert kinds(converted(graph.model(x), images(2, 4, 6, 6))) == ["BinaryConv2d"]


def test_groups_and_a_fixed_batch(sketch, converted, images):
    graph = sketch((6, 6, 6))
    x = graph.normalize(graph.conv("x", 3, 8, "a", group=2), 8, "bn")
    x = graph.conv(x, 2, 4, "b", group=4)
    converted(graph.model(x, batch=1), images(3, 6, 6, 6))


def test_a_converted_model_passes_through_unchanged(sketch):
    graph = sketch((4, 8, 8))
    x = graph.normalize(graph.conv("x", 4, 8, "a"), 8, "bn")
    x = graph.node("MaxPool", [x], name="pool", kernel_shape=(2, 2), strides=(2, 2))
    x = graph.node("Flatten", [graph.conv(x, 8, 6, "b")])
    x = graph.linear(x, 96, 10, "c")
    once = convert(graph.model(x))
    assert ir.to_proto(convert(once)) == ir.to_proto(once)


def test_the_model_given_is_left_as_it_is(sketch):
    graph = sketch((4, 8, 8))
    latent = graph.model(graph.normalize(graph.conv("x", 4, 8, "a"), 8, "bn"))
    before = ir.to_proto(latent).SerializeToString(deterministic=True)
    convert(latent)
    assert ir.to_proto(latent).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_other_opsets_come_out_as_opset_20_without_exporter_metadata(
    sketch, converted, images, opset
):
    graph = sketch((4, 8, 8), opset=opset)
    x = graph.normalize(graph.conv("x", 4, 8, "a"), 8, "bn")
    x = graph.node("GlobalAveragePool", [graph.conv(x, 8, 8, "b")])
    latent = graph.model(x)
    latent.producer_name = "exporter"
    for node in latent.graph:
        node.metadata_props["module"] = "somewhere"
    packed = converted(latent, images(2, 4, 8, 8))
    proto = ir.to_proto(packed)
    imports = {entry.domain: entry.version for entry in proto.opset_import}
    assert imports == {"": 20, "bindeploy": 1}
    assert proto.ir_version == 10
    assert b"somewhere" not in proto.SerializeToString() and proto.producer_name == "bindeploy"
    assert {function.name for function in proto.functions} == {
        "BinaryConv2d",
        "BinaryConv2dThreshold",
    }
    assert [node.name for node in packed.graph][:2] == ["a", "b"]
    onnx.checker.check_model(proto)


def test_tied_weights_get_names_of_their_own(sketch, converted, images):
    graph = sketch((4, 6, 6))
    x = graph.conv("x", 4, 4, "a")
    inputs = [x, *graph.nodes[0].input[1:]]
    attributes = {
        item.name: onnx.helper.get_attribute_value(item) for item in graph.nodes[0].attribute
    }
    x = graph.node("BinaryConv2d", inputs, dialect.LATENT, "again", **attributes)
    packed = converted(graph.model(x), images(2, 4, 6, 6))
    assert [node.name for node in packed.graph] == ["a", "a_2"]


def test_without_a_binary_layer_the_error_names_the_model(sketch):
    graph = sketch((4, 6, 6))
    with pytest.raises(BindeployError, match="`sketch` has no binary layer: give weights"):
        convert(graph.model(graph.node("Relu", ["x"])))


def test_numbers_that_are_not_finite_are_refused_by_name(sketch):
    graph = sketch((4, 6, 6))
    x = graph.normalize(graph.conv("x", 4, 4, "a"), 4, "bn", mean=np.array([0, np.inf, 0, 0]))
    with pytest.raises(BindeployError, match="node `bn` normalizes by numbers that are not finite"):
        convert(graph.model(graph.conv(x, 4, 4, "b")))
    graph = sketch((4, 6, 6))
    x = graph.conv_of("x", 4, 4, "a", scale=np.array([1.0, np.nan, 1, 1]))
    with pytest.raises(BindeployError, match="node `a` .* has a `scale` that is not finite"):
        convert(graph.model(x))
