"""One converted file, and every engine that reads it."""

import runpy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from bindeploy import Session, target
from bindeploy.convert.engines import onnxruntime_run, run_numpy, run_onnxruntime
from bindeploy.convert.pipeline import convert, load
from bindeploy.emit.onnx import save

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "foreign_network.py"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters of torch and tvm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`network.onnx` as torch exports it, and `bits.onnx`, converted."""
    folder = tmp_path_factory.mktemp("engines")
    runpy.run_path(str(EXAMPLE))["main"](str(folder / "network.onnx"))
    save(convert(load(folder / "network.onnx")), folder / "bits.onnx")
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).normal(size=(2, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(folder, images):
    """What onnxruntime computes of the network that was never converted."""
    return onnxruntime_run(ir.to_proto(load(folder / "network.onnx")))(images)[0]


def by_onnxruntime(path, images):
    return run_onnxruntime(load(path), images)[0]


def by_reference_evaluator(path, images):
    return run_numpy(load(path), images)[0]


def by_runtime(path, images):
    with Session(path) as session:
        return session.run(None, {session.get_inputs()[0].name: images})[0]


def by_tvm(path, images):
    pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")
    from bindeploy.emit.tvm.compiler import write_module
    from bindeploy.emit.tvm.machine import Machine

    module = path.with_suffix(".so")
    write_module(load(path), target.load("host"), module)
    machine = Machine(module)
    return np.concatenate([machine.run(images[n : n + 1])[0] for n in range(len(images))])


@pytest.mark.parametrize("run", [by_onnxruntime, by_reference_evaluator, by_runtime, by_tvm])
def test_an_engine_computes_what_the_network_did_before_conversion(run, folder, images, expected):
    found = run(folder / "bits.onnx", images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_onnxruntime_with_our_kernels_does_too(folder, images, expected, onnxruntime_operators):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(onnxruntime_operators)
    session = onnxruntime.InferenceSession(
        folder / "bits.onnx", options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
