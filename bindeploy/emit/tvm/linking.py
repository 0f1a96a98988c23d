"""Compiled module -> one shared library for the target's machine.

LLVM made the code, and a C compiler starts the linker of its machine. The library is loaded into a
process that runs TVM, whose C library is glibc: where a target's programs are linked with musl, its
modules are linked with glibc all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bindeploy.build import Compiler, compiler_for, compiler_here, run_compiler
from bindeploy.files import whole_file
from bindeploy.target import Target

GLIBC = ".2.28"
"""The version that zig links for: the oldest that TVM's own libraries run on."""

FLAGS = ("-shared", "-s", "-Wl,--build-id=none")
"""Names that nobody asks for at run time are left out; the same module gives the same bytes."""


def linker(target: Target) -> Compiler:
    """The compiler that links for `target`; BindeployError, with what to install, for none."""
    if target.toolchain == "installed":
        here = replace(target, toolchain="zig", triple="native", cc="gcc")
        return compiler_here() or compiler_for(here)
    if "musl" in target.triple:
        target = replace(target, triple=target.triple.replace("musl", "gnu") + GLIBC)
    return compiler_for(target)


def link(executable: Any, compiler: Compiler, path: Path, added: Sequence[str] = ()) -> None:
    """Write what TVM compiled as the shared library `path`, whole or not at all.

    `added` are further arguments of the compiler: files to link in, and how to compile them.
    """

    def run(out: str, objects: Sequence[str], **_: Any) -> None:
        command = [*compiler.command, *compiler.flags, *FLAGS, *objects, *added, "-lm", "-o", out]
        run_compiler(command, Path.cwd(), path.name)

    with whole_file(path) as temporary:
        executable.export_library(str(temporary), fcompile=run)
