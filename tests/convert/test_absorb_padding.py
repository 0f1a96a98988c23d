"""Padding before a convolution, by numbers: stock onnxruntime before, two engines after."""

import numpy as np
import pytest

from bindeploy.convert import dialect
from bindeploy.convert.absorb_padding import AbsorbPadding
from bindeploy.convert.binarize_layers import BinarizeLayers
from bindeploy.convert.fold_latent_weights import FoldLatentWeights
from bindeploy.convert.widen_one_dimensional import WidenOneDimensional

PASSES = (AbsorbPadding, WidenOneDimensional, BinarizeLayers, FoldLatentWeights, AbsorbPadding)


def pad(graph, x, counts, value=None, axes=None, **attributes):
    name = f"pad{len(graph.nodes)}"
    inputs = [x, graph.constant(f"{name}.pads", np.array(counts, np.int64))]
    if value is not None or axes is not None:
        inputs.append("" if value is None else graph.constant(f"{name}.value", np.float32(value)))
    if axes is not None:
        inputs.append(graph.constant(f"{name}.axes", np.array(axes, np.int64)))
    return graph.node("Pad", inputs, **attributes)


def sign(graph, x):
    return graph.node("BinarySign", [x], dialect.LATENT)


def conv(graph, x, channels=5, rank=4, **attributes):
    weight = graph.random.choice([-0.5, 0.5], (7, channels, *[3] * (rank - 2)))
    return graph.node("Conv", [x, graph.constant("c.weight", weight)], name="c", **attributes)


def window(model, name="c"):
    """pads and pad_value of the layer `c`; a standard Conv pads with 0."""
    (node,) = [node for node in model.graph if node.name == name]
    pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else []
    return pads, node.attributes.get_float("pad_value", 0.0)


SPATIAL = (0, 0, 1, 2, 0, 0, 0, 3)
ABSORBED = [1, 2, 0, 3]


@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_a_pad_of_signs_keeps_its_number(sketch, passed, kinds, images, value):
    graph = sketch((5, 6, 7))
    x = conv(graph, pad(graph, sign(graph, "x"), SPATIAL, value), strides=(2, 1))
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["BinarySign", "BinaryConv2d"]
    assert window(packed) == (ABSORBED, value or 0.0)


@pytest.mark.parametrize("value", [-0.0, 0.0, 0.25, 1.0])
def test_a_pad_before_the_sign_is_plus_one(sketch, passed, kinds, images, value):
    graph = sketch((5, 6, 7))
    x = conv(graph, sign(graph, pad(graph, "x", SPATIAL, value)))
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["BinarySign", "BinaryConv2d"]
    assert window(packed) == (ABSORBED, 1.0)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_latent_layer_binarizes_the_padding_it_reads(sketch, passed, kinds, images, value):
    graph = sketch((5, 6, 7))
    x = pad(graph, "x", SPATIAL, value)
    x = graph.conv_of(x, 5, 8, "c", pads=(1, 0, 0, 1), pad_value=1.0)
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["BinaryConv2d"]
    (layer,) = packed.graph
    assert list(layer.attributes["pads"].as_ints()) == [2, 2, 0, 4]


@pytest.mark.parametrize(
    ("weights", "value", "kept"),
    [("binary", 0.0, []), ("float", 0.0, []), ("binary", 1.0, ["Pad"]), ("float", 1.0, ["Pad"])],
)
def test_a_pad_of_floats(sketch, passed, kinds, images, weights, value, kept):
    graph = sketch((5, 6, 7))
    x = pad(graph, "x", (1, 2, 0, 3), value, axes=(2, -1))
    if weights == "binary":
        x = conv(graph, x, pads=(0, 1, 1, 0))
    else:
        weight = graph.constant("w", graph.random.normal(size=(4, 5, 3, 3)))
        x = graph.node("Conv", [x, weight], name="c", pads=(0, 1, 1, 0))
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    kind = "BinaryWeightConv2d" if weights == "binary" else "Conv"
    assert kinds(packed) == [*kept, kind]
    assert window(packed) == ([1, 3, 1, 3] if not kept else [0, 1, 1, 0], 0.0)


def test_a_float_layer_of_signs_pads_with_ones_when_it_has_no_pads(sketch, passed, kinds, images):
    graph = sketch((5, 6, 7))
    x = graph.conv_of(
        pad(graph, "x", SPATIAL, 1.0), 5, 8, "c", kind="BinaryWeightConv2d", pads=(0, 0, 0, 0)
    )
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["BinaryWeightConv2d"]
    assert window(packed, packed.graph[0].name) == (ABSORBED, 1.0)


