"""What times are compared with: the float32 twin of a network, and models of single layers."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from bindeploy.convert.engines import run_numpy
from bindeploy.convert.float_twin import float_twin, layers
from bindeploy.convert.single_layers import Shape, binary_layer, float_layer, int8_layer, nothing
from bindeploy.errors import BindeployError
from bindeploy.session import Session

ODD = "9x7x35x50:3x1:2"


@pytest.fixture(scope="module")
def packed(digits_bundle) -> onnx.ModelProto:
    return onnx.load(digits_bundle / "model.onnx")


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_the_twin_has_the_same_layers_and_shapes_in_standard_operators(packed):
    twin = float_twin(packed)
    assert {node.domain for node in twin.graph.node} == {""}
    assert not twin.functions
    names = {node.name for node in packed.graph.node}
    assert names <= {node.name for node in twin.graph.node}
    x = np.zeros((2, 1, 8, 8), np.float32)
    assert run(twin, x).shape == run(packed, x).shape == (2, 10)


def test_the_twin_has_a_float_for_every_bit(packed):
    twin = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in float_twin(packed).graph.initializer
    }
    for node in packed.graph.node:
        if not node.op_type.startswith("Binary") or "Pool" in node.op_type:
            continue
        weight = twin[f"{node.name}/float_weight"]
        assert np.unique(np.abs(weight)).size == 1
        assert (weight < 0).any() and (weight > 0).any()
        assert weight.dtype == np.float32


def test_each_layer_of_the_twin_stands_alone(packed):
    twin = float_twin(packed)
    found = layers(twin)
    assert {"conv0", "conv1", "conv2", "fc0", "fc"} <= set(found)
    for layer in found.values():
        (value,) = layer.graph.input
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        assert shape[0] == 1
        assert run(layer, np.zeros(shape, np.float32)).shape[0] == 1


def test_the_three_single_layers_have_one_shape_and_the_binary_one_is_right():
    shape = Shape.parse(ODD)
    x = np.random.default_rng(0).standard_normal(shape.input_shape, dtype=np.float32)
    model = ir.from_proto(binary_layer(shape))
    expected, _ = run_numpy(model, x)
    with Session(model) as session:
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
    assert expected.shape == run(float_layer(shape), x).shape == (1, 50, 5, 4)
    assert run(int8_layer(shape), np.zeros(shape.input_shape, np.uint8)).shape == (1, 50, 5, 4)
    assert run(nothing(), np.ones(1, np.float32)).tolist() == [1]


@pytest.mark.parametrize("text", ["", "14x14x256", "14x14x256x256", "0x1x1x1:1x1", "axbxcxd:3x3"])
def test_what_is_no_shape_is_told_how_one_looks(text):
    with pytest.raises(BindeployError, match="is no shape"):
        Shape.parse(text)
