"""What a bundle says of the modules in it: read without TVM, and without anything of ONNX."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bindeploy.errors import BindeployError
from bindeploy.files import read_json

MANIFEST = "manifest.json"
MODULE = "model.so"
INTEGERS = "golden/integers.so"
"""The module that ships, and the same network with the integers of its layers as outputs."""

LARGEST = 2**28
"""Numbers of one image, beyond which a manifest counts as damaged."""

ELF = b"\x7fELF"
MACHINES = {40: "32-bit ARM", 62: "x86-64", 183: "64-bit ARM", 243: "RISC-V"}
"""The machines that ELF files name by a number."""


DEVICES = ("cuda", "opencl")
"""Kinds of targets whose kernels run beside the processor."""


class End(NamedTuple):
    """An input or output, with the shape that it has for one image."""

    name: str
    shape: tuple[int, ...]


class Call(NamedTuple):
    """A kernel that runs, and the layer that it belongs to, or ""."""

    kernel: str
    layer: str


class ModuleSource(NamedTuple):
    """A folder with modules.

    `layers` are the shapes of their integers, `calls` are its kernels in their order; `device` is
    TVM's word for where they run, one of DEVICES or cpu.
    """

    folder: Path
    input: End
    output: End
    layers: Mapping[str, tuple[int, ...]]
    calls: tuple[Call, ...]
    processor: str
    device: str
    checksums: Mapping[str, int]

    def intact(self, name: str) -> Path:
        """Where the module `name` lies, if it is as it was written; BindeployError if not.

        What a damaged library does when it is loaded, nobody knows.
        """
        path = self.folder / name
        if not path.is_file():
            raise BindeployError(f"bundle `{self.folder}` has lost its `{name}`: export it again")
        if zlib.crc32(path.read_bytes()) != self.checksums.get(name):
            raise BindeployError(f"`{path}` is damaged (its checksum differs): export it again")
        return path

    def module(self, name: str) -> Path:
        """The same; BindeployError too for a module of another machine."""
        path = self.intact(name)
        if machine := other_machine(path):
            raise BindeployError(f"`{path}` is for {machine}: run it there, or export it anew")
        return path


def _device(kind: object) -> str:
    return str(kind) if kind in DEVICES else "cpu"


def is_module(model: object) -> bool:
    """Whether `model` is the path of a folder with a module."""
    try:
        return (Path(model) / MODULE).is_file()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def read(folder: Path) -> ModuleSource:
    """What the manifest says; BindeployError where it does not say it."""
    try:
        manifest = read_json(folder / MANIFEST)
        built = manifest["build"]
        return ModuleSource(
            folder,
            End(str(built["input"]["name"]), _shape(built["input"]["shape"])),
            End(str(built["output"]), _shape(manifest["output_shape"])),
            {layer["name"]: _shape(layer["shape"]) for layer in manifest["layers"]},
            tuple(Call(str(row["kernel"]), str(row["layer"])) for row in built["calls"]),
            str(built["processor"]),
            _device(built["target"]["kind"]),
            dict(built["checksums"]),
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BindeployError(
            f"`{MANIFEST}` of bundle `{folder}` is damaged ({line}): export it again"
        ) from error


def other_machine(path: Path) -> str | None:
    """The machine that a library is for, in words, where it is not that of this Python."""
    theirs, ours = _elf_machine(path), _elf_machine(Path(sys.executable))
    if theirs is None or theirs == ours:
        return None
    return MACHINES.get(theirs, f"ELF machine {theirs}")


def _elf_machine(path: Path) -> int | None:
    with path.open("rb") as file:
        header = file.read(20)
    return int.from_bytes(header[18:20], "little") if header.startswith(ELF) else None


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of each module, by its name."""
    return {name: zlib.crc32((folder / name).read_bytes()) for name in (MODULE, INTEGERS)}


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise TypeError(f"{sizes!r} is no shape")
    if math.prod(sizes) > LARGEST:
        raise ValueError(f"{sizes!r} is too large")
    return tuple(sizes)
