"""One training phase as a Lightning module: optimizer, learning rate and sharpness by the step."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.train import devices, optimizers, updates
from bindeploy.train.batches import Batches
from bindeploy.train.distillation import distillation_loss
from bindeploy.train.learning_rates import learning_rate_at
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.schedules import Moment, sharpness_at
from bindeploy.train.settings import Settings
from bindeploy.train.states import set_sharpness, signs
from bindeploy.train.synchronized import synchronized

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""Lightning's word for the type that training computes in; weights are float32 in any case."""


@dataclass
class Progress:
    """Where a phase stands: `step` of `steps` optimizer steps are taken, `epoch_steps` an epoch."""

    step: int
    steps: int
    epoch_steps: int

    @property
    def epoch(self) -> int:
        """Whole epochs taken."""
        return self.step // self.epoch_steps


class Phase(lightning.LightningModule):
    """Trains `network`; with a `quantizer`, its binary layers follow the method's rule.

    Learning rate, mu and random numbers are functions of the step alone, so that the optimizer's
    state and the step are all that a resumed phase has to know.
    """

    def __init__(
        self,
        network: nn.Module,
        quantizer: Quantizer | None,
        settings: Settings,
        progress: Progress,
        moments: dict[str, Tensor],
        teacher: nn.Module | None,
        on_step: Callable[[int, Tensor], None],
        on_epoch: Callable[[Phase], None],
    ) -> None:
        super().__init__()
        self.network = network
        self.quantizer = quantizer
        self.settings = settings
        self.progress = progress
        self.moments = moments
        # In a list, so that Lightning neither trains nor sends it between processes as ours.
        self.teacher = [teacher.eval()] if teacher is not None else []
        self.on_step = on_step
        self.on_epoch = on_epoch
        self.losses: list[Tensor] = []
        self.signs_before: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        given = self.settings
        self.optimizer = optimizers.build(
            given.optimizer, self.network, given.learning_rate, given.weight_decay
        )
        restore_moments(self.optimizer, self.moments)
        return self.optimizer

    def on_fit_start(self) -> None:
        for teacher in self.teacher:
            teacher.to(self.device)

    def on_train_epoch_start(self) -> None:
        self.signs_before = signs(self.network)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        given, progress = self.settings, self.progress
        torch.manual_seed(seed_of_step(given.seed, progress.step))
        rate = learning_rate_at(
            given.learning_rate,
            progress.step,
            progress.steps,
            progress.epoch_steps,
            given.warmup,
            given.milestones,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.quantizer is not None:
            moment = Moment(progress.step, progress.steps, progress.epoch, given.learning_rate)
            set_sharpness(self.network, sharpness_at(self.quantizer.schedule, moment))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if images.shape[2] > 1:  # an image of one pixel has both formats, and torch takes the other
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.network(images)
        loss = functional.cross_entropy(
            logits, labels, label_smoothing=self.settings.label_smoothing
        )
        for teacher in self.teacher:
            with torch.no_grad():
                taught = teacher(images)
            share, temperature = self.settings.distillation, self.settings.temperature
            distance = distillation_loss(logits.float(), taught.float(), temperature)
            loss = (1 - share) * loss + share * distance
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.quantizer is not None:
            updates.before_step(self.network)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        assert isinstance(outputs, dict)
        loss = outputs["loss"].detach()
        self.losses.append(loss)
        if self.quantizer is not None:
            updates.after_step(self.network)
        self.progress.step += 1
        self.on_step(self.progress.step, loss)

    def on_train_epoch_end(self) -> None:
        self.on_epoch(self)
        self.losses.clear()

    def mean_loss(self) -> float:
        """Mean training loss of the epoch so far, over all processes: every one has to ask."""
        return devices.total(float(torch.stack(self.losses).mean())) / devices.ranks()

    def flip_ratio(self) -> float:
        """The share of binary weights whose sign is not that of the epoch's start."""
        before, now = self.signs_before, signs(self.network)
        flipped = sum(int((now[name] != before[name]).sum()) for name in before)
        return flipped / max(1, sum(each.numel() for each in before.values()))


def seed_of_step(seed: int, step: int) -> int:
    """What a step's random numbers start from, on every device and in every process.

    A method that draws in its forward, or rounds at random, needs no state of a generator to be
    resumed.
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """In the order in which the optimizer's state counts them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def saved_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts as `{"index.key": tensor}`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value
        for index, row in state.items()
        for key, value in row.items()
        if isinstance(value, Tensor)
    }


def misfit_of_moments(
    moments: Mapping[str, Tensor], network: nn.Module, settings: Settings
) -> str | None:
    """Why `moments` are not the state of the settings' optimizer on `network`; None if they are."""
    built = optimizers.build(
        settings.optimizer, copy.deepcopy(network), settings.learning_rate, settings.weight_decay
    )
    for parameter in _parameters(built):
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    expected = saved_moments(built)
    for name, value in moments.items():
        like = expected.get(name)
        if like is None:
            return f"`{name}` is of another optimizer"
        if value.shape != like.shape or value.dtype != like.dtype:
            return f"`{name}` is {value.dtype} {list(value.shape)}"
        if not value.isfinite().all():
            return f"`{name}` holds numbers that are not finite"
        if not value.dim() and value < like:
            return f"`{name}` counts {float(value):g} steps"
    # A parameter without a gradient has no moments, another has them all.
    moved = {name.partition(".")[0] for name in moments}
    for name in expected:
        if name.partition(".")[0] in moved and name not in moments:
            return f"`{name}` is missing"
    return None


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """The inverse of `saved_moments`; none leaves the optimizer as it is."""
    if not moments:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def fit(phase: Phase, batches: Batches, epochs: int) -> None:
    """Train for `epochs` more epochs. An interruption raises KeyboardInterrupt."""
    given = phase.settings
    arguments: dict[str, Any] = devices.trainer_arguments(
        given.devices,
        given.num_nodes,
        given.strategy,
        given.accelerator,
        PRECISIONS[given.precision],
    )
    with devices.quiet():
        trainer = lightning.Trainer(
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            with _one_batch_norm(phase.network, trainer):
                trainer.fit(phase, batches)
        except SystemExit:
            # Lightning turns an interruption into an exit, and ignores further ones.
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        if trainer.interrupted:
            raise KeyboardInterrupt


def _one_batch_norm(network: nn.Module, trainer: lightning.Trainer) -> AbstractContextManager:
    """Where several processes train, BatchNorm sees the batches of all."""
    if devices.ranks() == 1:
        return nullcontext()
    return synchronized(network, trainer.strategy.root_device.type)
