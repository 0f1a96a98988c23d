"""One training from its first epoch, or from where it was interrupted, to its end."""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train import devices, networks, updates
from bindeploy.train import run as runs
from bindeploy.train.batches import Batches
from bindeploy.train.data import Dataset
from bindeploy.train.evaluate import count_right
from bindeploy.train.module import Phase, Progress, fit, misfit_of_moments, saved_moments
from bindeploy.train.progress import Display
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.recalibration import recalibrated
from bindeploy.train.settings import Settings
from bindeploy.train.states import FROZEN, frozen_share, harden, soften

FLOAT, BINARY = "float", "binary"

MOSTLY_FROZEN = 0.9
"""From this share of latent weights without a gradient on, training warns."""

WIDE_GAP, LATE = 0.02, 0.75
"""How far hard may stay below soft accuracy in the last quarter of training without a warning."""


@dataclass
class State:
    """How far a training has come: `epoch` epochs of `phase` are done."""

    phase: str
    epoch: int
    seconds: float
    float_accuracy: float | None
    metrics: list[dict[str, Any]]


class Training:
    """The phases of a run, and what is written after every epoch.

    Of the processes that train together only the main one writes, and all read the same.
    """

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
        self.main = devices.is_main()
        self.state = State(FLOAT if settings.float_twin else BINARY, 0, 0.0, None, [])
        self.tensors: dict[str, Tensor] = {}
        self.warned: set[str] = set()
        if (run / runs.RESUME).exists():
            self._restore()
        self.since = time.monotonic() - self.state.seconds

    def go(self) -> None:
        """Train every phase that is not done, then close the run."""
        with torch.random.fork_rng():
            if self.state.phase == FLOAT:
                self._fit(None)
            if self.quantizer.binary:
                if self.state.phase == FLOAT:
                    self.state.phase, self.state.epoch, self.tensors = BINARY, 0, {}
                self._fit(self.quantizer)
        self.description["finished"] = True
        if self.main:
            runs.write_description(self.run, self.description)
            (self.run / runs.RESUME).unlink(missing_ok=True)

    def _fit(self, quantizer: Quantizer | None) -> None:
        settings, state = self.settings, self.state
        network = networks.started(settings, self.dataset, quantizer, self.run, self.display.line)
        updates.start(network)
        moments = self._restore_network(network)
        batches = self._batches(state.epoch, settings.workers)
        taken = Progress(state.epoch * len(batches), settings.epochs * len(batches), len(batches))
        taught = quantizer is not None
        phase = Phase(
            network,
            quantizer,
            settings,
            taken,
            moments,
            networks.teacher(settings, self.dataset, self.run) if taught else None,
            self.display.step,
            self._end_epoch,
        )
        title = "full precision" if quantizer is None else f"{quantizer.name} {settings.mode}"
        self.display.start(title, taken.step, taken.steps)
        try:
            if state.epoch < settings.epochs:
                fit(phase, batches, settings.epochs - state.epoch)
        finally:
            batches.close()

    def _batches(self, epoch: int, workers: int) -> Batches:
        settings = self.settings
        assert settings.batch_size is not None
        return Batches(
            self.dataset,
            settings.limit,
            settings.batch_size,
            settings.seed,
            epoch,
            workers=workers,
            augmentation=settings.augmentation,
            rank=devices.rank(),
            ranks=devices.ranks(),
        )

    def _end_epoch(self, phase: Phase) -> None:
        """Evaluate, show and write; the checkpoint comes last, so that it never runs ahead."""
        loss = phase.mean_loss()
        self._refuse_divergence(phase, loss)
        self.state.epoch += 1
        line = {"phase": self.state.phase, "epoch": self.state.epoch, "loss": loss}
        if phase.quantizer is None:
            line |= self._evaluate_float(phase.network)
        else:
            line |= self._evaluate_binary(phase)
        self.state.seconds = line["seconds"] = round(time.monotonic() - self.since, 3)
        self.description["seconds"] = self.state.seconds
        self.state.metrics.append(line)
        self.display.line(_sentence(line, self.settings.epochs))
        if phase.quantizer is not None:
            self._warn(line)
        devices.from_main(lambda: self._write(phase))  # the others wait: they may read it next

    def _refuse_divergence(self, phase: Phase, loss: float) -> None:
        """Numbers that are not finite never become finite again: keep the epoch before them."""
        tensors = [*phase.network.state_dict().values(), *saved_moments(phase.optimizer).values()]
        if not (math.isfinite(loss) and all(bool(t.isfinite().all()) for t in tensors)):
            raise BindeployError(
                f"training diverged in epoch {self.state.epoch + 1} of the {self.state.phase}"
                f" network (loss {loss:g}, numbers that are not finite): train again with a smaller"
                " --learning-rate"
            )

    def _write(self, phase: Phase) -> None:
        runs.write_metrics(self.run, self.state.metrics)
        runs.write_description(self.run, self.description)
        self._checkpoint(phase)

    def _evaluate_float(self, network: nn.Module) -> dict[str, float]:
        share = self._accuracy(network, self.settings.precision)
        self.state.float_accuracy = self.description["float_accuracy"] = share
        if not self.quantizer.binary:
            self.description["epochs"] = self.state.epoch
        if self.main:
            name = runs.FLOAT if self.quantizer.binary else runs.MODEL
            runs.write_tensors(self.run / name, network.state_dict())
        return {"float_accuracy": share}

    def _evaluate_binary(self, phase: Phase) -> dict[str, float]:
        network = phase.network
        result = {"soft_accuracy": self._accuracy(network, self.settings.precision)}
        result["hard_accuracy"] = self._ship(network)
        self.description |= result | {"epochs": self.state.epoch}
        result |= {
            "flip_ratio": phase.flip_ratio(),
            "frozen": frozen_share(network),
            "gap": result["soft_accuracy"] - result["hard_accuracy"],
        }
        return result

    def _accuracy(self, network: nn.Module, precision: str) -> float:
        """Each process takes its share of the test images."""
        rank, ranks = devices.rank(), devices.ranks()
        right = count_right(network, self.dataset, precision, self.settings.workers, rank, ranks)
        return devices.total(right) / len(self.dataset.test.labels)

    def _ship(self, network: nn.Module) -> float:
        """Evaluate and write the network with weights that are signs, as it is exported.

        In float32, where every integer is exact.
        """
        settings = self.settings
        again: AbstractContextManager = nullcontext()
        harden(network)
        try:
            if settings.recalibrate:
                images = (batch for batch, _ in self._batches(0, workers=0))
                again = recalibrated(network, images, settings.recalibrate)
            with again:
                if self.main:
                    runs.write_tensors(self.run / runs.MODEL, network.state_dict())
                return self._accuracy(network, "float32")
        finally:
            soften(network)

    def _warn(self, result: dict[str, Any]) -> None:
        """Say once in words when training freezes, or when what is shipped stays behind."""
        epoch, epochs = self.state.epoch, self.settings.epochs
        if result["frozen"] > MOSTLY_FROZEN and epoch < epochs:
            self._warn_once(
                "frozen",
                f"{result['frozen']:.0%} of the latent weights have no gradient any more (|B| <"
                f" {FROZEN:g}): the signs stay from here on; a method whose B is wider, as bc or"
                " pc, goes on learning",
            )
        if result["gap"] > WIDE_GAP and epoch >= LATE * epochs:
            self._warn_once(
                "gap",
                f"hard accuracy stays {100 * result['gap']:.1f} points below soft: what is shipped"
                " is not yet what is trained; more epochs close the gap"
                + ("" if self.settings.recalibrate else ", or --recalibrate 100"),
            )

    def _warn_once(self, kind: str, text: str) -> None:
        if self.main and kind not in self.warned:
            self.display.warn(text)
        self.warned.add(kind)

    def _checkpoint(self, phase: Phase) -> None:
        tensors = {f"network.{name}": t for name, t in phase.network.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in saved_moments(phase.optimizer).items()}
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
        """Bring back weights; returns the optimizer's moments."""
        if not self.tensors:
            return {}
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
        for name, tensor in self.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        path = self.run / runs.RESUME
        fault = runs.misfit(parts["network"], network.state_dict())
        fault = fault or misfit_of_moments(parts["optimizer"], network, self.settings)
        if fault:
            raise BindeployError(f"`{path}` does not fit its model ({fault}): train again")
        network.load_state_dict(parts["network"])
        return parts["optimizer"]


