"""A transport hands images to `bd_bench` and takes numbers back, or says in a line why not."""

import importlib.util
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from bindeploy.errors import BindeployError
from bindeploy.on import TRANSPORTS, transport
from bindeploy.on.compiled import Compiled
from bindeploy.on.emulator import Emulator
from bindeploy.on.local import Local
from bindeploy.on.webassembly import WebAssembly
from bindeploy.target import Target, load

needs_wasmtime = pytest.mark.skipif(
    importlib.util.find_spec("wasmtime") is None, reason="wasmtime is not installed"
)
LAYERS = {"conv": (2, 1, 3), "dense": (4,)}
IMAGES = np.arange(2 * 6, dtype=np.float32).reshape(2, 1, 2, 3)

STAND_IN = f"""#!{sys.executable}
import json, sys
import numpy as np
if "--json" in sys.argv:
    print(json.dumps({{"words": sys.argv[2:]}}))
    raise SystemExit
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
images = np.fromfile(options["--input"], "<f4").reshape(-1, 6)
images[:, :5].tofile(options["--output"])
conv = np.array([[[10, 20], [11, 21], [12, 22]]])  # [H][W][F]
dense = np.array([1, 2, 3, 4])
image = np.concatenate([conv.ravel(), dense])
np.stack([image, -image]).astype("<i4").tofile(options["--integers"])
"""
"""A bd_bench whose logits are the first five pixels, and whose integers are the same for any image,
negated for the second."""


@dataclass(frozen=True)
class Deployed:
    """A bundle, as far as running it goes."""

    path: Path
    built_for: Target
    format: str = "runtime"
    output_shape: tuple[int, ...] = (5,)
    layers: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict(LAYERS))

    @property
    def model(self) -> Path:
        return self.path / "model.onnx"

    @property
    def plan(self) -> Path:
        return self.path / "model.bd"

    @property
    def program(self) -> Path:
        return self.path / "bin" / "bd_bench"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Deployed:
    """A bundle for a target whose emulator runs what it is given as it is."""
    script(tmp_path / "path" / "qemu-here", '#!/bin/sh\nexec "$@"\n')
    monkeypatch.setenv("PATH", str(tmp_path / "path"), prepend=":")
    target = replace(load("arm"), run="qemu-here")
    made = Deployed(tmp_path, target)
    script(made.program, STAND_IN)
    made.plan.write_bytes(b"")
    return made


