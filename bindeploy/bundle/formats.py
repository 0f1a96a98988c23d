"""What can be in a bundle: `FORMATS`, one row a kind of bundle, and the names of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bindeploy.build import build
from bindeploy.errors import BindeployError
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


class Format(NamedTuple):
    """What a bundle holds beside the portable file and the golden vectors.

    `check(packed)` refuses a model that the format cannot hold, before anything else is done with
    it. `files` must be there; `add(packed, target, folder, progress)` writes them, and whatever
    else belongs to them, and returns the manifest's record of how.
    """

    check: Callable[[ir.Model], None]
    files: tuple[str, ...]
    add: Callable[[ir.Model, Target, Path, Progress | None], dict[str, object]]


def _check_runtime(packed: ir.Model) -> None:
    from bindeploy.emit.plan import lower

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


def _check_nothing(packed: ir.Model) -> None:
    """The portable file holds any model."""


def _add_nothing(
    packed: ir.Model, target: Target, folder: Path, progress: Progress | None
) -> dict[str, object]:
    return {}


FORMATS = {
    "runtime": Format(_check_runtime, (PLAN,), _add_runtime),
    "onnx": Format(_check_nothing, (), _add_nothing),
}
