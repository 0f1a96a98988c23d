"""A trained network whose first and last layer compute in int8: as good, smaller, all alike."""

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import Session
from bindeploy.bundle import Bundle
from bindeploy.convert.engines import run_numpy, run_onnxruntime
from bindeploy.convert.float_twin import float_twin
from bindeploy.convert.golden import margins
from bindeploy.convert.load import load
from bindeploy.convert.quantize_edges import quantize_edges
from bindeploy.emit import onnx as onnx_file
from bindeploy.emit.plan import lower
from bindeploy.train import data


@pytest.fixture(scope="module")
def digits():
    """Images and labels of the test set, and images of the training set."""
    loaded = data.load("digits")
    normalize = loaded.source.normalization
    return normalize(loaded.test.images[:]), loaded.test.labels, normalize(loaded.train.images[:99])


@pytest.fixture(scope="module")
def packed(digits_bundle) -> ir.Model:
    """Its first and last layer compute in float32."""
    return load(Bundle.open(digits_bundle).model)


@pytest.fixture(scope="module")
def quantized(packed, digits) -> ir.Model:
    return quantize_edges(packed, digits[2])


def logits(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """Which three engines agree on to the last bit, and on every integer."""
    expected, integers = run_onnxruntime(model, x)
    ours, ours_integers = run_numpy(model, x)
    np.testing.assert_array_equal(ours, expected)
    with Session(model) as session:
        (source,) = (value.name for value in session.get_inputs())
        np.testing.assert_array_equal(session.run(None, {source: x})[0], expected)
        counted = session.integers(x)
    assert set(counted) == set(integers)
    for name, array in integers.items():
        np.testing.assert_array_equal(ours_integers[name], array, err_msg=name)
        np.testing.assert_array_equal(counted[name].reshape(array.shape), array, err_msg=name)
    return expected


def test_it_reads_digits_as_well_and_every_engine_gives_its_logits_bit_for_bit(
    packed, quantized, digits
):
    x, labels, _ = digits
    before, after = run_onnxruntime(packed, x)[0], logits(quantized, x)
    accuracy, int8_accuracy = ((y.argmax(1) == labels).mean() for y in (before, after))
    assert accuracy > 0.8
    assert abs(accuracy - int8_accuracy) <= 0.015


def test_the_last_layer_alone_moves_the_logits_by_no_more_than_half_a_percent(packed, digits):
    x, _, calibration = digits
    before = run_onnxruntime(packed, x)[0]
    after = logits(quantize_edges(packed, calibration, ["fc"]), x)
    assert 0 < np.abs(after - before).max() <= 0.005 * np.abs(before).max()


def test_nothing_is_left_that_multiplies_floats(packed, quantized):
    def ops(model):
        return [node.op for node in lower(model).nodes]

    assert {"conv", "binarize"} <= set(ops(packed))
    assert ops(quantized) == [
        "to_nhwc",
        "int8_conv_threshold",
        "binary_conv_threshold",
        "binary_conv_threshold",
        "binary_max_pool",
        "binary_conv",
        "int8_conv",
        "to_nchw",
    ]
    assert len(lower(quantized).to_bytes()) < len(lower(packed).to_bytes())


def test_the_file_is_read_back(quantized, digits, tmp_path):
    path = tmp_path / "model.onnx"
    onnx_file.save(quantized, path)
    x = digits[0][:5]
    with Session(path) as session:
        (source,) = (value.name for value in session.get_inputs())
        found = session.run(None, {source: x})[0]
    np.testing.assert_array_equal(found, run_onnxruntime(quantized, x)[0])


def test_golden_inputs_stay_clear_of_half_steps_too(packed, digits):
    """The last layer reads floats that engines may round differently."""
    x, _, calibration = digits
    quantized = quantize_edges(packed, calibration, ["fc"])
    (last,) = (node for node in quantized.graph if node.name == "fc")
    step = float(last.inputs[2].const_value.numpy())
    quantized.graph.outputs[0] = last.inputs[0]
    read = run_onnxruntime(quantized, x[:9])[0] / step
    quantized.graph.outputs[0] = last.outputs[0]
    half = np.abs(read - (np.clip(np.floor(read), -128, 126) + 0.5)).min(axis=1) * step
    signs = margins(packed, x[:9])
    np.testing.assert_allclose(margins(quantized, x[:9]), np.minimum(signs, half), atol=1e-6)
    assert (half < signs).any(), "otherwise the last layer was not looked at"


def test_its_float_twin_has_its_layers_in_float(quantized):
    twin = float_twin(ir.to_proto(quantized))
    layers = {node.name: node.op_type for node in twin.graph.node}
    assert layers["conv0"] == "Conv" and layers["fc"] == "MatMul"
    assert "Int8Linear" not in layers.values()
    weights = {tensor.name: tensor for tensor in twin.graph.initializer}
    assert list(weights["fc/float_weight"].dims) == [64, 10]