@pytest.mark.parametrize(
    ("counts", "value", "attributes"),
    [
        ((0, 1, 1, 1, 0, 0, 1, 1), 1.0, {}),
        (SPATIAL, -1.0, {}),
        (SPATIAL, np.nan, {}),
        (SPATIAL, None, {"mode": "edge"}),
    ],
)
def test_another_pad_stays(sketch, passed, kinds, images, counts, value, attributes):
    graph = sketch((5, 6, 7))
    x = sign(graph, pad(graph, "x", counts, value, **attributes))
    x = conv(graph, x, channels=5 + counts[1])
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["Pad", "BinarySign", "BinaryConv2d"]


def test_a_pad_that_takes_pixels_away_stays(sketch):
    graph = sketch((5, 6, 7))
    model = graph.model(conv(graph, pad(graph, "x", (0, 0, 1, 1, 0, 0, -1, 1), 0.0)))
    assert not AbsorbPadding()(model).modified


def test_ones_before_a_layer_that_pads_with_zeros_stay(sketch, passed, kinds, images):
    graph = sketch((5, 6, 7))
    x = conv(graph, pad(graph, sign(graph, "x"), SPATIAL, 1.0), pads=(1, 1, 1, 1))
    packed = passed(graph.model(x), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["BinarySign", "Pad", "BinaryConv2d"]
    assert window(packed) == ([1, 1, 1, 1], 0.0)


def test_two_pads_of_one_number_add_up(sketch, passed, kinds, images):
    graph = sketch((5, 6, 7))
    x = pad(graph, pad(graph, "x", SPATIAL, 0.0), SPATIAL, 0.0)
    packed = passed(graph.model(conv(graph, x)), PASSES, images(2, 5, 6, 7))
    assert kinds(packed) == ["BinaryWeightConv2d"]
    assert window(packed) == ([2, 4, 0, 6], 0.0)


def test_a_pad_that_others_read_stays_for_them(sketch, passed, kinds, images):
    graph = sketch((5, 6, 7))
    padded = pad(graph, "x", SPATIAL, 0.0)
    x = graph.node("ReduceSum", [padded], keepdims=0)
    model = graph.model(graph.node("Add", [conv(graph, padded), x]))
    packed = passed(model, PASSES, images(2, 5, 6, 7))
    assert sorted(kinds(packed)) == ["Add", "BinaryWeightConv2d", "Pad", "ReduceSum"]
    graph = sketch((5, 6, 7))
    signs = sign(graph, pad(graph, "x", SPATIAL, 1.0))
    x = graph.node("ReduceSum", [signs], keepdims=0)
    model = graph.model(graph.node("Add", [conv(graph, signs), x]))
    packed = passed(model, PASSES, images(2, 5, 6, 7))
    assert window(packed) == ([0, 0, 0, 0], 0.0)


def test_same_padding_waits_for_the_size_that_the_pad_gives(sketch, passed, kinds, images):
    graph = sketch((5, 6, 7))
    x = conv(graph, pad(graph, "x", SPATIAL), strides=(2, 2), auto_pad="SAME_UPPER")
    packed = passed(graph.model(x), (AbsorbPadding,), images(2, 5, 6, 7))
    assert kinds(packed) == ["Pad", "Conv"]
    graph = sketch((5, 6, 7))
    x = conv(graph, pad(graph, "x", SPATIAL), strides=(2, 2), auto_pad="VALID")
    packed = passed(graph.model(x), (AbsorbPadding,), images(2, 5, 6, 7))
    assert kinds(packed) == ["Conv"]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("sign_first", [True, False])
def test_a_row_is_padded_as_an_image_is(sketch, passed, kinds, images, value, sign_first):
    graph = sketch((5, 9))
    counts = (0, 0, 2, 0, 0, 1)
    if sign_first:
        x = pad(graph, sign(graph, "x"), counts, value)
    else:
        x = sign(graph, pad(graph, "x", counts, value))
    packed = passed(graph.model(conv(graph, x, rank=3)), PASSES, images(2, 5, 9))
    assert kinds(packed) == ["BinarySign", "Unsqueeze", "BinaryConv2d", "Squeeze"]
    assert window(packed) == ([0, 2, 0, 1], value if sign_first else 1.0)
