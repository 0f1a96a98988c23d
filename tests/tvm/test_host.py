"""The C++ host gives the golden numbers: here, and on emulated 64-bit ARM with TVM's libraries."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy.bundle import Bundle
from bindeploy.convert.integers import PREFIX, with_integers
from bindeploy.convert.pipeline import load as load_model
from bindeploy.errors import BindeployError
from bindeploy.files import resource
from bindeploy.target import load

tvm = pytest.importorskip("tvm", reason="tvm is not installed")
tvm_ffi = pytest.importorskip("tvm_ffi", reason="tvm is not installed")

from bindeploy.emit.tvm.compiler import write_module  # noqa: E402
from bindeploy.emit.tvm.machine import Machine  # noqa: E402

EMULATED = Path(__file__).resolve().parents[2] / ".venv" / "aarch64"
"""Where `sh tests/tvm/aarch64 .venv/aarch64` puts 64-bit ARM."""


@pytest.fixture(scope="session")
def here(tmp_path_factory):
    """The command of the host, compiled for this machine."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler is on PATH")
    program = tmp_path_factory.mktemp("host") / "host"
    folders = [Path(module.__file__).parent / "lib" for module in (tvm, tvm_ffi)]
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror"),
            *(resource("runtime") / "tvm" / "host.cc", "-o", program),
            *("-isystem", folders[1].parent / "include"),
            *(f"-L{folder}" for folder in folders),
            *("-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi"),
            "-Wl,-rpath," + ":".join(map(str, folders)),
        ],
        check=True,
    )
    return [program]


@pytest.fixture(scope="session")
def on_arm():
    if not (EMULATED / "host").is_file():
        pytest.skip(f"no `{EMULATED}`: make aarch64")
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    return ["qemu-aarch64", "-L", EMULATED / "root", EMULATED / "host"]


@pytest.fixture(scope="session")
def golden(digits_bundle):
    return Bundle.open(digits_bundle).golden


@pytest.fixture(scope="session")
def proof(digits_bundle):
    """The digits network with its integers as further outputs, and their names."""
    proto, names = with_integers(load_model(digits_bundle / "model.onnx"))
    return ir.from_proto(proto), [name.removeprefix(PREFIX) for name in names]


def module_for(name, proof, folder):
    path = folder / f"{name}.so"
    try:
        write_module(proof[0], load(name), path)
    except BindeployError as error:
        pytest.skip(str(error))
    return path


def run(host, module, images, folder, *options):
    """What the host writes for images [N, ...]: [N, numbers]."""
    images.tofile(folder / "input.f32")
    command = [*host, module, folder / "input.f32", folder / "output.f32", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers = np.fromfile(folder / "output.f32", np.float32).reshape(len(images), -1)
    return numbers, done.stdout


def assert_golden(numbers, golden, names):
    logits, rest = np.split(numbers, [golden.logits[0].size], axis=1)
    np.testing.assert_allclose(logits, golden.logits.reshape(logits.shape), atol=1e-4)
    integers = [golden.integers[name].reshape(len(numbers), -1) for name in names]
    np.testing.assert_array_equal(rest, np.concatenate(integers, axis=1))


def test_the_host_gives_the_numbers_of_the_machine_and_of_the_bundle(here, golden, proof, tmp_path):
    module = module_for("host", proof, tmp_path)
    numbers, said = run(here, module, golden.inputs, tmp_path, "--runs", "3")
    assert_golden(numbers, golden, proof[1])
    machine = Machine(module)
    for row, image in zip(numbers, golden.inputs, strict=True):
        outputs = machine.run(image[None])
        flat = [output.ravel().astype(np.float32) for output in outputs]
        np.testing.assert_array_equal(row, np.concatenate(flat))
    count = len(golden.inputs)
    assert said.startswith(f"{count} images, {3 * count} runs, median ")


def test_the_host_on_arm_gives_the_golden_numbers(on_arm, golden, proof, tmp_path):
    module = module_for("arm", proof, tmp_path)
    numbers, _ = run(on_arm, module, golden.inputs, tmp_path)
    assert_golden(numbers, golden, proof[1])


def test_what_is_wrong_with_the_hosts_files_is_one_line(here, golden, proof, tmp_path):
    module = module_for("host", proof, tmp_path)
    golden.inputs.tofile(tmp_path / "input.f32")
    golden.inputs.ravel()[:-1].tofile(tmp_path / "short.f32")
    (tmp_path / "text.so").write_text("no library")
    for words, complaint in (
        ([module, "input.f32"], "usage: host MODEL.so INPUT.f32 OUTPUT.f32 [--runs N]"),
        ([module, "input.f32", "out.f32", "--runs", "none"], "usage: host MODEL.so"),
        ([module, "none.f32", "out.f32"], "host: none.f32 is no file of float32 numbers"),
        ([module, "short.f32", "out.f32"], "host: short.f32 has "),
        ([module, "input.f32", "none/out.f32"], "host: none/out.f32 cannot be written"),
        (["text.so", "input.f32", "out.f32"], "text.so: file too short"),
        (["none.so", "input.f32", "out.f32"], "none.so: cannot open"),
    ):
        done = subprocess.run([*here, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2, words
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.f32").exists()
