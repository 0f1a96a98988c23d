"""The runtime compiles for a target with zig or the named compiler, or says in a line why not."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bindeploy import build as building
from bindeploy.build import HEADER, LIBRARY, PROGRAM, build, compiler_for
from bindeploy.errors import BindeployError
from bindeploy.target import Target, load

HERE = Target(name="here", title="gcc", family="linux", isa="native", toolchain="cc", cc="gcc")

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"
)
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed"
)

STAND_IN = {
    "include/bindeploy.h": "int bd_answer(void);\n",
    "src/core.c": '#include "../include/bindeploy.h"\nint bd_op(void);\n'
    "int bd_answer(void) { return bd_op(); }\n",
    "src/ops/op.c": "int bd_kernel(void);\nint bd_op(void) { return bd_kernel() + 1; }\n",
    "src/kernels/op.c": "#ifndef ANSWER\n#define ANSWER 41\n#endif\n"
    "int bd_kernel(void) { return ANSWER; }\n",
    "bench/bd_bench.c": '#include "../include/bindeploy.h"\n#include <stdio.h>\n'
    'int main(void) { printf("%d\\n", bd_answer()); return 0; }\n',
}
"""A runtime of five files, two of them of the same name, whose bd_bench prints 42."""


@pytest.fixture
def sources(tmp_path) -> Path:
    for name, text in STAND_IN.items():
        path = tmp_path / "runtime" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "runtime"


@pytest.fixture
def empty_path(monkeypatch, tmp_path):
    """No compiler is on PATH and no zig is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)


def printed(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_gcc
def test_program_library_and_header_are_made(sources, tmp_path):
    out = tmp_path / "out"
    lines = []
    record = build(HERE, out, sources=sources, progress=lines.append)
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert made == sorted([PROGRAM, LIBRARY, HEADER])
    assert printed(out / PROGRAM) == "42\n"
    assert str(record["compiler"]).startswith("gcc ")
    assert any(line.startswith("compiling 4 files with gcc") for line in lines)


@needs_gcc
def test_the_library_links_into_a_program_of_the_users(sources, tmp_path):
    build(HERE, tmp_path / "out", sources=sources)
    (tmp_path / "mine.c").write_text(
        '#include "bindeploy.h"\nint main(void) { return bd_answer(); }\n'
    )
    folder = tmp_path / "out"
    command = ["gcc", "-I", folder / "include", tmp_path / "mine.c", folder / LIBRARY]
    subprocess.run([*command, "-o", tmp_path / "mine"], check=True)
    assert subprocess.run([tmp_path / "mine"], check=False).returncode == 42


@needs_gcc
def test_flags_of_the_target_come_after_ours(sources, tmp_path):
    target = Target(**{**vars(HERE), "cflags": ("-DANSWER=6",)})
    record = build(target, tmp_path / "out", sources=sources)
    assert printed(tmp_path / "out" / PROGRAM) == "7\n"
    assert record["flags"] == [*building.FLAGS, "-DANSWER=6"]


@needs_gcc
def test_a_file_that_does_not_compile_is_one_line_with_a_log_and_nothing_made(sources, tmp_path):
    (sources / "src" / "ops" / "op.c").write_text("int bd_op(void) { return oops; }\n")
    with pytest.raises(BindeployError) as caught:
        build(HERE, tmp_path / "out", sources=sources)
    message = str(caught.value)
    assert message.startswith("`src/ops/op.c` does not build: ")
    assert "error: ‘oops’ undeclared" in message or "error: 'oops' undeclared" in message
    assert "\n" not in message
    log = Path(message.partition("all messages: ")[2].rstrip(")"))
    assert "oops" in log.read_text()
    log.unlink()
    assert not (tmp_path / "out").exists()


@needs_gcc
def test_a_program_that_does_not_link_says_what_is_undefined(sources, tmp_path):
    (sources / "src" / "ops" / "op.c").unlink()
    with pytest.raises(BindeployError, match="undefined reference to `bd_op'") as caught:
        build(HERE, tmp_path / "out", sources=sources)
    Path(str(caught.value).partition("all messages: ")[2].rstrip(")")).unlink()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("arm", "`pip install ziglang` or `apt install gcc-aarch64-linux-gnu`"),
        ("x86-64-v3", "`pip install ziglang` or `apt install gcc-x86-64-linux-gnu`"),
    ],
)
def test_no_compiler_says_what_to_install(name, ways, empty_path):
    with pytest.raises(BindeployError) as caught:
        compiler_for(load(name))
    assert str(caught.value) == f"no compiler for target `{name}` is here: {ways}"


def test_a_compiler_of_the_users_that_is_missing_is_named(empty_path):
    target = Target(**{**vars(HERE), "cc": "my-cc"})
    with pytest.raises(BindeployError, match="put `my-cc` on PATH"):
        compiler_for(target)


@needs_zig
def test_zig_is_preferred_and_the_named_compiler_is_next(monkeypatch, tmp_path):
    compiler = tmp_path / "aarch64-linux-gnu-gcc"
    compiler.write_text("#!/bin/sh\necho 12.2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert compiler_for(load("arm")).name.startswith("zig ")
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    fallback = compiler_for(load("arm"))
    assert fallback.name == "aarch64-linux-gnu-gcc 12.2"
    assert fallback.archiver == ("aarch64-linux-gnu-ar",)


def test_the_host_without_program_and_compiler_goes_without_and_says_so(
    monkeypatch, empty_path, sources, tmp_path
):
    monkeypatch.setattr(building, "installed", lambda name: None)
    lines = []
    record = build(load("host"), tmp_path / "out", sources=sources, progress=lines.append)
    assert "no C compiler is on PATH" in str(record["note"])
    assert lines == [record["note"]]
    assert not (tmp_path / "out").exists()


@needs_gcc
def test_the_host_without_program_compiles_one(monkeypatch, sources, tmp_path):
    monkeypatch.setattr(building, "installed", lambda name: None)
    build(load("host"), tmp_path / "out", sources=sources)
    assert printed(tmp_path / "out" / PROGRAM) == "42\n"


def test_the_host_uses_the_installed_program(monkeypatch, sources, tmp_path):
    installed = tmp_path / "bd_bench"
    installed.write_text("#!/bin/sh\necho installed\n")
    installed.chmod(0o755)
    monkeypatch.setattr(building, "installed", lambda name: installed)
    record = build(load("host"), tmp_path / "out", sources=sources)
    assert printed(tmp_path / "out" / PROGRAM) == "installed\n"
    assert record["compiler"] == "installed"


@needs_zig
@needs_qemu
def test_zig_builds_a_program_that_stands_alone_in_an_emulator(sources, tmp_path):
    build(load("arm"), tmp_path / "out", sources=sources)
    assert printed("qemu-aarch64", tmp_path / "out" / PROGRAM) == "42\n"
