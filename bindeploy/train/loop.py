"""Train a network of the zoo and its full-precision twin, epoch by epoch, resumable after each."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bindeploy.errors import BindeployError, unknown
from bindeploy.train import models, modes, quantizers
from bindeploy.train import run as runs
from bindeploy.train.batches import Batches
from bindeploy.train.data import Dataset, load
from bindeploy.train.evaluate import accuracy, hard_accuracy
from bindeploy.train.module import (
    PRECISIONS,
    Phase,
    Progress,
    expected_moments,
    fit,
    saved_moments,
)
from bindeploy.train.progress import Display
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.run import load_run
from bindeploy.train.states import frozen_share

__all__ = ["load_run", "train"]

FLOAT, BINARY = "float", "binary"
IDENTITY = ("data", "model", "method", "mode", "seed")
RESULTS = ("float_accuracy", "soft_accuracy", "hard_accuracy", "epochs", "seconds")
LARGEST_SEED = 2**63
"""What torch and numpy both take."""

MOSTLY_FROZEN = 0.9
"""From this share of latent weights without a gradient on, training warns."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All arguments of a training, as run.json records them."""

    data: str
    data_dir: str | None
    model: str
    method: str
    mode: str
    epochs: int
    limit: int | None
    seed: int
    float_twin: bool
    learning_rate: float
    batch_size: int
    precision: str


@dataclass
class State:
    """How far a training has come: `epoch` epochs of `phase` are done."""

    phase: str
    epoch: int
    seconds: float
    float_accuracy: float | None
    metrics: list[dict[str, Any]]


