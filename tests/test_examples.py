"""The examples run as they stand."""

import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bindeploy import Bundle

ROOT = Path(__file__).resolve().parent.parent


def test_own_network_trains_exports_and_reads_digits_by_bits(tmp_path, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "own_network.py"))
    assert example["main"](str(tmp_path / "bundle")) > 0.85
    assert "by bits" in capsys.readouterr().out


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
