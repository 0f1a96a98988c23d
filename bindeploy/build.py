"""Compile the C runtime for a `Target`: a program, a static library and its header.

The compiler is the pip-installed zig, which brings the C library of every Linux, or the one that
the target names. A kernel's file says itself which instructions it needs, so all files compile
alike.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bindeploy.errors import BindeployError
from bindeploy.files import installed, resource
from bindeploy.target import Target

Progress = Callable[[str], None]
Record = dict[str, object]

FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-Wall")
"""Contraction is off so that `scale * dot + bias` rounds twice on every machine."""

STANDALONE = ("-static", "-s")
"""How a program for another machine is linked: it needs no library there, nor in an emulator."""

PROGRAM = "bin/bd_bench"
LIBRARY = "lib/libbindeploy.a"
HEADER = "include/bindeploy.h"

LIBRARY_SOURCES = ("src/*.c", "src/ops/*.c", "src/kernels/*.c")
PROGRAM_SOURCE = Path("bench/bd_bench.c")

FAULT = re.compile("error:|undefined reference")
"""The line of a compiler's or linker's messages that says what is wrong."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler for one target: its name with version, what starts it and its archiver, and the
    flags that make it compile and link for the target. `note` is what a person should know.
    """

    name: str
    command: tuple[str, ...]
    archiver: tuple[str, ...]
    flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    note: str = ""


def build(
    target: Target, out: Path, *, sources: Path | None = None, progress: Progress | None = None
) -> Record:
    """Compile the runtime for `target` into the folder `out`; return how, for a manifest.

    `out` gets `bin/bd_bench`, `lib/libbindeploy.a` and `include/bindeploy.h`, all of them or none;
    for a target whose toolchain is `installed`, those of this installation. `sources` is a folder
    laid out like `runtime/`, which it is by default; `progress` gets lines in words.

    The record has `compiler`, `flags` and, where something is left out, `note`. Raises
    `BindeployError` where there is no compiler (with what to install) and where a file does not
    compile (with its first error, and the file that holds all messages).
    """
    tell = progress or (lambda line: None)
    sources = (sources or resource("runtime")).resolve()
    if target.toolchain == "installed":
        return _build_here(sources, Path(out), tell)
    return _compile(compiler_for(target), target.cflags, sources, Path(out), tell)


def compiler_for(target: Target) -> Compiler:
    """The compiler for another machine: zig where the target asks for it, else its `cc`."""
    if target.toolchain == "zig" and importlib.util.find_spec("ziglang"):
        zig = (sys.executable, "-m", "ziglang")
        cpu = [f"-mcpu={target.cpu}"] if target.cpu else []
        return Compiler(
            name=f"zig {importlib.metadata.version('ziglang')}",
            command=(*zig, "cc"),
            archiver=(*zig, "ar"),
            flags=("-target", target.triple, *cpu),
            link_flags=STANDALONE,
            note="; the first time for a target takes a minute",
        )
    if target.cc and shutil.which(target.cc):
        return _named_compiler(target.cc, STANDALONE)
    ways = ["`pip install ziglang`"] if target.toolchain == "zig" else []
    ways += [_how_to_install(target.cc)] if target.cc else []
    raise BindeployError(f"no compiler for target `{target.name}` is here: {' or '.join(ways)}")


def compiler_here() -> Compiler | None:
    """The C compiler on PATH that makes programs for this machine; None where there is none."""
    name = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    return _named_compiler(name) if name else None


def _how_to_install(cc: str) -> str:
    """Debian's package of `aarch64-linux-gnu-gcc` is called gcc-aarch64-linux-gnu."""
    prefix, hyphen, compiler = cc.rpartition("-")
    if hyphen and compiler == "gcc":
        return f"`apt install gcc-{prefix.replace('_', '-')}`"
    return f"put `{cc}` on PATH"


def _named_compiler(name: str, link_flags: tuple[str, ...] = ()) -> Compiler:
    """A compiler on PATH, with the archiver of its own prefix: aarch64-linux-gnu-ar."""
    version = subprocess.run([name, "-dumpversion"], capture_output=True, text=True, check=False)
    prefix = name.removesuffix("gcc") if name.endswith("-gcc") else ""
    return Compiler(
        name=f"{name} {version.stdout.strip()}",
        command=(name,),
        archiver=(f"{prefix}ar",),
        link_flags=link_flags,
    )


def _build_here(sources: Path, out: Path, tell: Progress) -> Record:
    """What is installed; else all, compiled here; else nothing, in words."""
    program, library = installed(PROGRAM), installed(LIBRARY)
    if program and library:
        _place(program, out / PROGRAM)
        _place(library, out / LIBRARY)
        _place(sources / HEADER, out / HEADER)
        return {"compiler": "installed", "flags": []}
    compiler = compiler_here()
    if compiler is None:
        note = f"{PROGRAM} is left out: it is not installed, and no C compiler is on PATH"
        tell(note)
        return {"compiler": "installed", "flags": [], "note": note}
    return _compile(compiler, (), sources, out, tell)


def _compile(
    compiler: Compiler, cflags: tuple[str, ...], sources: Path, out: Path, tell: Progress
) -> Record:
    """Compile, archive and link in a temporary folder, then place the results."""
    files = [path.relative_to(sources) for form in LIBRARY_SOURCES for path in sources.glob(form)]
    files = [*sorted(files), PROGRAM_SOURCE]
    flags = (*compiler.flags, *FLAGS, *cflags)
    tell(f"compiling {len(files)} files with {compiler.name}{compiler.note}")
    with tempfile.TemporaryDirectory(prefix="bindeploy-build-") as name:
        folder = Path(name)

        def compile_one(file: Path) -> Path:
            made = folder / file.with_suffix(".o")
            made.parent.mkdir(parents=True, exist_ok=True)
            include = ["-Iinclude", "-Isrc"]
            run_compiler(
                [*compiler.command, *flags, *include, "-c", file, "-o", made], sources, str(file)
            )
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            *objects, program_object = pool.map(compile_one, files)
        library, program = folder / "library.a", folder / "program"
        run_compiler([*compiler.archiver, "rcs", library, *objects], sources, LIBRARY)
        link = [*compiler.command, *flags, *compiler.link_flags]
        run_compiler(
            [*link, program_object, library, "-lm", "-pthread", "-o", program], sources, PROGRAM
        )
        _place(library, out / LIBRARY)
        _place(program, out / PROGRAM)
    _place(sources / HEADER, out / HEADER)
    return {"compiler": compiler.name, "flags": list(flags)}


def run_compiler(command: Sequence[str | Path], folder: Path, what: str) -> None:
    """Run a compiler; where it fails, keep its messages in a file and raise the first error."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise BindeployError(f"cannot start `{command[0]}`: {error.strerror}") from error
    if done.returncode == 0:
        return
    messages = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
    first = next((line for line in messages if FAULT.search(line)), messages[0])
    with tempfile.NamedTemporaryFile(
        "w", prefix="bindeploy-build-", suffix=".log", delete=False
    ) as log:
        log.write("\n".join([" ".join(map(str, command)), *messages, ""]))
    raise BindeployError(f"`{what}` does not build: {first.strip()} (all messages: {log.name})")


def _place(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, destination)
