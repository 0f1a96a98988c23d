"""The examples run as they stand."""

import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import Bundle, Session
from bindeploy.convert.engines import onnxruntime_run
from bindeploy.convert.pipeline import load, run

ROOT = Path(__file__).resolve().parent.parent


def test_own_network_trains_exports_and_reads_digits_by_bits(tmp_path, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "own_network.py"))
    assert example["main"](str(tmp_path / "bundle")) > 0.85
    assert "by bits" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_network_that_knows_nothing_of_us_becomes_bits_of_the_same_numbers(tmp_path):
    example = runpy.run_path(str(ROOT / "examples" / "foreign_network.py"))
    example["main"](str(tmp_path / "network.onnx"))
    source = load(tmp_path / "network.onnx")
    conversion = run(source)
    assert {layer.name: layer.binarized for layer in conversion.layers} == {
        "stem": False,
        "conv1": True,
        "norm2": True,
        "norm3": True,
        "classify": False,
    }
    images = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    expected = onnxruntime_run(ir.to_proto(source))(images)[0]
    with Session(conversion.model) as session:
        (found,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler (cc)")
def test_classify_prints_the_golden_class_from_c(digits_bundle, tmp_path):
    program = tmp_path / "classify"
    library = digits_bundle / "lib" / "libbindeploy.a"
    source = ROOT / "examples" / "classify.c"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    include = f"-I{digits_bundle / 'include'}"
    subprocess.run(
        ["cc", *flags, include, str(source), str(library), "-lm", "-o", str(program)], check=True
    )
    golden = Bundle.open(digits_bundle).golden
    for image, logits in zip(golden.inputs, golden.logits, strict=True):
        image.astype(np.float32).tofile(tmp_path / "image.f32")
        run = subprocess.run(
            [str(program), str(digits_bundle / "model.bd"), str(tmp_path / "image.f32")],
            check=True,
            capture_output=True,
            text=True,
        )
        assert run.stdout.startswith(f"class {logits.argmax()}, logit {logits.max():.3f}")