def failing(bundle: Deployed, text: str) -> str:
    """The one line about a bd_bench that is this shell script."""
    script(bundle.program, f"#!/bin/sh\n{text}\n")
    with pytest.raises(BindeployError) as caught:
        Emulator().run_model(bundle, IMAGES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_transports_are_found_by_name_and_others_listed():
    assert transport("local") is TRANSPORTS["local"]
    assert transport("qemu") is TRANSPORTS["qemu"]
    with pytest.raises(
        BindeployError,
        match="unknown place to run `mars`: choose from local, qemu, wasmtime, tvm, rpc://HOST:PORT",
    ):
        transport("mars")


def test_images_go_in_and_numbers_come_back_channels_first_by_layer(bundle):
    assert Emulator().obstacle(bundle) is None
    logits, integers = Emulator().run_model(bundle, IMAGES)
    np.testing.assert_array_equal(logits, IMAGES.reshape(2, 6)[:, :5])
    assert list(integers) == ["conv", "dense"]
    conv = np.array([[[10, 11, 12]], [[20, 21, 22]]])  # [F, H, W]
    np.testing.assert_array_equal(integers["conv"], np.stack([conv, -conv]))
    np.testing.assert_array_equal(integers["dense"], [[1, 2, 3, 4], [-1, -2, -3, -4]])
    assert logits.dtype == np.float32
    assert integers["conv"].dtype == integers["dense"].dtype == np.int32


def test_images_that_are_not_contiguous_arrive_in_order(bundle):
    turned = np.asfortranarray(IMAGES)[::-1]
    logits, _ = Emulator().run_model(bundle, turned)
    np.testing.assert_array_equal(logits, IMAGES[::-1].reshape(2, 6)[:, :5])


def test_an_error_of_the_program_is_passed_on(bundle):
    said = failing(bundle, "echo first >&2; echo 'bd_bench: no memory' >&2; exit 2")
    assert said.endswith("failed: bd_bench: no memory")


def test_a_program_that_fails_silently_is_named(bundle):
    assert failing(bundle, "exit 3").endswith("failed: it says nothing")


def test_a_program_that_dies_of_a_signal_is_named(bundle):
    assert "died of SIGILL" in failing(bundle, "kill -ILL $$")


def test_results_of_another_size_are_refused(bundle):
    other = replace(bundle, layers={"conv": (2, 1, 3)})
    with pytest.raises(BindeployError, match="wrote 20 numbers of integers, not 12"):
        Emulator().run_model(other, IMAGES)
    with pytest.raises(BindeployError, match="wrote 10 numbers of output, not 14"):
        Emulator().run_model(replace(bundle, output_shape=(7,)), IMAGES)


def test_an_emulator_gives_no_times(bundle):
    with pytest.raises(BindeployError, match="an emulator gives no times"):
        Emulator().measure(bundle, runs=1, warmup=0)


def test_why_an_emulator_cannot_run_is_said_in_words(bundle):
    absent = replace(bundle, built_for=replace(bundle.built_for, run="qemu-nowhere -cpu max"))
    assert Emulator().obstacle(absent) == "qemu-nowhere is not installed: apt install qemu-user"
    unknown = replace(bundle, built_for=replace(bundle.built_for, run="my-simulator"))
    assert Emulator().obstacle(unknown) == "my-simulator is not installed: put it on PATH"
    none = replace(bundle, built_for=load("host"))
    assert Emulator().obstacle(none) == "target `host` names no emulator"
    bare = replace(bundle, built_for=replace(bundle.built_for, family="baremetal"))
    assert Emulator().obstacle(bare) == "target `arm` names no emulator"
    bundle.program.unlink()
    assert "the bundle has no bin/bd_bench" in str(Emulator().obstacle(bundle))


def test_why_webassembly_cannot_run_is_said_in_words(bundle, monkeypatch):
    assert WebAssembly().obstacle(bundle) == "target `arm` is not WebAssembly"
    module = replace(bundle, built_for=load("wasm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert WebAssembly().obstacle(module) == "wasmtime is not installed: pip install wasmtime"
    module.program.unlink()
    assert "the bundle has no bin/bd_bench" in str(WebAssembly().obstacle(module))


def test_why_a_module_cannot_run_is_said_in_words(bundle, monkeypatch):
    for place in (Compiled(), transport("rpc://127.0.0.1:9")):
        assert place.obstacle(bundle) == "the bundle has no model.so: export it with --format tvm"
    compiled = replace(bundle, format="tvm")
    (bundle.path / "model.so").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for place in (Compiled(), transport("rpc://127.0.0.1:9")):
        assert place.concerns(compiled) and not place.concerns(bundle)
        assert place.obstacle(compiled) == "tvm is not installed: pip install 'bindeploy[tvm]'"


@needs_wasmtime
def test_a_program_that_is_no_webassembly_is_refused_in_a_line(bundle):
    with pytest.raises(BindeployError, match="bd_bench`: ") as caught:
        WebAssembly().run_model(replace(bundle, built_for=load("wasm")), IMAGES)
    assert "\n" not in str(caught.value)


PRINTS = """
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\03\\00\\00\\00{}\\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (call $exit (i32.const STATUS))))
"""
"""A WebAssembly program that prints an empty object and ends."""


@needs_wasmtime
def test_webassembly_gives_times_and_its_exit_status(bundle):
    module = replace(bundle, built_for=load("wasm"))
    module.program.write_text(PRINTS.replace("STATUS", "0"))
    assert WebAssembly().measure(module, runs=1, warmup=0) == {}
    module.program.write_text(PRINTS.replace("STATUS", "3"))
    with pytest.raises(BindeployError, match="failed: it says nothing"):
        WebAssembly().measure(module, runs=1, warmup=0)


@needs_wasmtime
def test_instructions_of_webassembly_are_counted_the_same_every_time(bundle):
    bundle.program.write_text(PRINTS.replace("STATUS", "0"))
    command = [sys.executable, "-m", "bindeploy.on.wasi", "--count", str(bundle.program)]
    counts = {subprocess.run(command, capture_output=True, text=True).stderr for _ in range(2)}
    assert len(counts) == 1
    assert 0 < int(counts.pop()) < 100


def test_local_times_are_the_json_of_the_program(bundle):
    report = Local().measure(bundle, runs=7, warmup=2)
    assert report == {"words": ["--runs", "7", "--warmup", "2", "--json"]}


def test_local_times_of_a_program_for_another_machine_are_refused(bundle):
    bundle.program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    with pytest.raises(BindeployError, match="does not start here: .*; is it for another machine?"):
        Local().measure(bundle, runs=1, warmup=0)


def test_output_that_is_no_json_is_refused(bundle):
    script(bundle.program, "#!/bin/sh\necho fast\n")
    with pytest.raises(BindeployError, match="printed no JSON"):
        Local().measure(bundle, runs=1, warmup=0)


def test_a_missing_library_is_an_obstacle_in_words(bundle, monkeypatch):
    monkeypatch.setenv("BINDEPLOY_LIBRARY", "/nowhere/libbindeploy.so")
    assert "/nowhere/libbindeploy.so" in str(Local().obstacle(bundle))


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_an_installed_emulator_is_no_obstacle(bundle):
    assert Emulator().obstacle(replace(bundle, built_for=load("arm"))) is None
