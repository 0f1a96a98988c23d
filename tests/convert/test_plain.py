"""A converted network in standard operators alone; and TVM, which runs it in that form."""

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bindeploy.convert.engines import onnxruntime_run, run_onnxruntime
from bindeploy.convert.pipeline import convert
from bindeploy.convert.plain import plain


@pytest.fixture
def packed(sketch):
    """Two convolutions that stay in bits around a pool of bits, a dense layer of each kind."""
    graph = sketch((3, 9, 7))
    x = graph.normalize(graph.conv("x", 3, 10, "a", strides=(2, 1)), 10, "bn_a")
    x = graph.conv_of(x, 10, 8, "b", pads=(1, 0, 1, 2), pad_value=0.0)
    x = graph.node("MaxPool", [x], kernel_shape=(2, 2), strides=(2, 2))
    x = graph.normalize(x, 8, "bn_b")
    x = graph.node("Flatten", [graph.conv(x, 8, 5, "c", kernel=(1, 1), group=1)])
    x = graph.linear(x, 100, 6, "d")
    x = graph.linear(x, 6, 4, "e", kind="BinaryWeightLinear")
    return convert(graph.model(x, batch=1))


def test_no_function_and_no_operator_of_ours_is_left(packed, images):
    model = plain(packed)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    assert not proto.functions
    assert {entry.domain for entry in proto.opset_import} == {""}
    assert {node.domain for node in proto.graph.node} == {""}
    x = images(1, 3, 9, 7)
    np.testing.assert_array_equal(onnxruntime_run(proto)(x)[0], run_onnxruntime(packed, x)[0])
    assert packed.functions, "the model itself is left as it is"


@pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="tvm is not installed")
@pytest.mark.filterwarnings("ignore")
def test_tvm_computes_the_same_as_onnxruntime(packed, images):
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    x = images(1, 3, 9, 7)
    module = from_onnx(ir.to_proto(plain(packed)), shape_dict={"x": list(x.shape)})
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(found, run_onnxruntime(packed, x)[0], rtol=1e-5, atol=1e-5)
