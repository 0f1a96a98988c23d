"""Write a bundle, whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bindeploy import __version__
from bindeploy.bundle.folder import VERSION, Bundle, Golden
from bindeploy.bundle.formats import (
    FORMATS,
    INPUT,
    INTEGERS,
    LOGITS,
    MANIFEST,
    MODEL,
    Progress,
)
from bindeploy.errors import BindeployError, unknown
from bindeploy.files import json_text, whole_folder
from bindeploy.target import Target

if TYPE_CHECKING:
    import onnx_ir as ir


def create(
    packed: ir.Model,
    golden: Golden,
    target: Target,
    out: Path | str,
    provenance: Mapping[str, object],
    *,
    format: str = "runtime",
    options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Write a bundle of a converted model into folder `out`, whole or not at all, and open it.

    `provenance` goes into the manifest as it is, `options` are the format's own. A bundle that
    stands at `out` is replaced, any other folder is refused. `BindeployError` too for an unknown
    format, for a model that the format cannot hold, and where the runtime does not compile.
    """
    from bindeploy.emit.onnx import save

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    layers = _layers(packed, golden)
    if not (np.isfinite(golden.inputs).all() and np.isfinite(golden.logits).all()):
        raise BindeployError(
            f"golden inputs or logits of {golden.source} are not finite: "
            "repair the network's float weights, or train again"
        )
    with whole_folder(Path(out), MANIFEST) as folder:
        save(packed, folder / MODEL)
        _write_golden(golden, folder)
        manifest = {
            "bundle": VERSION,
            "bindeploy": __version__,
            "format": format,
            "target": asdict(target),
            "output_shape": golden.logits.shape[1:],
            "layers": layers,
            "golden": {
                "source": golden.source,
                "count": len(golden.inputs),
                "skipped": golden.skipped,
                "margin": golden.margin,
            },
            "build": FORMATS[format].add(packed, target, folder, progress, **(options or {})),
            "provenance": dict(provenance),
        }
        (folder / MANIFEST).write_text(json_text(manifest, indent=2) + "\n", encoding="utf-8")
    return Bundle.open(out)


def _layers(packed: ir.Model, golden: Golden) -> list[dict[str, object]]:
    """Name and shape of every layer that has integers, in the order of graph and plan."""
    from bindeploy.convert import dialect

    names = [
        node.name for node, op in dialect.layers(packed) if op.binarizes and "bits" in op.inputs
    ]
    if set(names) != set(golden.integers):
        raise BindeployError(
            f"the golden integers are of layers {sorted(golden.integers)}, but the model has "
            f"{sorted(map(str, names))}: record them from the same model"
        )
    return [{"name": name, "shape": golden.integers[str(name)].shape[1:]} for name in names]


def _write_golden(golden: Golden, folder: Path) -> None:
    (folder / INPUT).parent.mkdir()
    np.save(folder / INPUT, np.asarray(golden.inputs, np.float32))
    np.save(folder / LOGITS, np.asarray(golden.logits, np.float32))
    integers = {name: np.asarray(array, np.int32) for name, array in golden.integers.items()}
    # np.savez takes names as keywords, and so cannot hold a layer called `file`.
    with zipfile.ZipFile(folder / INTEGERS, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in integers.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
