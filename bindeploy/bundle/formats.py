"""What can be in a bundle: `FORMATS`, one row a kind of bundle, and the names of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, NamedTuple

from bindeploy.build import build
from bindeploy.emit.tvm import module_source
from bindeploy.errors import BindeployError, not_installed
from bindeploy.files import resource
from bindeploy.target import Target

if TYPE_CHECKING:
    import onnx_ir as ir

Progress = Callable[[str], None]

MANIFEST = "manifest.json"
MODEL = "model.onnx"
PLAN = "model.bd"
INPUT = "golden/input.npy"
LOGITS = "golden/logits.npy"
INTEGERS = "golden/integers.npz"
HOST = "src/host.cc"
"""The source of a program that runs a compiled module without Python."""


class Format(NamedTuple):
    """What a bundle holds beside the portable file and the golden vectors.

    `check(packed, target)` refuses what the format cannot hold, before anything else is done with
    it. `files` must be there; `add(packed, target, folder, progress)` writes them, and whatever
    else belongs to them, and returns the manifest's record of how. Both take the format's own
    options as keywords.
    """

    check: Callable[..., None]
    files: tuple[str, ...]
    add: Callable[..., dict[str, object]]


def _check_runtime(packed: ir.Model, target: Target) -> None:
    from bindeploy.emit.plan import lower

    if target.family == "gpu":
        raise BindeployError(f"target `{target.name}` is compiled by TVM alone: give --format tvm")
    try:
        lower(packed)
    except BindeployError as error:
        raise BindeployError(f"{error}; --format onnx bundles the portable file alone") from None


def _add_runtime(
    packed: ir.Model, target: Target, folder: Path, progress: Progress | None
) -> dict[str, object]:
    from bindeploy.emit.plan import write_plan

    write_plan(packed, folder / PLAN)
    return build(target, folder, progress=progress)


def _check_tvm(packed: ir.Model, target: Target, kernels: str = "own") -> None:
    _compiler().check(packed, target, kernels)


def _add_tvm(
    packed: ir.Model,
    target: Target,
    folder: Path,
    progress: Progress | None,
    kernels: str = "own",
) -> dict[str, object]:
    import onnx_ir as ir

    from bindeploy.convert.integers import with_integers

    tell = progress or (lambda line: None)
    tell(f"compiling for {target.name} with TVM")
    record = _compiler().write_module(packed, target, folder / module_source.MODULE, kernels)
    tell("compiling the same with the integers of every layer")
    proof = ir.from_proto(with_integers(packed)[0])
    _compiler().write_module(proof, target, folder / module_source.INTEGERS, kernels)
    (folder / HOST).parent.mkdir()
    copyfile(resource("runtime") / "tvm" / "host.cc", folder / HOST)
    _compiler().write_sources(packed, target, folder / HOST.partition("/")[0])
    return record | {"checksums": module_source.checksums(folder)}


def _compiler() -> Any:
    """The module that imports TVM."""
    try:
        from bindeploy.emit.tvm import compiler
    except ModuleNotFoundError as error:
        raise not_installed(error) or error from None
    return compiler


def _check_nothing(packed: ir.Model, target: Target) -> None:
    """The portable file holds any model."""


def _add_nothing(
    packed: ir.Model, target: Target, folder: Path, progress: Progress | None
) -> dict[str, object]:
    return {}


FORMATS = {
    "runtime": Format(_check_runtime, (PLAN,), _add_runtime),
    "onnx": Format(_check_nothing, (), _add_nothing),
    "tvm": Format(_check_tvm, (module_source.MODULE, module_source.INTEGERS), _add_tvm),
}
