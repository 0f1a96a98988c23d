"""One training phase as a Lightning module: Adam, a cosine learning rate, a rising sharpness."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lightning.pytorch as lightning
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.train.batches import Batches
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.schedules import cosine_learning_rate, sharpness_at
from bindeploy.train.states import clip_latents, set_sharpness

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""Lightning's word for the type that training computes in; weights are float32 in any case."""


@dataclass
class Progress:
    """Where a phase stands: `step` of `steps` optimizer steps are taken."""

    step: int
    steps: int


class Phase(lightning.LightningModule):
    """Trains `network`; with a `quantizer`, its binary layers follow the method's schedule.

    Learning rate and mu are functions of the step alone, so that the optimizer's moments and the
    step are all that a resumed phase has to know.
    """

    def __init__(
        self,
        network: nn.Module,
        quantizer: Quantizer | None,
        learning_rate: float,
        progress: Progress,
        moments: dict[str, Tensor],
        on_step: Callable[[int, float], None],
        on_epoch: Callable[[Phase], None],
    ) -> None:
        super().__init__()
        self.network = network
        self.quantizer = quantizer
        self.learning_rate = learning_rate
        self.progress = progress
        self.moments = moments
        self.on_step = on_step
        self.on_epoch = on_epoch
        self.losses: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.adam = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        restore_moments(self.adam, self.moments)
        return self.adam

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        step, steps = self.progress.step, self.progress.steps
        for group in self.adam.param_groups:
            group["lr"] = cosine_learning_rate(self.learning_rate, step, steps)
        if self.quantizer is not None:
            set_sharpness(self.network, sharpness_at(self.quantizer.schedule, step, steps))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if images.shape[2] > 1:
            images = images.contiguous(memory_format=torch.channels_last)
        return functional.cross_entropy(self.network(images), labels)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        assert isinstance(outputs, dict)
        loss = outputs["loss"].detach()
        self.losses.append(loss)
        clip_latents(self.network)
        self.progress.step += 1
        self.on_step(self.progress.step, float(loss))

    def on_train_epoch_end(self) -> None:
        self.on_epoch(self)
        self.losses.clear()

    def mean_loss(self) -> float:
        """Mean training loss of the epoch so far."""
        return float(torch.stack(self.losses).mean())


def saved_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as `{"index.key": tensor}`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, row in state.items() for key, value in row.items()}


def expected_moments(network: nn.Module) -> dict[str, Tensor]:
    """What `saved_moments` gives for Adam on `network`, in names, shapes and types."""
    moments = {}
    for index, parameter in enumerate(network.parameters()):
        moments[f"{index}.step"] = torch.zeros(())
        moments[f"{index}.exp_avg"] = moments[f"{index}.exp_avg_sq"] = parameter.detach()
    return moments


def restore_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """The inverse of `saved_moments`; none leaves the optimizer as it is."""
    if not moments:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def fit(phase: Phase, batches: Batches, epochs: int, precision: str) -> None:
    """Train for `epochs` more epochs. An interruption raises KeyboardInterrupt."""
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            precision=PRECISIONS[precision],  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(phase, batches)
        except SystemExit:
            # Lightning turns an interruption into an exit, and ignores further ones.
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        if trainer.interrupted:
            raise KeyboardInterrupt


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without the notes and advice that Lightning prints around every training."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
