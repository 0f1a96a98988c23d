"""Run a WebAssembly program that uses WASI: `python -m bindeploy.on.wasi [--count] FILE WORD...`

A word with a slash names a file: the program sees its folder, and nothing else. With `--count` the
number of WebAssembly instructions it ran, the same every time, is the last line of stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import wasmtime

COUNT = "--count"
ENOUGH = 2**63
"""Instructions, more than any program lives to run."""


def run(program: Path, words: Sequence[str], count: bool = False) -> int:
    """Its exit status; raises `wasmtime.WasmtimeError` or `wasmtime.Trap` where it cannot run."""
    config = wasmtime.Config()
    config.consume_fuel = count
    engine = wasmtime.Engine(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    words = [str(Path(word).absolute()) if "/" in word else word for word in words]
    store.set_wasi(_surroundings(program, words))
    if count:
        store.set_fuel(ENOUGH)
    module = wasmtime.Module.from_file(engine, str(program))
    start = linker.instantiate(store, module).exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    status = 0
    try:
        start(store)
    except wasmtime.ExitTrap as end:
        status = end.code
    if count:
        print(ENOUGH - store.get_fuel(), file=sys.stderr)
    return status


def _surroundings(program: Path, words: Sequence[str]) -> wasmtime.WasiConfig:
    wasi = wasmtime.WasiConfig()
    wasi.argv = [program.name, *words]
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    folders = {str(Path(word).parent) for word in words if "/" in word}
    for folder in filter(os.path.isdir, folders):
        wasi.preopen_dir(folder, folder)
    return wasi


def main(words: list[str]) -> int:
    count = words[:1] == [COUNT]
    program, *rest = words[count:]
    try:
        return run(Path(program), rest, count)
    except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(f"`{program}`: {lines[-1] if lines else type(error).__name__}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
