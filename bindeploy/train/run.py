"""A RUN: the folder a training writes, and reads again to be resumed or exported.

- `run.json`: arguments, versions, commit, dataset (classes, shape, normalization), accuracies
- `model.safetensors`: what is shipped after the last whole epoch: latent weights, BatchNorm
  statistics (of the hard network where they are measured again); full precision with method fp
- `float.safetensors`: the full-precision twin, where one is trained
- `candidates.safetensors`: test images uint8 [64, C, H, W] from which golden inputs are chosen
- `metrics.jsonl`: a line an epoch
- `resume.safetensors`: what an unfinished run needs to go on; gone when it is finished

Every file is whole or absent, and reading one never runs code: they are JSON and plain tensors.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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
from bindeploy.files import failing_in_words, json_text, read_json, whole_file
from bindeploy.train import models
from bindeploy.train.commit import commit
from bindeploy.train.data import Dataset, Normalization
from bindeploy.train.quantizers import QUANTIZERS, Quantizer
from bindeploy.train.states import harden

DESCRIPTION = "run.json"
MODEL = "model.safetensors"
FLOAT = "float.safetensors"
CANDIDATES = "candidates.safetensors"
METRICS = "metrics.jsonl"
RESUME = "resume.safetensors"
FILES = (DESCRIPTION, MODEL, FLOAT, CANDIDATES, METRICS, RESUME)

CANDIDATE_COUNT = 64

LARGEST_SIZE = 2**14
"""Pixels along an axis, and classes, beyond which a description is taken for a damaged one."""

LARGEST_NUMBER = 1e9
"""Beyond which, and below whose inverse, a constant of a normalization is; and seconds are."""

Metadata = dict[str, Any]


def write_description(run: Path, description: Metadata) -> None:
    """Write run.json."""
    with whole_file(run / DESCRIPTION) as path:
        path.write_text(json_text(description, indent=2) + "\n")


def write_metrics(run: Path, lines: list[Metadata]) -> None:
    """Write metrics.jsonl, a line an epoch."""
    with whole_file(run / METRICS) as path:
        path.write_text("".join(json_text(line) + "\n" for line in lines))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, and strings beside them, as safetensors."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{error}") from error


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
        description = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise BindeployError(
            f"`{run}` is no run (it has no {DESCRIPTION}): give a folder that train --out wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise BindeployError(f"`{path}` is damaged ({error}): train again") from None
    if not isinstance(description, dict) or not {"arguments", "dataset"} <= description.keys():
        raise BindeployError(f"`{path}` was not written by bindeploy: give another folder")
    try:
        _check(description)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise BindeployError(f"`{path}` is damaged ({reason[:200]}): train again") from None
    return description


def _check(description: Metadata) -> None:
    """Raise KeyError, TypeError or ValueError unless every entry that is read has its type."""
    arguments, dataset = description["arguments"], description["dataset"]
    if not isinstance(arguments, dict) or not isinstance(dataset, dict):
        raise TypeError("arguments and dataset are objects")
    for key in ("model", "mode", "scale"):
        if not isinstance(arguments[key], str):
            raise TypeError(f"{key} is {arguments[key]!r}, not a text")
    if not isinstance(arguments["nonlinearity"], str | None):
        raise TypeError(f"nonlinearity is {arguments['nonlinearity']!r}, not a text")
    if type(arguments["learned_shift"]) is not bool:
        raise TypeError(f"learned_shift is {arguments['learned_shift']!r}, not true or false")
    skip = arguments["skip"]
    if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
        raise TypeError("skip is no list of texts")
    for key in ("float_accuracy", "soft_accuracy", "hard_accuracy"):
        if description[key] is not None and not _is_number(description[key]):
            raise TypeError(f"{key} is {description[key]!r}, not a number or null")
    for key in ("epochs", "seconds"):
        if not _is_number(description[key]):
            raise TypeError(f"{key} is {description[key]!r}, not a number")
    if type(description["finished"]) is not bool:
        raise TypeError(f"finished is {description['finished']!r}, not true or false")
    for key in ("binary", "standardize"):
        if type(description["quantizer"][key]) is not bool:
            raise TypeError(f"{key} is {description['quantizer'][key]!r}, not true or false")
    classes, shape = dataset["classes"], dataset["input_shape"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes are no list of texts")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise TypeError(f"input_shape is {shape!r}, not [C, H, W]")
    if len(shape) != 3 or min(shape) < 1 or shape[1] != shape[2] or max(shape) > LARGEST_SIZE:
        raise ValueError(f"input_shape {shape} is not of square images")
    if not 1 <= len(classes) <= LARGEST_SIZE:
        raise ValueError(f"it names {len(classes)} classes")
    normalization = dataset["normalization"]
    for key in ("mean", "std"):
        if not isinstance(normalization[key], list) or len(normalization[key]) != shape[0]:
            raise ValueError(f"{key} has not one number a channel")
    if not all(map(_is_number, normalization["mean"])):
        raise ValueError("a mean is no number")
    if not all(
        _is_number(x) and x >= 1 / LARGEST_NUMBER
        for x in (normalization["pixel_max"], *normalization["std"])
    ):
        raise ValueError("pixel_max or a std is no number above 0")


def _is_number(value: object) -> bool:
    """An int or a float of a sane size; NaN, and what overflows in float32, is none."""
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # type: ignore[arg-type]


def prepare(run: Path) -> None:
    """Make `run` ready for a new training.

    It has to be absent or empty: days of work may lie there. Anything else raises BindeployError.
    """
    with failing_in_words(run):
        _prepare(run)


def _prepare(run: Path) -> None:
    if run.is_dir() and (run / DESCRIPTION).exists():
        if read_description(run)["finished"]:
            raise BindeployError(
                f"`{run}` holds a finished run: delete it, or choose another --out"
            )
        raise BindeployError(
            f"`{run}` holds an unfinished run: --resume goes on with it;"
            " or delete it, or choose another --out"
        )
    if run.exists() and not (run.is_dir() and not any(run.iterdir())):
        raise BindeployError(
            f"`{run}` exists and was not written by bindeploy: choose another --out"
        )
    run.mkdir(parents=True, exist_ok=True)


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep other trainings out of `run`; BindeployError where one is at work there."""
    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise BindeployError(
            f"another training writes to `{run}`: wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def describe(arguments: Metadata, dataset: Dataset, quantizer: Quantizer) -> Metadata:
    """What run.json says of a training that starts now."""
    normalization = dataset.source.normalization
    return {
        "versions": {
            "bindeploy": bindeploy.__version__,
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "python": platform.python_version(),
        },
        "commit": commit(),
        "arguments": arguments | {"skip": list(arguments["skip"])},
        "quantizer": {"binary": quantizer.binary, "standardize": quantizer.standardize},
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


def begin(run: Path, description: Metadata, dataset: Dataset) -> None:
    """Write what is known of a training before its first epoch."""
    write_candidates(run, dataset)
    write_description(run, description)


def write_candidates(run: Path, dataset: Dataset) -> None:
    """Keep the first test images, so that a run is exported without its dataset."""
    images = torch.from_numpy(dataset.test.images[:CANDIDATE_COUNT].copy())
    write_tensors(run / CANDIDATES, {"images": images})


def candidates(run: Path, metadata: Metadata) -> NDArray[np.float32]:
    """The kept test images, normalized: float32 [N, C, H, W], N = 64 or all there were."""
    path = Path(run) / CANDIDATES
    tensors, _ = read_tensors(path)
    if "images" not in tensors:
        raise BindeployError(f"`{path}` holds no images: train again")
    images, shape = tensors["images"], metadata["dataset"]["input_shape"]
    if images.dtype != torch.uint8 or not len(images.shape) or list(images.shape[1:]) != shape:
        raise BindeployError(
            f"`{path}` holds {images.dtype} {list(images.shape)}, not uint8 images of {shape}:"
            " train again"
        )
    if not 1 <= len(images) <= CANDIDATE_COUNT:
        raise BindeployError(
            f"`{path}` holds {len(images)} images, not 1 to {CANDIDATE_COUNT}: train again"
        )
    return _normalization(metadata)(images.numpy())


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
    model = _fitting(path / MODEL, tensors, metadata, metadata["quantizer"]["binary"])
    return harden(model.eval()), metadata


def load_float(path: Path) -> tuple[nn.Module, Metadata]:
    """The full-precision twin of a run, ready for inference, and the content of its run.json."""
    path = Path(path)
    metadata = read_description(path)
    name = FLOAT if metadata["quantizer"]["binary"] else MODEL
    tensors, _ = read_tensors(path / name)
    return _fitting(path / name, tensors, metadata, binary=False).eval(), metadata


def _fitting(
    path: Path, tensors: Mapping[str, Tensor], metadata: Metadata, binary: bool
) -> nn.Module:
    """The model that a checked description names, with `tensors`, which have to fit it."""
    with torch.device("meta"):  # shapes alone: a description may name a model of any size
        expected = _model(metadata, binary).state_dict()
    fault = misfit(tensors, expected)
    if fault:
        raise BindeployError(f"`{path}` does not fit its model ({fault}): train again")
    model = _model(metadata, binary)
    model.load_state_dict(tensors)
    return model


def _model(metadata: Metadata, binary: bool) -> nn.Module:
    """The model that a checked description names, not trained."""
    arguments, dataset = metadata["arguments"], metadata["dataset"]
    channels, height, _ = dataset["input_shape"]
    shape = channels, len(dataset["classes"]), height
    mode, nonlinearity = arguments["mode"], arguments["nonlinearity"]
    if not binary:
        return models.build(arguments["model"], *shape, None, mode, nonlinearity)
    # Hard weights are signs whatever the method was, so that any stands in for one's own.
    stand_in = replace(QUANTIZERS["bc"], standardize=metadata["quantizer"]["standardize"])
    options = {key: arguments[key] for key in ("skip", "scale", "learned_shift")}
    return models.build(arguments["model"], *shape, stand_in, mode, nonlinearity, **options)


def misfit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Why `tensors` are not the state that is `expected`, in words; None where they are."""
    for name in sorted(set(tensors) ^ set(expected)):
        return f"`{name}` is {'missing' if name in expected else 'of another model'}"
    for name, like in expected.items():
        found = tensors[name]
        if found.shape != like.shape or found.dtype != like.dtype:
            return (
                f"`{name}` is {found.dtype} {list(found.shape)},"
                f" not {like.dtype} {list(like.shape)}"
            )
        if not found.isfinite().all():
            return f"`{name}` holds numbers that are not finite"
    return None
