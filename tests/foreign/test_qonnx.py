"""Networks of Brevitas, by way of QONNX: our conversion against qonnx's own executor.

The environment that exports them is made by tests/foreign/environment; without it the tests are
skipped. The script runs once, for half a minute.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import Session
from bindeploy.convert.engines import onnxruntime_run, run_numpy, run_onnxruntime
from bindeploy.convert.import_qonnx import DOMAINS, ImportQonnx
from bindeploy.convert.load import load
from bindeploy.convert.pipeline import prepare, run
from bindeploy.emit.onnx import save

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv" / "foreign" / "bin" / "python"
CLOSE = 1e-5
"""Of the largest number of an output: engines sum floats in different orders."""

NETWORKS = {
    "tfc_1w1a": 4,
    "tfc_1w1a_torchscript": 4,
    "lfc_1w1a": 4,
    "cnv_1w1a": 9,
    "cnv_1w1a_torchscript": 9,
    "scale_per_filter": 4,
    "scale_per_filter_torchscript": 4,
    "float_activations": 4,
}
"""How many layers of each have 1-bit weights."""

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(),
    reason="no environment with Brevitas and qonnx: run tests/foreign/environment",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The folder of files that the foreign environment wrote."""
    out = tmp_path_factory.mktemp("qonnx")
    subprocess.run(
        [PYTHON, HERE / "export_qonnx.py", out],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return out


def oracle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An input, and what qonnx made of it."""
    with np.load(path.with_suffix(".npz")) as arrays:
        return arrays["x"], arrays["y"]


def compare(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_brevitas_computes_what_qonnx_computes(exported, tmp_path, name):
    path = exported / f"{name}.onnx"
    x, expected = oracle(path)
    conversion = run(load(path))
    assert sum(layer.binarized for layer in conversion.layers) == NETWORKS[name]
    assert {layer.reason for layer in conversion.layers if not layer.binarized} <= {
        "first layer: weights are float"
    }
    logits, integers = run_onnxruntime(conversion.model, x)
    compare(logits, expected)
    again, counted = run_numpy(conversion.model, x)
    compare(again, expected)
    assert list(counted) == list(integers)
    for layer, array in integers.items():
        np.testing.assert_array_equal(counted[layer], array, err_msg=layer)
    packed = tmp_path / "packed.onnx"
    save(conversion.model, packed)
    assert packed.stat().st_size < path.stat().st_size / 3
    (found,) = Session(packed).run(None, {conversion.model.graph.inputs[0].name: x})
    compare(found, expected)


def test_drawn_graphs_compute_what_qonnx_computes(exported):
    paths = sorted(exported.glob("drawn_*.onnx"))
    assert len(paths) >= 20
    for path in paths:
        x, expected = oracle(path)
        conversion = run(load(path))
        assert all(layer.binarized for layer in conversion.layers), path.name
        logits, integers = run_onnxruntime(conversion.model, x)
        compare(logits, expected)
        _, counted = run_numpy(conversion.model, x)
        for layer, array in integers.items():
            np.testing.assert_array_equal(counted[layer], array, err_msg=f"{path.name} {layer}")


def test_every_quantizer_gives_the_numbers_of_qonnx(exported):
    paths = sorted([*exported.glob("quant_*.onnx"), *exported.glob("trunc*.onnx")])
    assert len(paths) >= 200
    for path in paths:
        x, expected = oracle(path)
        model = prepare(load(path))
        ImportQonnx()(model)
        assert not DOMAINS & {node.domain for node in model.graph}
        found, *_ = onnxruntime_run(ir.to_proto(model))(x)
        np.testing.assert_array_equal(found, expected, err_msg=path.name)