def _check_state(state: State, settings: Settings) -> None:
    """Raise TypeError or ValueError for a state that no training of these settings can be in."""
    if state.phase not in (FLOAT, BINARY):
        raise ValueError(f"phase {state.phase!r}")
    if not isinstance(state.metrics, list) or not all(map(_is_line, state.metrics)):
        raise ValueError("metrics")
    if type(state.epoch) is not int or not 0 <= state.epoch <= settings.epochs:
        raise ValueError(f"epoch {state.epoch!r}")
    if not 0 <= state.seconds <= runs.LARGEST_NUMBER:
        raise ValueError(f"seconds {state.seconds!r}")
    if state.float_accuracy is not None and not 0 <= state.float_accuracy <= 1:
        raise ValueError(f"float_accuracy {state.float_accuracy!r}")


def _is_line(line: object) -> bool:
    """What `_end_epoch` makes: a flat object."""
    flat = str | int | float | None
    return isinstance(line, dict) and all(isinstance(value, flat) for value in line.values())


def _sentence(line: dict[str, Any], epochs: int) -> str:
    accuracies = "  ".join(
        f"{kind} {100 * line[f'{kind}_accuracy']:.2f} %"
        for kind in ("float", "soft", "hard")
        if f"{kind}_accuracy" in line
    )
    return f"{line['phase']} epoch {line['epoch']}/{epochs}  loss {line['loss']:.4f}  {accuracies}"