def train(
    data: str,
    model: str,
    method: str | Quantizer = "bnn++",
    mode: str = "bwa",
    *,
    out: Path | str,
    data_dir: Path | str | None = None,
    epochs: int = 20,
    limit: int | None = None,
    seed: int = 0,
    resume: bool = False,
    float_twin: bool = True,
    learning_rate: float = 2e-3,
    batch_size: int | None = None,
    precision: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Train `model` on `data` with binary weights and write the run to the folder `out`.

    First the full-precision twin of the network (unless `float_twin=False`), then the binary
    network, each from scratch, for `epochs` epochs of Adam with a cosine learning rate from
    `learning_rate`, on all training images or the first `limit`. `batch_size=None` is the dataset's
    own. `precision` is "float32", "bfloat16" (convolutions only; weights stay float32) or "auto":
    bfloat16 where images are 16 pixels wide or more and the processor computes in it.

    Returns `{"float_accuracy", "soft_accuracy", "hard_accuracy", "epochs", "seconds", "data",
    "model", "method", "mode", "seed"}`. Accuracies are shares of the test images: of the twin (None
    without one), of the network as it trains, and of the network whose weights are signs, which is
    shipped.

    After an interruption `resume=True` and the same arguments go on to the same weights. Progress
    goes to stderr. Misuse and missing data raise BindeployError before anything is written.
    """
    quantizer = quantizers.get(method)
    models.check(model)
    modes.get(mode)
    _check_numbers(epochs, limit, learning_rate, batch_size)
    if not 0 <= seed < LARGEST_SEED:
        raise BindeployError(f"seed `{seed}`: give 0 or more, below 2^63")
    if precision not in ("auto", *PRECISIONS):
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    run = Path(out)
    description = runs.read_description(run) if resume else None
    dataset = load(data, Path(data_dir) if data_dir else None)
    settings = Settings(
        data=data,
        data_dir=str(data_dir) if data_dir else None,
        model=model,
        method=quantizer.name,
        mode=mode,
        epochs=epochs,
        limit=limit,
        seed=seed,
        float_twin=float_twin,
        learning_rate=learning_rate,
        batch_size=batch_size or dataset.source.batch_size,
        precision=_fastest(dataset) if precision == "auto" else precision,
    )
    if description is None:
        _network(settings, dataset, quantizer)  # sizes that do not fit are refused here
        runs.prepare(run)
    with runs.alone(run):
        if description is None:
            description = runs.describe(asdict(settings), dataset)
            runs.write_candidates(run, dataset)
            runs.write_description(run, description)
        else:
            _check_same(run, description["arguments"], asdict(settings))
        if not description["finished"]:
            _go(_Training(run, settings, dataset, quantizer, description, Display(progress)))
    results = {key: description[key] for key in RESULTS}
    return results | {key: getattr(settings, key) for key in IDENTITY}


def _go(training: _Training) -> None:
    """Train to the end; of an interruption, say what is kept."""
    _one_thread_if_small(training.dataset)
    try:
        training.go()
    except KeyboardInterrupt:
        state = training.state
        training.display.warn(
            f"interrupted: `{training.run}` keeps {state.epoch} of {training.settings.epochs}"
            f" epochs of the {state.phase} network, --resume goes on from there"
        )
        raise
    finally:
        training.display.stop()


def _check_numbers(
    epochs: int, limit: int | None, learning_rate: float, batch_size: int | None
) -> None:
    if epochs < 1:
        raise BindeployError(f"epochs `{epochs}`: give 1 or more")
    if limit is not None and limit < 2:
        raise BindeployError(f"limit `{limit}`: BatchNorm needs at least 2 images")
    if batch_size is not None and batch_size < 2:
        raise BindeployError(f"batch size `{batch_size}`: BatchNorm needs at least 2 images")
    if not 0 < learning_rate < float("inf"):
        raise BindeployError(f"learning rate `{learning_rate}`: give a number above 0")


def _check_same(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A run is resumed with the arguments it was started with; where its data lie may change."""
    for key in now:
        if key != "data_dir" and before.get(key) != now[key]:
            raise BindeployError(
                f"`{run}` was started with {key} `{before.get(key)}`, not `{now[key]}`:"
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


def _network(settings: Settings, dataset: Dataset, quantizer: Quantizer | None) -> nn.Module:
    """A fresh network, the same for a seed; `quantizer=None` builds the full-precision twin."""
    channels, height, width = dataset.input_shape
    if height != width:
        raise BindeployError(f"images of `{dataset.name}` are {height}x{width}: give square ones")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = models.build(
            settings.model, channels, len(dataset.classes), height, quantizer, settings.mode
        )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Training:
    """One call of `train`: its phases, and what is written after every epoch."""

    def __init__(
        self,
        run: Path,
        settings: Settings,
        dataset: Dataset,
        quantizer: Quantizer,
        description: runs.Metadata,
        display: Display,
    ) -> None:
        self.run, self.settings, self.dataset = run, settings, dataset
        self.quantizer, self.description, self.display = quantizer, description, display
        self.state = State(FLOAT if settings.float_twin else BINARY, 0, 0.0, None, [])
        self.tensors: dict[str, Tensor] = {}
        if (run / runs.RESUME).exists():
            self._restore()
        self.since = time.monotonic() - self.state.seconds

    def go(self) -> None:
        """Train every phase that is not done, then close the run."""
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            if self.state.phase == FLOAT:
                self._fit(None)
                self.state.phase, self.state.epoch = BINARY, 0
                self.tensors = {}
                torch.manual_seed(self.settings.seed)
            self._fit(self.quantizer)
        self.description["finished"] = True
        runs.write_description(self.run, self.description)
        (self.run / runs.RESUME).unlink(missing_ok=True)

    def _fit(self, quantizer: Quantizer | None) -> None:
        settings, state = self.settings, self.state
        network = _network(settings, self.dataset, quantizer)
        moments = self._restore_network(network)
        limit, size = settings.limit, settings.batch_size
        batches = Batches(self.dataset, limit, size, settings.seed, state.epoch)
        steps = Progress(state.epoch * len(batches), settings.epochs * len(batches))
        phase = Phase(
            network,
            quantizer,
            settings.learning_rate,
            steps,
            moments,
            self.display.step,
            self._end_epoch,
        )
        title = "full precision" if quantizer is None else f"{quantizer.name} {settings.mode}"
        self.display.start(title, steps.step, steps.steps)
        if state.epoch < settings.epochs:
            fit(phase, batches, settings.epochs - state.epoch, settings.precision)

    def _end_epoch(self, phase: Phase) -> None:
        """Evaluate, show and write; the checkpoint comes last, so that it never runs ahead."""
        self.state.epoch += 1
        line = {"phase": self.state.phase, "epoch": self.state.epoch, "loss": phase.mean_loss()}
        if phase.quantizer is None:
            line |= self._evaluate_float(phase.network)
        else:
            line |= self._evaluate_binary(phase.network)
        self.state.seconds = line["seconds"] = round(time.monotonic() - self.since, 3)
        self.description["seconds"] = self.state.seconds
        self.state.metrics.append(line)
        self.display.line(_sentence(line, self.settings.epochs))
        runs.write_metrics(self.run, self.state.metrics)
        runs.write_description(self.run, self.description)
        self._checkpoint(phase)

    def _evaluate_float(self, network: nn.Module) -> dict[str, float]:
        share = accuracy(network, self.dataset, self.settings.precision)
        self.state.float_accuracy = self.description["float_accuracy"] = share
        return {"float_accuracy": share}

    def _evaluate_binary(self, network: nn.Module) -> dict[str, float]:
        result = {
            "soft_accuracy": accuracy(network, self.dataset, self.settings.precision),
            "hard_accuracy": hard_accuracy(network, self.dataset),
        }
        self.description |= result | {"epochs": self.state.epoch}
        runs.write_tensors(self.run / runs.MODEL, network.state_dict())
        frozen = frozen_share(network)
        if frozen > MOSTLY_FROZEN and self.state.epoch < self.settings.epochs:
            self.display.warn(
                f"{frozen:.0%} of the latent weights have no gradient any more (|B| < 0.001)"
            )
        return result | {"frozen": frozen}

    def _checkpoint(self, phase: Phase) -> None:
        tensors = {f"network.{name}": t for name, t in phase.network.state_dict().items()}
        tensors |= {f"adam.{name}": t for name, t in saved_moments(phase.adam).items()}
        tensors["random"] = torch.get_rng_state()
        state = json.dumps(asdict(self.state))
        runs.write_tensors(self.run / runs.RESUME, tensors, {"state": state})

    def _restore(self) -> None:
        path = self.run / runs.RESUME
        self.tensors, strings = runs.read_tensors(path)
        try:
            self.state = State(**json.loads(strings["state"]))
            _check_state(self.state, self.settings)
        except (KeyError, TypeError, ValueError, RecursionError):
            raise BindeployError(f"`{path}` is damaged: train again") from None

    def _restore_network(self, network: nn.Module) -> dict[str, Tensor]:
        """Bring back weights and random state; returns the optimizer's moments."""
        if not self.tensors:
            return {}
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "adam": {}}
        for name, tensor in self.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        path = self.run / runs.RESUME
        fault = runs.misfit(parts["network"], network.state_dict())
        fault = fault or runs.misfit(parts["adam"], expected_moments(network))
        if fault:
            raise BindeployError(f"`{path}` does not fit its model ({fault}): train again")
        try:
            network.load_state_dict(parts["network"])
            torch.set_rng_state(self.tensors["random"])
        except (KeyError, RuntimeError, TypeError):
            raise BindeployError(f"`{path}` is damaged: train again") from None
        return parts["adam"]


def _check_state(state: State, settings: Settings) -> None:
    """Raise TypeError or ValueError for a state that no training of these settings can be in."""
    if state.phase not in (FLOAT, BINARY) or not isinstance(state.metrics, list):
        raise ValueError(f"phase {state.phase!r}")
    if type(state.epoch) is not int or not 0 <= state.epoch <= settings.epochs:
        raise ValueError(f"epoch {state.epoch!r}")
    if not math.isfinite(state.seconds) or not math.isfinite(state.float_accuracy or 0.0):
        raise ValueError("not finite")


def _sentence(line: dict[str, Any], epochs: int) -> str:
    accuracies = "  ".join(
        f"{kind} {100 * line[f'{kind}_accuracy']:.2f} %"
        for kind in ("float", "soft", "hard")
        if f"{kind}_accuracy" in line
    )
    return f"{line['phase']} epoch {line['epoch']}/{epochs}  loss {line['loss']:.4f}  {accuracies}"
