"""One wheel a platform holds the package, the compiled runtime, its sources and the targets."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    options = [f"--config-settings=build-dir={out / 'build'}", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run([*command, *options], check=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_is_for_any_python_3_on_this_platform(wheel):
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")


def test_the_wheel_holds_everything_a_cross_build_needs(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"bindeploy/lib/libbindeploy.a", "bindeploy/bin/bd_bench"} <= held
    for folder in ("runtime", "targets"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".c", ".cc", ".h", ".inc", ".toml"}:
                assert f"bindeploy/{path.relative_to(ROOT)}" in held


def test_an_installed_wheel_runs_a_bundle_and_finds_its_sources(wheel, digits_bundle, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(site), str(wheel)], check=True)
    script = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(type(finder))]
sys.path.insert(0, {str(site)!r})
import bindeploy, bindeploy.files, bindeploy.library, numpy
assert bindeploy.__file__.startswith({str(site)!r})
assert str(bindeploy.library.library_path()).startswith({str(site)!r})
assert (bindeploy.files.resource("runtime") / "src" / "model.h").exists()
assert (bindeploy.files.resource("targets") / "arm.toml").exists()
golden = bindeploy.Bundle.open({str(digits_bundle)!r}).golden
(logits,) = bindeploy.Session({str(digits_bundle)!r}).run(None, {{"input": golden.inputs}})
assert numpy.abs(logits - golden.logits).max() < 1e-4
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
