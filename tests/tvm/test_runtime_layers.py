"""Layers of bits that a TVM module leaves to the C runtime: chains of them, one call each."""

import numpy as np
import pytest

pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")

import torch

from bindeploy import target
from bindeploy.convert import convert, dialect
from bindeploy.convert.engines import run_onnxruntime
from bindeploy.emit.tvm import runtime_layers
from bindeploy.emit.tvm.compiler import write_module
from bindeploy.emit.tvm.machine import Machine
from bindeploy.errors import BindeployError
from bindeploy.session import Session
from bindeploy.train.models import build
from bindeploy.train.to_onnx import export

pytestmark = pytest.mark.filterwarnings("ignore")  # of TVM's importer


def packed(name, size):
    torch.manual_seed(0)
    network = build(name, 3, 10, size, "bc", "bwa")
    images = torch.randn(8, 3, size, size)
    network.train()
    with torch.no_grad():
        network(images)
    return convert(export(network.eval(), images[:1])), images[:1].numpy()


@pytest.fixture(scope="module")
def network():
    return packed("vgg-small", 16)


def test_layers_that_hand_on_bits_are_one_chain(network):
    model = network[0].clone()
    layers = [node.name for node, _ in dialect.layers(model)]
    plans = runtime_layers.take_chains(model)
    assert len(layers) > 5 and len(plans) == 1
    assert [node.op_type for node in model.graph].count(runtime_layers.OP) == 1


def test_a_chains_plan_takes_and_gives_channels_last(network):
    (plan,) = runtime_layers.take_chains(network[0].clone())
    with Session(plan) as session:
        assert not {"to_nhwc", "to_nchw"} & {node.op for node in session.nodes}


@pytest.mark.parametrize("name", ["vgg-small", "resnet20"])
def test_a_module_with_the_runtimes_kernels_computes_what_onnxruntime_does(name, tmp_path):
    model, images = packed(name, 16)
    path = tmp_path / "model.so"
    write_module(model, target.load("host"), path, kernels="runtime")
    expected, _ = run_onnxruntime(model, images)
    for _ in range(2):  # the first call loads the plans
        (found,) = Machine(path).run(images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_unknown_kernels_are_named(network, tmp_path):
    with pytest.raises(BindeployError, match="`fast`: choose from own, runtime"):
        write_module(network[0], target.load("host"), tmp_path / "model.so", kernels="fast")
    assert not list(tmp_path.iterdir())
