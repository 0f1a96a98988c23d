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

    `files` must be there; `add(packed, target, folder, progress)` writes them, and whatever else
    belongs to them, and returns the manifest's record of how.
    """

    files: tuple[str, ...]
    add: Callable[[ir.Model, Target, Path, Progress | None], dict[str, object]]


def _add_runtime(
    packed: ir.Model, target: Target, folder: Path, progress: Progress | None
) -> dict[str, object]:
    from bindeploy.emit.plan import write_plan

    try:
        write_plan(packed, folder / PLAN)
    except BindeployError as error:
        raise BindeployError(f"{error}; --format onnx bundles the portable file alone") from None
    return build(target, folder, progress=progress)


def _add_nothing(
    packed: ir.Model, target: Target, folder: Path, progress: Progress | None
) -> dict[str, object]:
    return {}


FORMATS = {
    "runtime": Format((PLAN,), _add_runtime),
    "onnx": Format((), _add_nothing),
}
