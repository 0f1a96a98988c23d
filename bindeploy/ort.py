"""The runtime's kernels inside stock onnxruntime: a library of custom operators, built where its
headers are.

    options.register_custom_ops_library(bindeploy.onnxruntime_library())

`python -m bindeploy.ort build` makes the library. Nothing else of the package needs it: without it
onnxruntime runs the function bodies that the same file carries.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bindeploy import __version__
from bindeploy.build import FAULT, FLAGS, LIBRARY_SOURCES
from bindeploy.errors import BindeployError
from bindeploy.files import PACKAGE, installed, resource, whole_file

SUFFIX = "dylib" if sys.platform == "darwin" else "so"
LIBRARY = f"lib/libbindeploy_onnxruntime.{SUFFIX}"
LIBRARY_VARIABLE = "BINDEPLOY_ONNXRUNTIME_LIBRARY"

HEADER = "onnxruntime_c_api.h"
HEADER_FOLDERS = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
"""Where packages of onnxruntime's C interface put its header."""

SOURCES = (*LIBRARY_SOURCES, "ort/*.c")


def onnxruntime_library() -> str:
    """The path of the custom-operator library, for `register_custom_ops_library`.

    It is the one that BINDEPLOY_ONNXRUNTIME_LIBRARY names, else the one that `build` made. Raises
    BindeployError where there is none, or one of another version.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    path = Path(named) if named else installed(LIBRARY)
    if path is None or not path.is_file():
        where = f"{LIBRARY_VARIABLE} names `{named}`, which is no file" if named else "not built"
        raise BindeployError(
            f"onnxruntime's operators: {where}: run `python -m bindeploy.ort build`"
        )
    try:
        library = ctypes.CDLL(str(path.resolve()))
        library.bd_version.restype = ctypes.c_char_p
        version = library.bd_version().decode()
    except (OSError, AttributeError) as error:
        raise BindeployError(f"`{path}` is no library of ours ({error}): build it again") from error
    if version != __version__:
        raise BindeployError(
            f"`{path}` is version {version}, this is bindeploy {__version__}: "
            "run `python -m bindeploy.ort build`"
        )
    return str(path.resolve())


def headers(given: Path | None = None) -> Path:
    """The folder that holds onnxruntime's C header: `given`, else where packages put it."""
    folders = [given] if given else [Path(folder) for folder in HEADER_FOLDERS]
    found = next((folder for folder in folders if (folder / HEADER).is_file()), None)
    if found is None:
        fetch = resource("runtime") / "ort" / "fetch-headers"
        raise BindeployError(
            f"`{HEADER}` is not in {', '.join(f'`{folder}`' for folder in folders)}: run "
            f"`apt install libonnxruntime-dev`, or `{sys.executable} {fetch} DIR` and give "
            "--headers DIR"
        )
    return found


def build(
    out: Path | None = None, given_headers: Path | None = None, flags: Sequence[str] = ()
) -> Path:
    """Compile the library with the C compiler on PATH into `out`, by default into the package.

    `flags` come after those of the runtime. Returns the library's path; raises BindeployError where
    a header or a compiler is missing, or a file does not compile.
    """
    found = headers(given_headers)
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise BindeployError("no C compiler is on PATH: put `cc` there, as `apt install gcc` does")
    runtime = resource("runtime").resolve()
    sources = sorted(path for form in SOURCES for path in runtime.glob(form))
    path = out or PACKAGE / LIBRARY
    with whole_file(path) as temporary:
        command = [compiler, *FLAGS, *flags, "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
        _compile([*command, "-isystem", str(found), *map(str, sources), "-o", str(temporary)])
    return path


def _compile(command: list[str]) -> None:
    """Run the compiler; where it fails, raise its first error."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        messages = done.stderr.strip().splitlines() or ["it says nothing"]
        first = next((line for line in messages if FAULT.search(line)), messages[0])
        raise BindeployError(f"onnxruntime's operators do not build: {first.strip()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m bindeploy.ort build [--headers DIR] [--out FILE]`: prints the library's path."""
    parser = argparse.ArgumentParser(prog="python -m bindeploy.ort", description=main.__doc__)
    parser.add_argument("what", choices=["build"])
    parser.add_argument("--headers", type=Path, help=f"the folder of {HEADER}")
    parser.add_argument("--out", type=Path, help="the library to write; by default in the package")
    given = parser.parse_args(arguments)
    try:
        print(build(given.out, given.headers))
    except BindeployError as error:
        print(f"bindeploy: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
