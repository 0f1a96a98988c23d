"""Networks of the zoo, compiled whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from bindeploy import target
from bindeploy.convert import convert
from bindeploy.convert.engines import run_onnxruntime
from bindeploy.convert.integers import PREFIX, with_integers
from bindeploy.emit.tvm.compiler import write_module
from bindeploy.emit.tvm.machine import Machine
from bindeploy.train.models import build
from bindeploy.train.to_onnx import export

NETWORKS = {
    "tiny": ("tiny", "bwa", (1, 8, 8)),
    "vgg, 8-bit sums": ("vgg-small", "bwaa", (3, 32, 32)),
    "resnet, 8-bit activations": ("resnet20", "bw8", (3, 32, 32)),
    "resnet, float activations": ("resnet18", "bw", (3, 32, 32)),
    "quicknet": ("quicknet-small", "bwa", (3, 64, 64)),
    "reactnet": ("reactnet-a", "bwa", (3, 32, 32)),
    "transformer": ("deit-tiny", "bwa", (3, 32, 32)),
}


def converted(name: str, mode: str, shape: tuple[int, ...]) -> tuple[ir.Model, np.ndarray]:
    """A network whose statistics were drawn from two images, and one more image."""
    images = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = build(name, shape[0], 10, shape[1], "bnn++", mode)
        network.train()(torch.from_numpy(images[:2]))
    return convert(export(network.eval(), torch.from_numpy(images[:1]))), images[2:]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_onnxruntime_does(name, tmp_path):
    model, image = converted(*NETWORKS[name])
    logits, integers = run_onnxruntime(model, image)
    proto, names = with_integers(model)
    write_module(ir.from_proto(proto), target.load("host"), tmp_path / "module.so")
    first, *rest = Machine(tmp_path / "module.so").run(image)
    np.testing.assert_allclose(first, logits, rtol=1e-5, atol=1e-4)
    for output, found in zip(names, rest, strict=True):
        np.testing.assert_array_equal(found, integers[output.removeprefix(PREFIX)], output)
