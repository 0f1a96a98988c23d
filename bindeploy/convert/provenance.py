"""Where a model comes from, in the metadata of its ONNX file: every key begins with `bindeploy.`.

`bindeploy.method`, `.mode`, `.model`, `.data`, `.commit` (of the code that trained it), `.accuracy`
(of the network in bits, on all test images, from 0 to 1), `.float_accuracy`, `.epochs`, `.version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

PREFIX = "bindeploy."

ARGUMENTS = ("method", "mode", "model", "data")
RESULTS = {
    "commit": "commit",
    "accuracy": "hard_accuracy",
    "float_accuracy": "float_accuracy",
    "epochs": "epochs",
}
"""Key of the metadata, and of run.json."""


def of_run(description: Mapping[str, Any]) -> dict[str, str]:
    """What a training's run.json says, as metadata; what it does not know is left out."""
    found = {key: description["arguments"].get(key) for key in ARGUMENTS}
    found |= {key: description.get(name) for key, name in RESULTS.items()}
    found["version"] = description.get("versions", {}).get("bindeploy")
    return {f"{PREFIX}{key}": str(value) for key, value in found.items() if value is not None}


def kept(model: ir.Model) -> dict[str, str]:
    """The provenance that a model carries; other metadata belongs to its exporter."""
    return {key: text for key, text in model.metadata_props.items() if key.startswith(PREFIX)}
