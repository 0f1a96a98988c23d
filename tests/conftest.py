"""What several test files share: one small trained network and its bundle, made once."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from bindeploy import ort
from bindeploy.cli import main
from bindeploy.errors import BindeployError

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""One thread, set before torch is imported: small networks run no faster on more, and on a busy
machine far slower."""

FETCHED = Path(__file__).resolve().parent.parent / "build" / "onnxruntime"
"""Where `runtime/ort/fetch-headers build/onnxruntime` puts the header in a checkout."""


def invoke(*arguments: object):
    """Run the command line in this process; stdout and stderr apart."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def command():
    return invoke


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Path:
    """The tiny network, three epochs on the embedded digits."""
    out = tmp_path_factory.mktemp("road") / "run"
    result = invoke(
        *("train", "--data", "digits", "--model", "tiny", "--method", "bnn++", "--mode", "bwa"),
        *("--epochs", 3, "--no-float-twin", "--out", out),
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def digits_bundle(digits_run) -> Path:
    """The digits network exported for this machine."""
    out = digits_run.parent / "bundle"
    result = invoke("export", digits_run, "--target", "host", "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def compiled_bundle(digits_run) -> Path:
    """The digits network compiled by TVM for this machine."""
    pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")
    out = digits_run.parent / "compiled"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TVM's own
        result = invoke("export", digits_run, "--target", "host", "--format", "tvm", "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def onnxruntime_operators(tmp_path_factory) -> str:
    """The library of custom operators, built from these sources unless a variable names one."""
    if ort.LIBRARY_VARIABLE in os.environ:
        return ort.onnxruntime_library()
    try:
        headers = ort.headers(FETCHED if (FETCHED / ort.HEADER).is_file() else None)
    except BindeployError as error:
        pytest.skip(str(error))
    return str(ort.build(tmp_path_factory.mktemp("ort") / "library.so", headers, ("-O1",)))


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Shells start jobs in the background with Ctrl-C ignored, and every program hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
