"""What is said of a model: the rule or reason of each layer, and its costs."""

import numpy as np
import pytest

from bindeploy.convert.inspect import inspect
from bindeploy.convert.pipeline import convert, run


@pytest.fixture
def network(sketch):
    random = np.random.default_rng(2)
    graph = sketch((3, 8, 8))
    stem = graph.constant("stem.weight", random.normal(size=(6, 3, 3, 3)))
    x = graph.normalize(graph.node("Conv", ["x", stem], pads=(1, 1, 1, 1)), 6, "bn_stem")
    x = graph.normalize(graph.conv(x, 6, 40, "a", strides=(2, 2)), 40, "bn_a")
    x = graph.node("MaxPool", [graph.conv(x, 40, 8, "b")], kernel_shape=(2, 2), strides=(2, 2))
    x = graph.normalize(x, 8, "bn_b")
    x = graph.normalize(graph.conv(x, 8, 8, "c"), 8, "bn_c")
    x = graph.node("Flatten", [graph.node("Relu", [x])])
    x = graph.linear(x, 32, 16, "d", kind="BinaryWeightLinear")
    head = graph.constant("head.weight", np.repeat(random.normal(size=80), 2).reshape(16, 10))
    return graph.model(graph.node("MatMul", [x, head]))


def test_each_layer_has_its_rule_or_its_reason(network):
    packed = convert(network)
    layers = {layer.name: layer for layer in run(network).layers}
    assert {name: layer.rule or layer.reason for name, layer in layers.items()} == {
        "stem": "first layer: weights are float",
        "a": "latent BinaryConv2d, thresholded with bn_a",
        "b": "latent BinaryConv2d, thresholded with bn_b",
        "c": "latent BinaryConv2d, bn_c in its scale and bias",
        "d": "latent BinaryWeightLinear",
        "head": "weights are float, of 80 values",
    }
    assert [layer.binarized for layer in layers.values()] == [False, True, True, True, True, False]
    assert all((layer.rule is None) == (not layer.binarized) for layer in layers.values())
    assert layers["a"].macs == 40 * 4 * 4 * 6 * 9
    assert layers["a"].bytes == 40 * 9 * 4 + 40 * (4 + 1)
    again = [layer.rule for layer in run(packed).layers if layer.binarized]
    assert again[0] == "already a BinaryConv2dThreshold"


def test_costs_of_a_packed_model(network):
    packed = convert(network)
    report = inspect(packed)
    rows = {row["name"]: row for row in report["layers"]}
    assert rows["a"] == {
        "name": "a",
        "op": "BinaryConv2dThreshold",
        "input_shape": [6, 8, 8],
        "output_shape": [40, 4, 4],
        "binary_macs": 40 * 4 * 4 * 6 * 9,
        "float_macs": 0,
        "binary_parameters": 40 * 6 * 9,
        "float_parameters": 80,
        "bytes": 40 * 9 * 4 + 40 * 5,
    }
    assert rows["b"]["bytes"] == 8 * 9 * 8 + 8 * 5
    assert rows["stem"]["float_macs"] == 6 * 8 * 8 * 27
    assert rows["stem"]["float_parameters"] == 6 * 27 + 6
    assert (rows["d"]["float_macs"], rows["d"]["binary_parameters"]) == (512, 512)
    assert (rows["head"]["float_macs"], rows["head"]["bytes"]) == (160, 640)
    total = report["total"]
    for key in ("binary_macs", "float_macs"):
        assert total[key] == sum(row[key] for row in report["layers"])
    assert total["bytes"] == sum(row["bytes"] for row in report["layers"])
    assert total["float_bytes"] == 4 * total["parameters"]


def test_a_latent_model_has_the_macs_of_its_packed_one(network):
    latent, packed = inspect(network)["total"], inspect(convert(network))["total"]
    assert latent["binary_macs"] == packed["binary_macs"]
    assert latent["float_macs"] == packed["float_macs"]
    assert latent["bytes"] > 3 * packed["bytes"]


def test_an_image_of_unknown_size_counts_no_products(sketch):
    graph = sketch(("C", "H", "W"))
    model = graph.model(graph.conv("x", 4, 8, "a"))
    (row,) = inspect(model)["layers"]
    assert row["output_shape"] == [8, None, None] and row["binary_macs"] == 0
    assert row["binary_parameters"] == 288
