"""Train a network and its full-precision twin, epoch by epoch, resumable after each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from bindeploy.errors import BindeployError
from bindeploy.train import devices, quantizers
from bindeploy.train import run as runs
from bindeploy.train.data import Dataset, load
from bindeploy.train.networks import check_sources
from bindeploy.train.progress import Display
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.run import load_run
from bindeploy.train.settings import Settings, settings
from bindeploy.train.training import Training

__all__ = ["load_run", "train"]

IDENTITY = ("data", "model", "method", "mode", "seed")
RESULTS = ("float_accuracy", "soft_accuracy", "hard_accuracy", "epochs", "seconds")


def train(
    data: str | None,
    model: str | None,
    method: str | Quantizer = "bnn++",
    mode: str = "bwa",
    *,
    out: Path | str,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train `model` on `data` with binary weights and write the run to the folder `out`.

    First the full-precision twin of the network (unless `float_twin=False`), then the binary
    network, each for `epochs` epochs. `options` are the fields of `settings.Settings`: epochs,
    limit, seed, optimizer, learning_rate, init, teacher, recalibrate, devices and so on.

    Returns `{"float_accuracy", "soft_accuracy", "hard_accuracy", "epochs", "seconds", "data",
    "model", "method", "mode", "seed"}`. Accuracies are shares of the test images: of the twin (None
    without one), of the network as it trains, and of the network whose weights are signs, which is
    shipped. The method "fp" trains the twin alone.

    After an interruption `resume=True` and the same options go on to the same weights. Progress
    goes to stderr. Misuse and missing data raise BindeployError before anything is written.
    """
    quantizer = quantizers.get(method)
    quantizers.check(quantizer)
    given = settings(
        {"data": data, "model": model, "method": quantizer.name, "mode": mode, **options}
    )
    _check_method(given, quantizer)
    processes = given.devices, given.num_nodes, given.strategy, given.accelerator
    devices.check(*processes)
    with devices.together(*processes), _out_of_memory_in_words():
        description = _train(given, quantizer, Path(out), resume, progress)
    results = {key: description[key] for key in RESULTS}
    return results | {key: getattr(given, key) for key in IDENTITY}


def _train(
    given: Settings, quantizer: Quantizer, run: Path, resume: bool, progress: bool
) -> dict[str, Any]:
    """Train in as many processes as have met; returns the description of the finished run."""
    folder = Path(given.data_dir) if given.data_dir else None
    before = devices.from_main(lambda: runs.read_description(run)) if resume else None
    dataset = load(given.data, folder, given.image_size)
    given = _completed(given, dataset, quantizer)
    if before is None:
        check_sources(given, dataset, quantizer, run)
        devices.from_main(lambda: runs.prepare(run))
    with runs.alone(run) if devices.is_main() else nullcontext():
        description = before or runs.describe(asdict(given), dataset, quantizer)
        if before is None:
            devices.from_main(lambda: runs.begin(run, description, dataset))
        else:
            _check_same(run, description["arguments"], asdict(given))
        if not description["finished"]:
            shown = Display(progress and devices.is_main())
            _go(Training(run, given, dataset, quantizer, description, shown))
    return description


def _check_method(given: Settings, quantizer: Quantizer) -> None:
    """Refuse options that the method has no use for."""
    if given.optimizer == "bop" and quantizer.F is not quantizers.sign:
        raise BindeployError(
            f"optimizer `bop` flips signs, which method `{quantizer.name}` does not train with:"
            " give --method bc"
        )
    for name in ("teacher", "recalibrate"):
        if getattr(given, name) and not quantizer.binary:
            raise BindeployError(
                f"{name} `{getattr(given, name)}`: method `{quantizer.name}` trains full precision"
                " alone, leave it out"
            )


def _completed(given: Settings, dataset: Dataset, quantizer: Quantizer) -> Settings:
    """The settings with the defaults that depend on the dataset, the method and the machine."""
    return replace(
        given,
        scale=given.scale or quantizer.scale,
        batch_size=given.batch_size or dataset.source.batch_size,
        augmentation=given.augmentation or dataset.source.augmentation,
        image_size=dataset.input_shape[1],
        precision=_fastest(dataset) if given.precision == "auto" else given.precision,
        float_twin=given.float_twin or not quantizer.binary,
    )


def _go(training: Training) -> None:
    """Train to the end; of an interruption, say what is kept."""
    _one_thread_if_small(training.dataset)
    try:
        training.go()
    except KeyboardInterrupt:
        state = training.state
        if devices.is_main():
            training.display.warn(
                f"interrupted: `{training.run}` keeps {state.epoch} of {training.settings.epochs}"
                f" epochs of the {state.phase} network, --resume goes on from there"
            )
        raise
    finally:
        training.display.stop()


@contextmanager
def _out_of_memory_in_words() -> Iterator[None]:
    """Torch tells of memory that it cannot have by a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise BindeployError(
            "out of memory: give a smaller --batch-size, --image-size or --model"
        ) from error


def _check_same(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A run is resumed with the options it was started with, but for where and by whom."""
    for each in fields(Settings):
        # JSON knows no tuples.
        value = now[each.name]
        same = before.get(each.name) == (list(value) if isinstance(value, tuple) else value)
        if not same and not each.metadata["elsewhere"]:
            raise BindeployError(
                f"`{run}` was started with {each.name} `{before.get(each.name)}`, not `{value}`:"
                " resume it with the same arguments"
            )


def _one_thread_if_small(dataset: Dataset) -> None:
    """Small images gain nothing from threads, and on busy cores lose much by waiting for them."""
    if not _large(dataset) and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _large(dataset: Dataset) -> bool:
    return dataset.input_shape[1] >= 16


def _fastest(dataset: Dataset) -> str:
    """bfloat16 pays where convolutions are large and the processor has it (a GPU always does)."""
    has = torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bfloat16" if _large(dataset) and has else "float32"
