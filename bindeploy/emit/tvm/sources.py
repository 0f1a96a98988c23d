"""A network's kernels as source: CUDA, OpenCL C, or C, which a C compiler makes a module of."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm.runtime import _ffi_api

from bindeploy.build import compiler_here, run_compiler
from bindeploy.emit.tvm.languages import C_PRELUDE
from bindeploy.errors import BindeployError
from bindeploy.files import whole_file

SOURCES = {"cuda": "kernels.cu", "opencl": "kernels.cl", "c": "kernels.c"}
"""The file of the kernels of each kind of source."""

NETWORK = "network.c"
"""Beside C kernels: weights, and the order in which TVM's runtime calls the kernels."""

C_FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")


def sources(executable: Any, kind: str) -> dict[str, str]:
    """The text of every file, by its name; `kind` is one of SOURCES."""
    parts = [part.inspect_source() for part in _parts(executable.mod) if part.kind == kind]
    text = "\n".join(parts)
    if kind != "c":
        return {SOURCES[kind]: _once(text)}
    network = str(_ffi_api.ModulePackImportsToC(executable.mod, False, ""))
    return {SOURCES[kind]: _finished_c(text), NETWORK: network}


def _parts(module: Any) -> Iterator[Any]:
    """A module and what it imports."""
    yield module
    for part in module.imports:
        yield from _parts(part)


def _once(text: str) -> str:
    """TVM declares all kernels of OpenCL before each of them: only the first time here."""
    seen: set[str] = set()
    lines = []
    for line in text.splitlines(keepends=True):
        declares = line.startswith("#pragma") or line.startswith("__kernel") and ");" in line
        if not declares or line not in seen:
            lines.append(line)
        seen.add(line)
    return "".join(lines)


def _finished_c(text: str) -> str:
    """TVM declares what it calls, once a call; what it calls of ours is defined here."""
    declared = r'#ifdef __cplusplus\nextern "C"\n#endif\n[^\n]*\bbindeploy_\w+\([^{;]*;\n'
    return C_PRELUDE + re.sub(declared, "", text)


def includes() -> list[str]:
    """Flags with the folders of the headers that TVM's C includes."""
    folders = (
        tvm.libinfo.find_include_path(),
        tvm_ffi.libinfo.find_include_path(),
        tvm_ffi.libinfo.find_dlpack_include_path(),
    )
    return [f"-I{folder}" for folder in dict.fromkeys(folders)]


def export_c(executable: Any, path: Path) -> None:
    """Compile the C of an executable into the shared library `path`, for this machine."""
    compiler = compiler_here()
    if compiler is None:
        raise BindeployError("no C compiler is here: put `cc`, `gcc` or `clang` on PATH")
    texts = sources(executable, "c")
    with tempfile.TemporaryDirectory(prefix="bindeploy-") as name, whole_file(path) as temporary:
        for file, text in texts.items():
            (Path(name) / file).write_text(text, encoding="utf-8")
        flags = [*compiler.flags, *C_FLAGS, *includes()]
        command = [*compiler.command, *flags, *texts, "-lm", "-o", str(temporary.resolve())]
        run_compiler(command, Path(name), path.name)
