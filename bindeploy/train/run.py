"""A RUN: the folder a training writes, and reads again to be resumed or exported.

- `run.json`: all arguments, versions, dataset (classes, input shape, normalization), accuracies
- `model.safetensors`: latent weights and BatchNorm statistics after the last whole epoch
- `candidates.safetensors`: test images uint8 [64, C, H, W] from which golden inputs are chosen
- `metrics.jsonl`: a line an epoch
- `resume.safetensors`: what an unfinished run needs to go on; gone when it is finished

Every file is whole or absent, and reading one never runs code: they are JSON and plain tensors.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import bindeploy
from bindeploy.errors import BindeployError
from bindeploy.files import whole_file
from bindeploy.train import models
from bindeploy.train.data import Dataset, Normalization
from bindeploy.train.states import harden

DESCRIPTION = "run.json"
MODEL = "model.safetensors"
CANDIDATES = "candidates.safetensors"
METRICS = "metrics.jsonl"
RESUME = "resume.safetensors"
FILES = (DESCRIPTION, MODEL, CANDIDATES, METRICS, RESUME)

CANDIDATE_COUNT = 64

Metadata = dict[str, Any]


def write_description(run: Path, description: Metadata) -> None:
    """Write run.json."""
    with whole_file(run / DESCRIPTION) as path:
        path.write_text(json.dumps(description, indent=2) + "\n")


def write_metrics(run: Path, lines: list[Metadata]) -> None:
    """Write metrics.jsonl, a line an epoch."""
    with whole_file(run / METRICS) as path:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, and strings beside them, as safetensors."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(plain, temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and strings of a safetensors file, else BindeployError."""
    if not path.is_file():
        raise BindeployError(
            f"`{path}` is missing: the run has not come that far, resume it or train again"
        )
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BindeployError(f"`{path}` is damaged ({reason}): train again") from None


def read_description(run: Path) -> Metadata:
    """The content of run.json; a folder that is no run raises BindeployError."""
    path = Path(run) / DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise BindeployError(
            f"`{run}` is no run (it has no {DESCRIPTION}): give a folder that train --out wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise BindeployError(f"`{path}` is damaged ({error}): train again") from None
    if not isinstance(description, dict) or not {"arguments", "dataset"} <= description.keys():
        raise BindeployError(f"`{path}` was not written by bindeploy: give another folder")
    return description


def prepare(run: Path) -> None:
    """Make `run` ready for a new training.

    A finished run there is replaced. An unfinished one, or anything else, raises BindeployError.
    """
    if run.is_dir() and (run / DESCRIPTION).exists():
        if not read_description(run).get("finished"):
            raise BindeployError(
                f"`{run}` holds an unfinished run: --resume goes on with it;"
                " or delete it, or choose another --out"
            )
        for name in FILES:
            (run / name).unlink(missing_ok=True)
    elif run.exists() and not (run.is_dir() and not any(run.iterdir())):
        raise BindeployError(
            f"`{run}` exists and was not written by bindeploy: choose another --out"
        )
    run.mkdir(parents=True, exist_ok=True)


def describe(arguments: Metadata, dataset: Dataset) -> Metadata:
    """What run.json says of a training that starts now."""
    normalization = dataset.source.normalization
    return {
        "versions": {
            "bindeploy": bindeploy.__version__,
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "python": platform.python_version(),
        },
        "arguments": arguments,
        "dataset": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "input_shape": list(dataset.input_shape),
            "normalization": {
                "pixel_max": normalization.pixel_max,
                "mean": list(normalization.mean),
                "std": list(normalization.std),
            },
        },
        "finished": False,
        "float_accuracy": None,
        "soft_accuracy": None,
        "hard_accuracy": None,
        "epochs": 0,
        "seconds": 0.0,
    }


def write_candidates(run: Path, dataset: Dataset) -> None:
    """Keep the first test images, so that a run is exported without its dataset."""
    images = torch.from_numpy(dataset.test.images[:CANDIDATE_COUNT].copy())
    write_tensors(run / CANDIDATES, {"images": images})


def candidates(run: Path, metadata: Metadata) -> NDArray[np.float32]:
    """The kept test images, normalized: float32 [N, C, H, W], N = 64 or all there were."""
    tensors, _ = read_tensors(Path(run) / CANDIDATES)
    if "images" not in tensors:
        raise BindeployError(f"`{Path(run) / CANDIDATES}` holds no images: train again")
    return _normalization(metadata)(tensors["images"].numpy())


def _normalization(metadata: Metadata) -> Normalization:
    constants = metadata["dataset"]["normalization"]
    return Normalization(
        pixel_max=constants["pixel_max"],
        mean=tuple(constants["mean"]),
        std=tuple(constants["std"]),
    )


def load_run(path: Path) -> tuple[nn.Module, Metadata]:
    """The hardened model of a run, ready for inference, and the content of its run.json.

    A folder that is no run, or a damaged one, raises BindeployError. Nothing in the folder is run.
    """
    path = Path(path)
    metadata = read_description(path)
    tensors, _ = read_tensors(path / MODEL)
    try:
        arguments, dataset = metadata["arguments"], metadata["dataset"]
        channels, height, _ = dataset["input_shape"]
        # Hard weights are signs whatever the method was, so that any stands in for one's own.
        model = models.build(
            arguments["model"], channels, len(dataset["classes"]), height, "bc", arguments["mode"]
        )
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BindeployError(f"`{path}` does not fit its model ({reason}): train again") from None
    return harden(model.eval()), metadata
