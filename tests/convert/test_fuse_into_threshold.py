"""Chains of functions after a binary layer: the fused graph gives the signs of the unfused one.

Inputs are made so that the layer's sums take every value they can: all products of a window are +1
but the first j, for every j.
"""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect
from bindeploy.convert.engines import run_onnxruntime
from bindeploy.convert.fold_latent_weights import FoldLatentWeights
from bindeploy.convert.fuse_into_threshold import FuseIntoThreshold
from bindeploy.convert.golden import margins
from bindeploy.convert.name_layers import NameLayers
from bindeploy.convert.pipeline import prepare, run

FILTERS = 4
awkward = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 0.25, -0.5, 1 / 3, 3.0, -2.0, 1e-30, -1e-42, 1e30, -3e38]
)
numbers = st.floats(-4, 4, width=32) | awkward
vectors = st.lists(numbers, min_size=FILTERS, max_size=FILTERS).map(np.float32)
parameters = numbers.map(np.float32) | vectors


def packed(model):
    """The graph that the pass meets: prepared, named, its weights in bits."""
    model = prepare(model)
    NameLayers()(model)
    FoldLatentWeights()(model)
    return model


def fused(model):
    """The graph after the pass alone, which keeps the dialect's contract."""
    model = packed(model)
    FuseIntoThreshold()(model)
    dialect.verify(model)
    return model


def sums(channels):
    """float32 [1, channels, 2 channels + 1, 2]: row j has -1 in the first j places of a window."""
    rows = np.where(np.arange(2 * channels) < np.arange(2 * channels + 1)[:, None], -1, 1)
    return rows.reshape(1, -1, 2, channels).transpose(0, 3, 1, 2).astype(np.float32)


def layer(graph, channels, scale, bias, pad_value, sign):
    """A convolution of two taps whose windows have the products `sums` makes, whatever `sign`."""
    weight = np.full((len(scale), channels, 1, 2), sign)
    graph.random = FixedWeight(weight)
    pads = (0, 1, 0, 1)
    return graph.conv_of(
        "x",
        channels,
        len(scale),
        "a",
        kernel=(1, 2),
        pads=pads,
        pad_value=pad_value,
        scale=scale,
        bias=bias,
    )


def counted(channels, sign, pad_value):
    """float32 [1, 1, 2 channels + 1, 3]: the sums of those windows; a padded tap reads the pad."""
    first = np.arange(2 * channels + 1)
    left = channels - 2 * np.minimum(first, channels)
    right = channels - 2 * np.maximum(first - channels, 0)
    padded = np.full_like(first, pad_value * sign * channels)
    columns = [padded + left, left + right, right + padded]
    return np.stack(columns, axis=-1)[None, None].astype(np.float32)


class FixedWeight:
    """In the place of a random generator: the one weight."""

    def __init__(self, weight):
        self.weight = weight

    def normal(self, size):
        assert self.weight.shape == size
        return self.weight


def spread(array):
    """A parameter against [N, C, H, W]: one number, or one a channel."""
    return np.float32(array).reshape(-1, 1, 1)


def rectify(x, slope):
    return np.where(x >= 0, x, slope * x)


def normalize(x, gamma, beta, mean, var):
    gamma, beta, mean, var = (np.float64(a)[:, None, None] for a in (gamma, beta, mean, var))
    slope = gamma / np.sqrt(var + float(np.float32(1e-5)))
    return (x.astype(np.float64) - mean) * slope + beta


def pool(x):
    return np.maximum(x[:, :, 1:], x[:, :, :-1])


MEANINGS = {
    "Add": lambda x, c: x + spread(c),
    "Sub": lambda x, c: x - spread(c),
    "Mul": lambda x, c: x * spread(c),
    "Div": lambda x, c: x / spread(c),
    "subtract from": lambda x, c: spread(c) - x,
    "divide into": lambda x, c: spread(c) / x,
    "Max": lambda x, c: np.maximum(x, spread(c)),
    "Min": lambda x, c: np.minimum(x, spread(c)),
    "PRelu": lambda x, c: rectify(x, spread(c)),
    "LeakyRelu": lambda x, c: rectify(x, np.float32(c)),
    "Clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "HardSigmoid": lambda x: np.clip(np.float32(0.2) * x + np.float32(0.5), 0, 1),
    "Relu": lambda x: np.maximum(x, 0),
    "Neg": lambda x: -x,
    "Abs": np.abs,
    "Identity": lambda x: x,
    "BatchNormalization": normalize,
    "MaxPool": pool,
}
"""What the graph's operators compute, by other code than the pass has."""

