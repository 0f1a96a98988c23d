"""The networks of a training: fresh, the same for a seed, and those that others have trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train import models
from bindeploy.train import run as runs
from bindeploy.train.checkpoints import initialize
from bindeploy.train.data import Dataset
from bindeploy.train.layers import binary_layers
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.settings import TWIN, Settings


def fresh(settings: Settings, dataset: Dataset, quantizer: Quantizer | None) -> nn.Module:
    """A fresh network; `quantizer=None`, or one of full precision, builds the twin."""
    channels, height, width = dataset.input_shape
    if height != width:
        raise BindeployError(f"images of `{dataset.name}` are {height}x{width}: give square ones")
    binary = quantizer is not None and quantizer.binary
    options = {
        "skip": settings.skip,
        "scale": settings.scale,
        "learned_shift": settings.learned_shift,
    }
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = models.build(
            settings.model,
            channels,
            len(dataset.classes),
            height,
            quantizer if binary else None,
            settings.mode,
            settings.nonlinearity,
            **(options if binary else {}),
        )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def started(
    settings: Settings,
    dataset: Dataset,
    quantizer: Quantizer | None,
    run: Path,
    say: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """A fresh network, filled from the checkpoint that the settings name, if any.

    `say` is told in a sentence what was taken from it. A twin is there once its phase is over, and
    only the binary network starts from it.
    """
    network = fresh(settings, dataset, quantizer)
    if settings.init is None or (settings.init == TWIN and quantizer is None):
        return network
    source = run / runs.FLOAT if settings.init == TWIN else Path(settings.init)
    say(str(initialize(network, source, added_parameters(network))))
    return network


def added_parameters(network: nn.Module) -> set[str]:
    """What a published float network need not have: what binarization added, and slopes of PReLU
    where it may have had another nonlinearity."""
    added = ("shift", "input_maximum")
    names = {f"{name}.{each}" for name, _ in binary_layers(network) for each in added}
    slopes = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.PReLU)}
    return names | slopes


def teacher(settings: Settings, dataset: Dataset, run: Path) -> nn.Module | None:
    """The full-precision network to learn from, without gradients; None where there is none."""
    if settings.teacher is None:
        return None
    place = run if settings.teacher == TWIN else Path(settings.teacher)
    network, metadata = runs.load_float(place)
    found = metadata["dataset"]["input_shape"], metadata["dataset"]["classes"]
    if found != (list(dataset.input_shape), list(dataset.classes)):
        raise BindeployError(
            f"teacher `{place}` was trained on {metadata['dataset']['name']} images of "
            f"{found[0]} in {len(found[1])} classes, not on these: give one of the same data"
        )
    return network.requires_grad_(False)


def check_sources(settings: Settings, dataset: Dataset, quantizer: Quantizer, run: Path) -> None:
    """Refuse sizes that do not fit, and a start or a teacher that cannot be had or kept."""
    for name, source in (("init", settings.init), ("teacher", settings.teacher)):
        if source not in (None, TWIN) and _is_within(Path(source), run):
            raise BindeployError(
                f"{name} `{source}` is in --out `{run}`, which a new training replaces:"
                " choose another --out"
            )
    if settings.init == TWIN:
        fresh(settings, dataset, quantizer)
    else:
        started(settings, dataset, quantizer, run)
    if settings.teacher != TWIN:
        teacher(settings, dataset, run)


def _is_within(source: Path, run: Path) -> bool:
    """`source` is the folder `run`, or a file in it."""
    return os.path.realpath(run) in (
        os.path.realpath(source),
        os.path.dirname(os.path.realpath(source)),
    )
