"""Float layers become int8: within the error of rounding, thresholds exact, all engines equal."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindeploy.convert import dialect, dialect_int8
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.explain import explain
from bindeploy.convert.fuse_int8_into_threshold import FuseInt8IntoThreshold
from bindeploy.convert.integer_range import IntegerRange
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.pipeline import convert, prepare, run
from bindeploy.convert.quantize_edges import QuantizeEdges, integers, quantize_edges
from bindeploy.convert.thresholds import Chain, thresholds
from bindeploy.errors import BindeployError

GEOMETRIES = {
    "plain": ({}, (3, 3)),
    "padded": ({"pads": [1, 0, 2, 1], "strides": [2, 1]}, (3, 2)),
    "grouped": ({"group": 2, "dilations": [2, 1]}, (2, 3)),
    "same": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (3, 3)),
}


def node_of(model: ir.Model, name: str) -> ir.Node:
    (found,) = [node for node in model.graph if node.name == name]
    return found


def constants_of(node: ir.Node) -> list[np.ndarray]:
    return [value.const_value.numpy() for value in node.inputs[1:]]


def run_both(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """The output, in which onnxruntime and the numpy meanings agree to the last bit."""
    dialect.attach_functions(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found, counted = run_onnxruntime(model, x)
    ours, ours_counted = run_numpy(model, x)
    np.testing.assert_array_equal(found, ours)
    for name in counted:
        np.testing.assert_array_equal(counted[name], ours_counted[name], err_msg=name)
    return found


def check_error(before: ir.Model, after: ir.Model, weight, x, largest=None):
    """Every output is off by no more than the rounding of x and of the weight can make it.

    |w x - (r v)(s q)| <= |w| |x - s q| + |w - r v| |s q|, summed over a window: two layers of the
    magnitudes of weight and input give the bound.
    """
    expected, found = run_onnxruntime(before, x)[0], run_both(after, x)
    node = node_of(after, "layer")
    v, s, scale, _ = constants_of(node)
    q = dialect_int8.quantize(x, s)
    dx = np.abs(x - np.float64(s) * q)
    r = (scale.astype(np.float64) / s).reshape(-1, *[1] * (v.ndim - 1))
    dw = np.abs(weight - r * v)
    assert (dw <= r * (0.5 + 1e-5)).all()
    assert (dx <= s * 0.5001).mean() > 0.95, "few inputs are clipped"
    bound = np.zeros_like(expected, np.float64)
    for factor, other in ((np.abs(weight), dx), (dw, np.abs(s * q.astype(np.float64)))):
        if v.ndim == 2:
            bound += other @ factor.T
        else:
            geometry = {name: list(node.attributes[name].as_ints()) for name in WINDOW}
            bound += windows(other, factor, node.attributes["group"].as_int(), **geometry)
    assert (np.abs(found - expected) <= bound + 1e-4).all()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


WINDOW = ("strides", "pads", "dilations")


def windows(x, weight, group, strides, pads, dilations):
    """A float64 convolution, by the definition."""
    x = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    seen = seen[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    parts = zip(np.split(seen, group, axis=1), np.split(weight, group), strict=True)
    return np.concatenate([np.einsum("nchwij,fcij->nfhw", a, w) for a, w in parts], axis=1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolutions_stay_within_the_error_of_rounding(geometry, sketch, images):
    attributes, kernel = GEOMETRIES[geometry]
    group = attributes.get("group", 1)
    network = sketch((4, 9, 8))
    weight = (
        network.random.normal(size=(6, 4 // group, *kernel))
        * 10.0 ** np.arange(-3, 3)[:, None, None, None]
    )
    inputs = ["x", network.constant("layer.weight", weight), network.constant("b", np.arange(6.0))]
    model = network.model(network.node("Conv", inputs, **attributes))
    NameLayers()(model)
    x = images(12, 4, 9, 8)
    quantized = quantize_edges(model, x)
    assert node_of(quantized, "layer").op_type == "Int8Conv2d"
    check_error(model, quantized, weight.astype(np.float32), x)
    assert node_of(model, "layer").op_type == "Conv", "the model itself is left as it is"


LINEAR = {
    "Gemm": ("Gemm", (33,), {"transB": 1}, [6]),
    "Gemm with factors": ("Gemm", (33,), {"alpha": 0.25, "beta": -3.0}, [1, 6]),
    "Gemm with one bias": ("Gemm", (33,), {}, []),
    "Gemm without bias": ("Gemm", (33,), {}, None),
    "MatMul": ("MatMul", (33,), {}, None),
    "MatMul over positions": ("MatMul", (5, 33), {}, None),
}


@pytest.mark.parametrize("case", LINEAR)
def test_dense_layers_stay_within_the_error_of_rounding(case, sketch, images):
    op, shape, attributes, bias = LINEAR[case]
    network = sketch(shape)
    weight = network.random.normal(size=(6, 33))
    stored = weight if attributes.get("transB") else weight.T
    inputs = ["x", network.constant("layer.weight", stored)]
    if bias is not None:
        inputs.append(network.constant("b", np.asarray(network.random.normal(size=bias))))
    model = network.model(network.node(op, inputs, **attributes))
    NameLayers()(model)
    x = images(12, *shape)
    quantized = quantize_edges(model, x)
    assert node_of(quantized, "layer").op_type == "Int8Linear"
    check_error(model, quantized, (weight * attributes.get("alpha", 1)).astype(np.float32), x)


def test_weights_are_the_nearest_integers_of_each_filter():
    weight = np.array([[0.5, -1.27, 0.0149], [0.0, 0.0, 0.0], [-3e38, 1e38, 0.0]])
    found, steps = integers(weight)
    assert found.tolist() == [[50, -127, 1], [0, 0, 0], [-127, 42, 0]]
    np.testing.assert_allclose(steps, [0.01, 1, 3e38 / 127])


@pytest.mark.parametrize("factor", [1.0, 0.3, -2.5])
def test_an_input_of_signs_is_exact(factor, sketch, images):
    """q is +-1: the layer loses what its weights lose, and nothing else."""
    network = sketch((2, 4, 4))
    y = network.conv("x", 2, 3, "body")
    signs = network.node("BinarySign", [y], "bindeploy.latent")
    y = network.node("Mul", [signs, network.constant("s", np.float32(factor))])
    y = network.node("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = network.node("Flatten", [y])
    weight = network.random.normal(size=(5, 12))
    inputs = [y, network.constant("layer.weight", weight), network.constant("b", np.zeros(5))]
    model = network.model(network.node("Gemm", inputs, transB=1), signs)
    x = images(3, 2, 4, 4)
    quantized = quantize_edges(convert(model), x)
    v, s, scale, _ = constants_of(node_of(quantized, "layer"))
    assert s == np.float32(abs(factor))
    last = quantized.graph.outputs[0]
    read = node_of(quantized, "layer").inputs[0]
    quantized.graph.outputs[0] = read
    q = run_both(quantized, x) / s
    assert set(np.unique(q)) == {-1, 1}
    quantized.graph.outputs[0] = last
    product = scale * (q @ v.T).astype(np.float32)
    np.testing.assert_array_equal(run_both(quantized, x), product)


def first_layer(sketch, after, filters=6):
    """Conv, then what `after` adds, then a binary layer and a dense one."""
    network = sketch((2, 6, 6))
    weight = network.random.normal(size=(filters, 2, 3, 3))
    bias = network.random.normal(size=filters) * 0.5
    inputs = ["x", network.constant("first.weight", weight), network.constant("b", bias)]
    y = after(network, network.node("Conv", inputs, pads=[1, 1, 1, 1]))
    y = network.node("Flatten", [network.conv(y, filters, 4, "body", strides=(2, 2))])
    y = network.node("GlobalAveragePool", [network.node("Unsqueeze", [y, axis(network)])])
    return network.model(y)


def axis(network):
    return network.constant("axis", np.array([2]))


def slopes(network, filters=6, low=0.0):
    values = np.linspace(low, 1.5, filters)
    return network.constant("slopes", values.reshape(-1, 1, 1))


CHAINS = {
    "nothing": lambda n, y: y,
    "BatchNormalization": lambda n, y: n.normalize(y, 6, "bn"),
    "a pool": lambda n, y: n.node("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2]),
    "a pool between": lambda n, y: n.normalize(
        n.node("MaxPool", [n.normalize(y, 6, "one")], kernel_shape=[3, 3]), 6, "two"
    ),
    "Relu": lambda n, y: n.normalize(n.node("Relu", [y]), 6, "bn"),
    "PRelu": lambda n, y: n.normalize(n.node("PRelu", [y, slopes(n)]), 6, "bn"),
    "a shift": lambda n, y: n.node("Add", [y, n.constant("shift", np.full((6, 1, 1), 0.3))]),
    "Clip": lambda n, y: n.normalize(
        n.node("Clip", [y, n.constant("low", -0.5), n.constant("high", 0.7)]), 6, "bn"
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_before_a_sign_becomes_a_threshold(chain, sketch, images):
    """The integers of every layer behind it are those of the int8 layer with floats in between."""
    model = prepare(first_layer(sketch, CHAINS[chain]))
    x = images(9, 2, 6, 6)
    NameLayers()(model)
    QuantizeEdges(x)(model)
    floats = model.clone()
    assert FuseInt8IntoThreshold()(model).modified
    fused = node_of(model, "first")
    assert fused.op_type == "Int8Conv2dThreshold"
    kinds = {node.op_type for node in model.graph}
    assert not kinds & {"BatchNormalization", "MaxPool", "Relu", "PRelu", "Add", "Clip"}
    expected, counted = run_onnxruntime(floats, x)
    np.testing.assert_array_equal(run_both(model, x), expected)
    _, found = run_onnxruntime(model, x)
    np.testing.assert_array_equal(found["body"], counted["body"])
    (entry, *_) = explain(model)
    assert not entry.binarized and entry.name == "first"
    assert entry.reason.startswith("int8 by calibration: input scale 0.0")
    assert ", was float, thresholded" in entry.reason


def test_a_function_that_turns_keeps_its_floats_and_says_why(sketch, images):
    def turning(network, y):
        return network.normalize(network.node("PRelu", [y, slopes(network, low=-1.0)]), 6, "bn")

    model = prepare(first_layer(sketch, turning))
    NameLayers()(model)
    x = images(5, 2, 6, 6)
    QuantizeEdges(x)(model)
    FuseInt8IntoThreshold()(model)
    assert node_of(model, "first").op_type == "Int8Conv2d"
    (entry, *_) = explain(model)
    assert "was float, floats kept (" in entry.reason and "channel" in entry.reason
    run_both(model, x)


awkward = st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1e-30, -1e-38, 3e4, 1e-7])
magnitude = st.sampled_from([1, 127 * 128, 2**24 + 1, 2**31 - 1])


@given(
    st.lists(st.tuples(awkward, awkward), min_size=1, max_size=4),
    magnitude,
    st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=20),
)
def test_thresholds_of_many_integers_agree_with_the_expression(rows, largest, some):
    """At the threshold and beside it, at both ends, at integers that make a tie, and anywhere."""
    scale, bias = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    chain = Chain(scale, bias)
    found = thresholds(chain, IntegerRange(largest))
    with np.errstate(all="ignore"):
        ties = np.nan_to_num(np.rint(-bias / scale), posinf=0, neginf=0).astype(np.int64)
    near = np.concatenate([found.threshold.astype(np.int64), ties])[:, None] + np.arange(-2, 3)
    asked = np.concatenate([near.ravel(), some, [-largest, largest, 0]])
    asked = np.clip(asked, -largest, largest).astype(np.int64)
    above = asked[None] >= found.threshold[:, None]
    with np.errstate(all="ignore"):
        y = scale[:, None] * asked.astype(np.float32) + bias[:, None]
    np.testing.assert_array_equal(
        np.where(above == (found.direction > 0)[:, None], True, False), y >= 0
    )


def test_a_tie_is_positive_in_every_engine(sketch, images):
    """A bias that takes scale * dot to zero, exactly, for the dot of an image."""
    network = sketch((30,))
    weight = network.constant("layer.weight", network.random.normal(size=(50, 30)))
    y = network.node("Gemm", ["x", weight, network.constant("b", np.zeros(50))], transB=1)
    model = prepare(network.model(network.node("BinarySign", [y], "bindeploy.latent")))
    x = images(7, 30)
    NameLayers()(model)
    QuantizeEdges(x)(model)
    layer = node_of(model, "layer")
    v, s, scale, _ = constants_of(layer)
    dots = dialect_int8.linear_integers(x, v, s)
    layer.inputs[4].const_value = ir.tensor(-(scale * dots[3].astype(np.float32)))
    expected = run_both(model, x)
    assert (expected[3] == 1).all() and (expected == -1).any()
    FuseInt8IntoThreshold()(model)
    assert node_of(model, "layer").op_type == "Int8LinearThreshold"
    np.testing.assert_array_equal(run_both(model, x), expected)
    np.testing.assert_array_equal(constants_of(node_of(model, "layer"))[2], dots[3])


def test_layers_without_an_int8_form_stay_and_say_why(sketch, images):
    network = sketch((2, 8))
    weight = network.constant("line.weight", network.random.normal(size=(3, 2, 3)))
    y = network.node("Conv", ["x", weight], pads=[1, 1], name="line")
    left = network.constant("left", network.random.normal(size=(3, 3)))
    y = network.node("MatMul", [left, y], name="left")
    y = network.node("MatMul", [y, network.node("Transpose", [y], perm=[0, 2, 1])], name="both")
    y = network.node("MatMul", [y, network.constant("last.weight", np.eye(3))])
    model = prepare(network.model(y))
    (constant,) = (value for value in model.graph.initializers.values() if value.name == "left")
    fixed = ir.node("MatMul", [constant, constant], name="fixed")
    model.graph.append(fixed)
    model.graph.outputs.extend(fixed.outputs)
    NameLayers()(model)
    assert QuantizeEdges(images(4, 2, 8))(model).modified
    reasons = {layer.name: layer.reason for layer in explain(model)}
    assert reasons["line"] == "no int8: it convolves in 1-D, not 2-D"
    assert reasons["left"] == "no int8: weights are on the left"
    assert reasons["both"] == "no int8: both factors are computed"
    assert reasons["fixed"] == "no int8: its input is constant"
    assert reasons["last"].startswith("int8 by calibration: input scale ")


def test_sums_beyond_32_bits_stay_float(sketch):
    network = sketch((132105,))
    model = network.model(
        network.node("MatMul", ["x", network.constant("long.weight", np.ones((132105, 1)))])
    )
    model = prepare(model)
    NameLayers()(model)
    QuantizeEdges(np.ones((2, 132105), np.float32))(model)
    assert explain(model)[0].reason == "no int8: it sums beyond 32-bit integers"


def small(sketch) -> ir.Model:
    network = sketch((2, 6, 6))
    weight = network.constant("first.weight", network.random.normal(size=(40, 2, 3, 3)))
    y = network.conv(network.node("Conv", ["x", weight]), 40, 64, "body")
    y = network.node("Flatten", [network.node("GlobalAveragePool", [y])])
    last = network.constant("last.weight", network.random.normal(size=(10, 64)))
    return network.model(network.node("Gemm", [y, last], transB=1))


def test_a_network_shrinks_and_keeps_its_names(sketch, images):
    packed, x = convert(small(sketch)), images(6, 2, 6, 6)
    quantized = quantize_edges(packed, x)
    assert [node.op_type for node in quantized.graph] == [
        "Int8Conv2dThreshold",
        "BinaryConv2d",
        "GlobalAveragePool",
        "Flatten",
        "Int8Linear",
    ]
    before = {layer.name: layer.bytes for layer in explain(packed)}
    after = {layer.name: layer.bytes for layer in explain(quantized)}
    assert before["first"] == 4 * 720 and after["first"] == 720 + 4 + 5 * 40
    assert before["last"] == 4 * 640 and after["last"] == 640 + 4 + 8 * 10
    assert after["body"] == before["body"]
    run_both(quantized, x)
    assert not any(node.metadata_props for node in quantized.graph)


def test_a_quantized_model_converts_to_itself(sketch, images):
    quantized = quantize_edges(convert(small(sketch)), images(6, 2, 6, 6))
    again = run(quantized)
    assert ir.to_proto(again.model).graph.node == ir.to_proto(quantized).graph.node
    reasons = {layer.name: layer.reason for layer in again.layers}
    assert reasons["first"] == "already a Int8Conv2dThreshold"
    assert quantize_edges(quantized, images(6, 2, 6, 6)).graph.num_nodes() == 5


def test_only_the_layers_that_are_named_are_quantized(sketch, images):
    packed, x = convert(small(sketch)), images(6, 2, 6, 6)
    last = quantize_edges(packed, x, ["last"])
    assert node_of(last, "first").op_type == "Conv"
    assert node_of(last, "last").op_type == "Int8Linear"
    with pytest.raises(BindeployError, match="unknown float layer `body`: choose from first, last"):
        quantize_edges(packed, x, ["body"])


def test_layers_that_share_weight_and_input_are_quantized_alike(sketch, images):
    network = sketch((5,))
    weight = network.constant("shared", network.random.normal(size=(5, 5)))
    first, second = (network.node("MatMul", ["x", weight], name=name) for name in ("a", "b"))
    model = network.model(network.node("Sub", [first, second]))
    x = images(4, 5)
    quantized = quantize_edges(model, x)
    assert (run_both(quantized, x) == 0).all()
    assert [node.op_type for node in quantized.graph] == ["Int8Linear", "Int8Linear", "Sub"]
    assert "shared" not in quantized.graph.initializers


def test_a_model_without_float_layers_needs_no_images(sketch):
    network = sketch((2, 6, 6))
    packed = convert(network.model(network.conv("x", 2, 3, "only")))
    same = quantize_edges(packed, np.zeros((0, 2, 6, 6), np.float32))
    assert [node.op_type for node in same.graph] == ["BinaryConv2d"]
