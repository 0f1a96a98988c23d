"""The runtime compiled for tests: as a library for ctypes, and as programs under sanitizers."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from compiled_runtime import SANITIZERS, SOURCES, build
from loaded_model import Model, load_library
from plan_builder import RUNTIME


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("library")
    return load_library(build(folder / "libbindeploy.so", SOURCES, "-O1", "-fPIC", "-shared"))


@pytest.fixture
def open_plan(library: ctypes.CDLL, tmp_path: Path) -> Callable[..., Model]:
    """Loads the bytes of a plan: open_plan(plan, isa=None, threads=1) -> Model."""

    def open_bytes(plan: bytes, isa: str | None = None, threads: int = 1) -> Model:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bd"
        path.write_bytes(plan)
        return Model(library, path, isa, threads)

    return open_bytes


@pytest.fixture(scope="session")
def sanitized_bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    return build(folder / "bd_bench", [*SOURCES, str(RUNTIME / "bench/bd_bench.c")], *SANITIZERS)


@pytest.fixture(scope="session")
def sanitized_replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    return build(folder / "fuzz_load", [*SOURCES, str(RUNTIME / "test/fuzz_load.c")], *SANITIZERS)


@pytest.fixture(scope="session")
def contracting_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """A compiler told to fuse wherever it can, for a CPU that can."""
    if platform.machine() == "x86_64" and " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no fused multiply-add")
    machine = ("-mfma", "-mavx2") if platform.machine() == "x86_64" else ()
    flags = ("-O3", "-ffp-contract=fast", *machine, "-fPIC", "-shared")
    output = tmp_path_factory.mktemp("contracting") / "libbindeploy.so"
    yield load_library(build(output, SOURCES, *flags))