MAY_BE_REFUSED = frozenset({"Div", "divide into", "MaxPool"})
"""Even of one threshold: what divides by 0, and what turns before a pool."""

functions = st.one_of(
    st.tuples(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min", "PRelu"]), parameters),
    st.tuples(st.sampled_from(["Div", "subtract from", "divide into"]), parameters),
    st.tuples(st.just("LeakyRelu"), numbers),
    st.tuples(st.just("Clip"), numbers, numbers),
    st.sampled_from(["HardSigmoid", "Relu", "Neg", "Abs", "Identity", "MaxPool"]).map(
        lambda kind: (kind,)
    ),
    st.tuples(
        st.just("BatchNormalization"),
        vectors.filter(lambda v: (np.abs(v) < 100).all()),
        vectors,
        vectors,
        st.lists(st.floats(0, 4, width=32), min_size=FILTERS, max_size=FILTERS),
    ),
)


def append(graph, x, number, kind, *arrays):
    """One function of the strategy as a node of the graph."""
    names = [graph.constant(f"c{number}.{i}", np.float32(a)) for i, a in enumerate(arrays)]
    if kind == "LeakyRelu":
        return graph.node(kind, [x], alpha=float(arrays[0]))
    if kind == "MaxPool":
        return graph.node(kind, [x], kernel_shape=(2, 1))
    if kind == "BatchNormalization":
        return graph.normalize(x, FILTERS, f"bn{number}", *arrays)
    if kind == "Clip":
        return graph.node(kind, [x, *names])
    if arrays:
        (names[0],) = [graph.constant(f"s{number}", spread(arrays[0]))]
    if kind in ("subtract from", "divide into"):
        return graph.node({"s": "Sub", "d": "Div"}[kind[0]], [names[0], x])
    return graph.node(kind, [x, *names])


def drawn(graph, channels, sign, scale, bias, chain, pad_value):
    """The layer, the chain, a BinarySign: the output's name."""
    x = layer(graph, channels, scale, bias, pad_value, sign)
    for number, function in enumerate(chain):
        x = append(graph, x, number, *function)
    return graph.node("BinarySign", [x], dialect.LATENT)


def bare(graph, output):
    """The sketch's model without the functions of its ops, which take a while to build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "attach_functions", lambda model: None)
        return graph.model(output)


def run_bare(model, x):
    """The output by the numpy meanings alone."""
    model.opset_imports[dialect.DOMAIN] = 1
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=dialect.REFERENCE_OPS)
    return evaluator.run(None, {"x": x})[0]


def evaluated(y, scale, bias, chain):
    """The chain on integers [1, 1, H, W] or [1, FILTERS, H, W], by the table above."""
    with np.errstate(all="ignore"):
        y = spread(scale) * y + spread(bias)
        for kind, *arrays in chain:
            dtype = np.float64 if kind == "BatchNormalization" else np.float32
            y = MEANINGS[kind](y.astype(dtype), *arrays)
    return y


def has_nan(y, scale, bias, chain):
    """Whether the chain, cut off anywhere, has no number."""
    lengths = range(len(chain) + 1)
    return any(np.isnan(evaluated(y, scale, bias, chain[:length])).any() for length in lengths)


examples = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the fixture is a class
)
chains = st.lists(functions, max_size=5).filter(
    lambda chain: chain.count(("MaxPool",)) <= 2  # three would leave nothing of three rows
)
layers = st.integers(1, 5), st.sampled_from([-1.0, 1.0]), vectors, vectors
paddings = st.sampled_from([0.0, 1.0])


@examples
@given(*layers, chains, paddings)
def test_any_chain_has_its_signs_on_every_sum_that_occurs(
    sketch, channels, sign, scale, bias, chain, pad_value
):
    graph = sketch((channels, 2 * channels + 1, 2))
    model = fused(bare(graph, drawn(graph, channels, sign, scale, bias, chain, pad_value)))
    occurring = counted(channels, sign, pad_value)
    expected = evaluated(occurring, scale, bias, chain)
    if model.graph[0].op_type == "BinaryConv2dThreshold":
        assert not np.isnan(expected).any()
        found = run_bare(model, sums(channels) * np.float32(sign))
        np.testing.assert_array_equal(found, np.where(expected >= 0, 1, -1))
    elif not MAY_BE_REFUSED & {kind for kind, *_ in chain}:
        step = 2 - (channels % 2 if pad_value == 0 else 0)
        every = np.arange(-2 * channels, 2 * channels + 1, step, np.float32)[None, None, None]
        floats = evaluated(every, scale, bias, chain)
        changes = np.diff(floats >= 0, axis=-1).sum(axis=-1)
        assert changes.max() > 1 or has_nan(every, scale, bias, chain)


@pytest.mark.parametrize("seed", range(12))
def test_onnxruntime_gives_the_same_signs_before_and_after(sketch, seed):
    """Chains without BatchNormalization, which onnxruntime rounds in its own way; ties included."""
    random = np.random.default_rng(seed)
    channels, pad_value = int(random.integers(1, 7)), float(seed % 2)
    scale = random.choice([0.5, -0.25, 0.1, 0.0, 1e-42], FILTERS)
    kinds = random.permutation(["Add", "Sub", "Mul", "Div", "PRelu", "Max", "Min", "subtract from"])
    chain = [(kind, random.choice([0.5, -1.0, 0.25, 2.0, 0.1], FILTERS)) for kind in kinds[:3]]
    chain.insert(int(random.integers(4)), ("MaxPool",))
    graph = sketch((channels, 2 * channels + 1, 2))
    model = graph.model(drawn(graph, channels, 1.0, scale, 0.5 * scale, chain, pad_value))
    before, after = (run_onnxruntime(m, sums(channels))[0] for m in (model, fused(model)))
    np.testing.assert_array_equal(after, before)


def shift(graph, x, name, form=(1, -1, 1, 1), filters=8, scale=0.5):
    """A learned shift, one number a channel."""
    draw = np.random.default_rng(len(graph.nodes)).normal(0, scale, filters)
    return graph.node("Add", [x, graph.constant(f"{name}.weight", draw.reshape(form))], name=name)


def rprelu(graph, x, name, filters=8):
    """ReActNet's activation: a shift, PRelu with a slope a channel, a shift."""
    x = shift(graph, x, f"{name}.before")
    slope = np.random.default_rng(5).uniform(0, 0.5, (filters, 1, 1))
    slope[2] = 0
    x = graph.node("PRelu", [x, graph.constant(f"{name}.slope", slope)], name=name)
    return shift(graph, x, f"{name}.after")


def relu(graph, x, name):
    return graph.node("Relu", [x], name=name)


def hard_tanh(graph, x, name):
    low, high = graph.constant(f"{name}.low", -1.0), graph.constant(f"{name}.high", 1.0)
    return graph.node("Clip", [x, low, high], name=name)


def max_pool(graph, x, name, **attributes):
    given = {"kernel_shape": (2, 2), "strides": (2, 2), **attributes}
    return graph.node("MaxPool", [x], name=name, **given)


def normalized(graph, x, name, filters=8):
    return graph.normalize(x, filters, name)


def prelu(graph, x, name):
    slope = np.linspace(0, 1.6, 8).reshape(8, 1, 1)
    return graph.node("PRelu", [x, graph.constant(f"{name}.slope", slope)], name=name)


THRESHOLD, POOL, LAYER = "BinaryConv2dThreshold", "BinaryMaxPool2d", "BinaryConv2d"


@pytest.mark.parametrize(
    ("chain", "pools"),
    [
        ([shift], 0),
        ([normalized, shift], 0),
        ([normalized, rprelu, shift], 0),
        ([relu, normalized], 0),
        ([hard_tanh, normalized, hard_tanh], 0),
        ([relu, max_pool, normalized], 1),
        ([max_pool, relu, normalized, hard_tanh], 1),
        ([prelu, normalized], 0),
        ([max_pool, prelu, normalized, max_pool], 2),
        ([normalized, max_pool, normalized, max_pool, normalized], 2),
    ],
    ids=lambda value: None if isinstance(value, int) else "-".join(f.__name__ for f in value),
)
def test_the_chains_that_networks_are_made_of(sketch, converted, kinds, images, chain, pools):
    graph = sketch((5, 10, 9))
    x = graph.conv("x", 5, 8, "a")
    for number, function in enumerate(chain):
        x = function(graph, x, f"f{number}")
    packed = converted(graph.model(graph.conv(x, 8, 4, "b")), images(4, 5, 10, 9))
    assert kinds(packed) == [THRESHOLD, *[POOL] * pools, LAYER]


def test_a_pool_before_a_falling_channel_is_a_minimum_of_signs(sketch, converted, images):
    graph = sketch((5, 10, 9))
    x = max_pool(graph, graph.conv("x", 5, 8, "a"), "pool")
    x = graph.node("Mul", [x, graph.constant("c", np.tile([1.0, -0.5], 4).reshape(8, 1, 1))])
    packed = converted(graph.model(graph.conv(x, 8, 4, "b")), images(4, 5, 10, 9))
    assert packed.graph[1].inputs[1].const_value.numpy().tolist() == [1, -1] * 4


def test_a_slope_that_falls_needs_two_thresholds_and_says_so(sketch, converted, kinds, images):
    graph = sketch((5, 6, 6))
    x = graph.conv_of("x", 5, 4, "a", scale=np.full(4, 0.1), bias=np.zeros(4))
    slope = graph.constant("slope", np.float32([0.2, 0.0, 1.0, -0.25]).reshape(4, 1, 1))
    x = graph.node("PRelu", [x, slope], name="act")
    x = graph.node("Sub", [x, graph.constant("half", 0.5)])
    model = graph.model(graph.conv(x, 4, 4, "b"))
    assert kinds(converted(model, images(3, 5, 6, 6))) == [LAYER, "PRelu", "Sub", LAYER]
    assert run(model).layers[0].rule == (
        "latent BinaryConv2d, floats kept (PRelu `act` turns in channel 3: no single threshold)"
    )


def test_signs_that_never_change_are_said_to_be_constant(sketch, converted, kinds, images):
    graph = sketch((5, 6, 6))
    model = graph.model(graph.conv(relu(graph, graph.conv("x", 5, 8, "a"), "act"), 8, 4, "b"))
    assert kinds(converted(model, images(2, 5, 6, 6))) == [THRESHOLD, LAYER]
    assert run(model).layers[0].rule == "latent BinaryConv2d, thresholded with act (always +1)"


@pytest.mark.parametrize("where", ["the layer", "between", "the graph gives it out"])
def test_what_floats_also_read_keeps_its_floats(sketch, converted, kinds, images, where):
    graph = sketch((8, 6, 6))
    first = graph.conv("x", 8, 8, "a")
    second = shift(graph, first, "s")
    x = graph.conv(
        relu(graph, graph.node("Sub", [second, graph.constant("c", 0.5)]), "r"), 8, 8, "b"
    )
    tapped = first if where == "the layer" else second
    outputs = [x, tapped] if where == "the graph gives it out" else [graph.node("Add", [x, tapped])]
    packed = converted(graph.model(*outputs), images(2, 8, 6, 6))
    assert kinds(packed)[0] == LAYER and THRESHOLD not in kinds(packed)


def test_several_binarizations_of_one_chain_share_its_threshold(sketch, converted, kinds, images):
    graph = sketch((5, 6, 6))
    x = rprelu(graph, graph.conv("x", 5, 8, "a"), "act")
    branches = [graph.conv(x, 8, 4, name) for name in "bc"]
    packed = converted(graph.model(graph.node("Add", branches)), images(2, 5, 6, 6))
    assert kinds(packed) == [THRESHOLD, LAYER, LAYER, "Add"]


@pytest.mark.parametrize("attributes", [{"dilations": (2, 2)}, {"auto_pad": "SAME_UPPER"}])
def test_a_pool_of_another_geometry_takes_signs_that_rise(
    sketch, converted, kinds, images, attributes
):
    graph = sketch((5, 9, 9))
    x = max_pool(graph, graph.conv("x", 5, 8, "a"), "pool", **attributes)
    packed = converted(graph.model(graph.conv(shift(graph, x, "s"), 8, 4, "b")), images(3, 5, 9, 9))
    assert kinds(packed) == [THRESHOLD, "MaxPool", LAYER]


def test_a_pool_whose_windows_are_rounded_up_keeps_what_follows(sketch, converted, kinds, images):
    graph = sketch((5, 9, 9))
    x = max_pool(graph, graph.conv("x", 5, 8, "a"), "pool", ceil_mode=1)
    packed = converted(graph.model(graph.conv(shift(graph, x, "s"), 8, 4, "b")), images(3, 5, 9, 9))
    assert kinds(packed) == [LAYER, "MaxPool", "Add", LAYER]


def test_a_pool_of_another_geometry_before_a_falling_channel_keeps_floats(
    sketch, converted, kinds, images
):
    graph = sketch((5, 9, 9))
    x = max_pool(graph, graph.conv("x", 5, 8, "a"), "pool", dilations=(2, 2))
    model = graph.model(graph.conv(graph.node("Neg", [x]), 8, 4, "b"))
    assert kinds(converted(model, images(2, 5, 9, 9))) == [LAYER, "MaxPool", "Neg", LAYER]
    assert "floats kept (MaxPool `pool` has no binary form)" in run(model).layers[0].rule


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_pools_and_channels_of_one_dimension(sketch, converted, kinds, images, slope):
    """[N, C, L] goes through layers as [N, C, 1, L]: Unsqueeze, Conv, Squeeze."""
    graph = sketch((5, 12))
    axis = graph.constant("axis", np.array([2]))
    x = graph.node("Unsqueeze", ["x", axis])
    x = graph.conv_of(x, 5, 8, "a", kernel=(1, 3), pads=(0, 1, 0, 1))
    x = graph.node("Squeeze", [x, axis])
    x = graph.node("MaxPool", [x], name="pool", kernel_shape=(3,), strides=(2,), pads=(1, 0))
    x = graph.normalize(x, 8, "bn", gamma=slope * np.ones(8))
    x = graph.conv_of(graph.node("Unsqueeze", [x, axis]), 8, 4, "b", kernel=(1, 2))
    packed = converted(graph.model(x), images(3, 5, 12))
    pooled = ["MaxPool"] if slope > 0 else ["Unsqueeze", POOL, "Squeeze"]
    assert kinds(packed) == ["Unsqueeze", THRESHOLD, "Squeeze", *pooled, "Unsqueeze", LAYER]


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_linear_layer_has_its_channels_last(sketch, converted, kinds, images, rank):
    graph = sketch((3, 5, 6)[4 - rank :])
    x = graph.linear("x", 6, 8, "a")
    form = (*[1] * (rank - 1), -1) if rank % 2 else (-1,)
    x = shift(graph, x, "s", form)
    slope = graph.constant("slope", np.linspace(0, 1, 8))
    x = shift(graph, graph.node("PRelu", [x, slope]), "t", (-1,))
    packed = converted(
        graph.model(graph.linear(x, 8, 4, "b")), images(4, 3, 5, 6)[(0,) * (4 - rank)]
    )
    assert kinds(packed) == ["BinaryLinearThreshold", "BinaryLinear"]


def test_features_made_pictures_keep_their_channels(sketch, converted, kinds, images):
    graph = sketch((6,))
    axes = graph.constant("axes", np.array([2, 3]))
    x = graph.node("Unsqueeze", [graph.linear("x", 6, 8, "a"), axes])
    x = graph.normalize(x, 8, "bn")
    packed = converted(graph.model(graph.conv(x, 8, 4, "b")), images(9, 6))
    assert kinds(packed) == ["BinaryLinearThreshold", "Unsqueeze", LAYER]


def test_a_normalization_of_tokens_between_transposes_finds_the_features(
    sketch, converted, kinds, images
):
    graph = sketch((5, 6))
    x = graph.node("Transpose", [graph.linear("x", 6, 8, "a")], perm=(0, 2, 1))
    x = graph.node("Transpose", [graph.normalize(x, 8, "bn")], perm=(0, 2, 1))
    packed = converted(graph.model(graph.linear(x, 8, 4, "b")), images(4, 5, 6))
    computing = [kind for kind in kinds(packed) if kind != "Transpose"]
    assert computing == ["BinaryLinearThreshold", "BinaryLinear"]


def test_a_flattened_picture_has_one_channel_a_pixel(sketch, converted, kinds, images):
    """Behind it one number for all still fits; one a pixel does not, unless there is one pixel."""
    graph = sketch((5, 4, 4))
    x = graph.node("Flatten", [graph.conv("x", 5, 8, "a", strides=(2, 2))])
    x = relu(graph, graph.node("Sub", [x, graph.constant("c", 0.25)]), "r")
    x = graph.node("Sub", [x, graph.constant("e", 0.125)])
    x = graph.linear(x, 32, 8, "b")
    packed = converted(graph.model(x), images(3, 5, 4, 4))
    assert kinds(packed) == [THRESHOLD, "Flatten", "BinaryLinear"]
    for size, expected in ((4, LAYER), (1, THRESHOLD)):
        graph = sketch((5, size, size))
        x = graph.node("Flatten", [graph.conv("x", 5, 8, "a", strides=(2, 2))])
        pixels = 8 * (size // 2 or 1) ** 2
        x = graph.linear(graph.normalize(x, pixels, "bn"), pixels, 8, "b")
        assert kinds(converted(graph.model(x), images(3, 5, size, size)))[0] == expected


def phases(graph, names="abcd"):
    """Four layers side by side, as a transposed convolution of stride 2 is written."""
    made = [graph.conv("x", 5, 3, name) for name in names]
    joined = graph.node("Concat", made, axis=1)
    return graph.node("DepthToSpace", [joined], blocksize=2, mode="DCR")


def test_layers_that_meet_in_a_concat_are_fused_together(sketch, converted, kinds, images):
    graph = sketch((5, 4, 4))
    x = graph.normalize(phases(graph), 3, "bn")
    model = graph.model(graph.conv(x, 3, 4, "e"))
    packed = converted(model, images(3, 5, 4, 4))
    assert kinds(packed) == [*[THRESHOLD] * 4, "Concat", "DepthToSpace", LAYER]
    assert run(model).layers[3].rule == "latent BinaryConv2d, thresholded with bn"


def test_phases_woven_together_with_two_strides_are_fused(sketch, kinds, images):
    """Of strides 2 and 3: Concat, Reshape to six phases, Transpose, Reshape to the image."""
    graph = sketch((5, 4, 4))
    weight = np.random.default_rng(1).choice([-0.5, 0.5], (5, 3, 4, 6))
    x = graph.node("BinarySign", ["x"], dialect.LATENT)
    x = graph.node("ConvTranspose", [x, graph.constant("up.weight", weight)], strides=(2, 3))
    model = graph.model(graph.conv(graph.normalize(x, 3, "bn"), 3, 4, "e"))
    packed = run(model).model
    woven = ["Concat", "Reshape", "Transpose", "Reshape"]
    assert kinds(packed) == [*[THRESHOLD] * 6, *woven, LAYER]
    batch = images(3, 5, 4, 4)
    before, after = (run_onnxruntime(each, batch) for each in (model, packed))
    np.testing.assert_array_equal(before[1]["e"], after[1]["e"])


def test_a_pool_of_pixels_from_several_layers_keeps_floats(sketch, converted, kinds, images):
    """It compares numbers that came by different scales; one direction may not fit them all."""
    graph = sketch((5, 4, 4))
    x = max_pool(graph, phases(graph), "pool")
    x = graph.normalize(x, 3, "bn", gamma=-np.ones(3))
    packed = converted(graph.model(graph.conv(x, 3, 4, "e")), images(3, 5, 4, 4))
    assert THRESHOLD not in kinds(packed) and POOL not in kinds(packed)


def test_where_one_of_them_cannot_no_layer_is(sketch, converted, kinds, images):
    graph = sketch((5, 4, 4))
    made = [graph.conv("x", 5, 3, name) for name in "ab"]
    joined = graph.node("Concat", [*made, "x"], axis=1)
    x = graph.normalize(joined, 11, "bn")
    packed = converted(graph.model(graph.conv(x, 11, 4, "e")), images(3, 5, 4, 4))
    assert kinds(packed) == [LAYER, LAYER, "Concat", "BatchNormalization", LAYER]


def test_branches_of_a_concat_keep_their_own_channels_through_a_pool(
    sketch, converted, kinds, images
):
    graph = sketch((5, 8, 8))
    first = graph.normalize(graph.conv("x", 5, 3, "a"), 3, "bn_a")
    joined = graph.node("Concat", [first, graph.conv("x", 5, 4, "b")], axis=1)
    x = graph.normalize(
        max_pool(graph, joined, "pool"), 7, "bn", gamma=np.float32([1, -1] * 3 + [1])
    )
    packed = converted(graph.model(graph.conv(x, 7, 4, "c")), images(3, 5, 8, 8))
    assert kinds(packed) == [THRESHOLD, THRESHOLD, "Concat", POOL, LAYER]


def test_a_sign_on_the_way_is_a_function_like_another(sketch, converted, kinds, images):
    graph = sketch((5, 8, 8))
    x = graph.node("BinarySign", [graph.conv("x", 5, 8, "a")], dialect.LATENT)
    x = graph.node("Mul", [x, graph.constant("c", np.tile([0.5, -2.0], 4).reshape(8, 1, 1))])
    x = shift(graph, max_pool(graph, x, "pool"), "s")
    packed = converted(graph.model(graph.conv(x, 8, 4, "b")), images(3, 5, 8, 8))
    assert kinds(packed) == [THRESHOLD, POOL, LAYER]


def test_the_last_end_that_has_thresholds_is_taken(sketch, converted, kinds, images):
    """Behind the sign stands something that engines round differently; the sign itself is fused."""
    graph = sketch((5, 8, 8))
    x = graph.node(
        "BinarySign",
        [relu(graph, shift(graph, graph.conv("x", 5, 8, "a"), "s"), "r")],
        dialect.LATENT,
    )
    x = shift(graph, graph.node("Tanh", [x]), "t")
    packed = converted(graph.model(graph.conv(x, 8, 4, "b")), images(3, 5, 8, 8))
    assert kinds(packed) == [THRESHOLD, "Tanh", "Add", LAYER]


@pytest.mark.parametrize("seed", range(6))
def test_a_network_of_random_chains_keeps_every_integer(sketch, converted, kinds, images, seed):
    random = np.random.default_rng(seed)
    graph = sketch((6, 20, 20))
    x, channels = "x", 6
    size = 20
    for number in range(4):
        x = graph.conv_of(x, channels, 8, f"conv{number}", pad_value=float(random.integers(2)))
        channels = 8
        pieces = [normalized, rprelu, relu, hard_tanh, prelu, shift]
        if size >= 4:
            pieces += [max_pool]
        for step in range(3):
            piece = pieces[random.integers(len(pieces))]
            if piece is max_pool and size < 4:
                continue
            size //= 2 if piece is max_pool else 1
            x = piece(graph, x, f"f{number}.{step}")
        x = graph.node("Sub", [x, graph.constant(f"c{number}", 0.125)])
    x = graph.node("GlobalAveragePool", [graph.conv(x, channels, 8, "last")])
    packed = converted(graph.model(x), images(3, 6, 20, 20))
    assert kinds(packed).count(THRESHOLD) == 4


def test_the_margins_of_golden_inputs_see_the_floats_of_a_chain(sketch, images):
    graph = sketch((5, 6, 6))
    x = graph.conv_of("x", 5, 8, "a", scale=np.ones(8), bias=np.zeros(8))
    x = graph.node("PRelu", [x, graph.constant("slope", np.float32(0.25))])
    x = graph.node("Sub", [x, graph.constant("c", 0.75)])
    batch = 1 + np.abs(images(4, 5, 6, 6))
    found = margins(graph.model(graph.conv(x, 8, 4, "b")), batch)
    np.testing.assert_allclose(found, 0.25)
