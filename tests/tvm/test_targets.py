"""A target's table `tvm` becomes a module for its machine; what is wrong with one is a line."""

import hashlib
import shutil
import struct
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import build
from bindeploy.convert.engines import run_numpy
from bindeploy.convert.single_layers import Shape, binary_layer
from bindeploy.errors import BindeployError
from bindeploy.target import load, targets

pytest.importorskip("tvm", reason="tvm is not installed")

from bindeploy.emit.tvm.compiler import write_module  # noqa: E402
from bindeploy.emit.tvm.linking import linker  # noqa: E402
from bindeploy.emit.tvm.machine import Machine  # noqa: E402
from bindeploy.emit.tvm.targets import describe  # noqa: E402

ELF = {"arm": (64, 183), "armv7": (32, 40), "riscv64": (64, 243), "x86-64-v4": (64, 62)}
"""Bits of an address, and the number of the machine in the header of its files."""
WRONG = {
    "another kind": ({"kind": "toaster"}, 'Target kind "toaster" is not defined'),
    "another architecture": (
        {"mtriple": "toaster-unknown-linux-gnu"},
        "`tvm.mtriple` is `toaster-",
    ),
    "three words": ({"mtriple": "aarch64-linux-gnu"}, "`tvm.mtriple` is `aarch64-linux-gnu`: four"),
    "another processor": ({"mcpu": "cortex-z9"}, "LLVM knows no `tvm.mcpu` `cortex-z9`"),
    "another feature": ({"mattr": ["+floppy"]}, "LLVM knows no `+floppy` of `tvm.mattr`"),
    "a feature without sign": ({"mattr": ["neon"]}, "LLVM knows no `neon` of `tvm.mattr`"),
    "lanes that are no vector": ({"lanes": 3}, "`tvm.lanes` is 3"),
}


@pytest.fixture(scope="module")
def layer():
    return ir.from_proto(binary_layer(Shape(5, 6, 40, 37, (3, 3), 1)))


def test_every_target_of_a_processor_is_described():
    found = {target.name: describe(target).processor for target in targets() if target.tvm}
    assert {"host", "arm", "armv7", "riscv64", "x86-64-v3", "x86-64-v4"} <= found.keys()
    assert [found[name].lanes for name in ("arm", "riscv64", "x86-64-v4")] == [4, 1, 16]
    assert [found[name].x86 for name in ("arm", "x86-64-v3")] == [False, True]


@pytest.mark.parametrize(("cpu", "lanes"), [("x86-64", 4), ("haswell", 8), ("icelake-server", 16)])
def test_what_a_target_does_not_say_follows_from_its_processor(cpu, lanes):
    tvm = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": cpu}
    assert describe(replace(load("x86-64-v3"), tvm=tvm)).processor.lanes == lanes


@pytest.mark.parametrize(("change", "complaint"), WRONG.values(), ids=WRONG)
def test_what_tvm_does_not_know_is_named(change, complaint):
    arm = load("arm")
    with pytest.raises(BindeployError) as caught:
        describe(replace(arm, tvm={**arm.tvm, **change}))
    assert complaint in str(caught.value)
    assert "target `arm`" in str(caught.value)


def test_a_target_without_a_table_lists_those_that_have_one():
    with pytest.raises(BindeployError, match="`wasm` has no table `tvm`: choose from arm, armv7, "):
        describe(load("wasm"))


@pytest.mark.parametrize("name", ELF)
def test_a_module_is_a_library_for_the_machine_of_its_target(name, layer, tmp_path):
    try:
        linker(load(name))
    except BindeployError as error:
        pytest.skip(str(error))
    path = tmp_path / "model.so"
    write_module(layer, load(name), path)
    header = path.read_bytes()[:20]
    bits, machine = ELF[name]
    assert header[:4] == b"\x7fELF"
    assert 32 * header[4] == bits
    assert struct.unpack_from("<2H", header, 16) == (3, machine)


def test_a_module_of_this_machine_runs_and_is_the_same_bytes_twice(layer, tmp_path):
    paths = [tmp_path / name for name in ("one.so", "two.so")]
    for path in paths:
        write_module(layer, load("host"), path)
    one, two = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert one == two
    x = np.random.default_rng(0).standard_normal((1, 40, 5, 6), np.float32)
    (y,) = Machine(paths[0]).run(x)
    np.testing.assert_array_equal(y, run_numpy(layer, x)[0])


def test_zig_links_for_glibc_where_programs_are_linked_with_musl():
    pytest.importorskip("ziglang", reason="zig is not installed")
    assert linker(load("armv7")).flags[:2] == ("-target", "arm-linux-gnueabihf.2.28")


@pytest.mark.parametrize("name", ["arm", "host"])
def test_a_missing_compiler_is_named_with_what_to_install(name, layer, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BindeployError, match=f"no compiler for target `{name}` is here: `pip inst"):
        write_module(layer, load(name), tmp_path / "model.so")
    assert not list(tmp_path.iterdir())
