"""Batches of normalized images for one epoch after another, the same for a seed on every run.

However many processes make them, and however many share a batch, they hold the same numbers.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from bindeploy.errors import BindeployError, unknown
from bindeploy.train.augmentation import AUGMENTATIONS, Augmentation
from bindeploy.train.data import Dataset, Normalization, Split

Batch = tuple[Tensor, Tensor]
"""Normalized images float32 [N, C, H, W] and labels int64 [N]."""


class Batches:
    """The shuffled, augmented training batches: each iteration is the next epoch.

    The order depends on `seed` and the number of the epoch alone, the augmentation on these and the
    number of the batch, so that a resumed run sees what an uninterrupted one would have seen. A
    last batch that is not whole is left out.

    `augmentation=None` is the dataset's own. Of `ranks` processes, each with its `rank`, everyone
    makes its equal slice, `batch_size` images, of the batch that one process would make with
    `batch_size * ranks`. `workers` processes make the batches ahead, 0 makes them here when they
    are asked for; one iteration runs at a time, and the workers stay until `close`.

    A batch is no larger than the dataset. Numbers that do not fit raise BindeployError.
    """

    def __init__(
        self,
        dataset: Dataset,
        limit: int | None,
        batch_size: int,
        seed: int,
        epoch: int,
        *,
        workers: int = 0,
        augmentation: str | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        name = augmentation or dataset.source.augmentation
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
        _check_numbers(workers, rank, ranks)
        self.split = dataset.train.first(limit)
        count = len(self.split.labels)
        if count < ranks:
            raise BindeployError(f"`{dataset.name}` has {count} images for {ranks} processes")
        self.batch_size = min(batch_size, count // ranks)
        self.whole_size = self.batch_size * ranks
        self.epoch = epoch
        part = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        make = _Training(
            self.split,
            dataset.source.normalization,
            AUGMENTATIONS[name],
            seed,
            self.whole_size,
            part,
        )
        self.workers = _Workers(make, workers)

    def __len__(self) -> int:
        return len(self.split.labels) // self.whole_size

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self.epoch += 1
        yield from self.workers.made([(epoch, batch) for batch in range(len(self))])

    def close(self) -> None:
        """End the workers; another iteration would start them again."""
        self.workers.close()


def in_order(
    split: Split,
    normalization: Normalization,
    batch_size: int,
    *,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """All of `split`, unshuffled; of several ranks, each has every `ranks`-th batch."""
    _check_numbers(workers, rank, ranks)
    starts = range(rank * batch_size, len(split.labels), ranks * batch_size)
    processes = _Workers(_Evaluation(split, normalization, batch_size), min(workers, len(starts)))
    try:
        yield from processes.made(starts)
    finally:
        processes.close()


def to_tensor(images: NDArray[np.uint8], normalization: Normalization) -> Tensor:
    """Normalized float32 tensor [N, C, H, W] of uint8 images."""
    return torch.from_numpy(normalization(images))


def _check_numbers(workers: int, rank: int, ranks: int) -> None:
    if workers < 0:
        raise BindeployError(f"workers `{workers}`: give 0 or more processes")
    if not 0 <= rank < ranks:
        raise BindeployError(f"rank `{rank}`: give 0 or more, below the {ranks} processes")


class _Training:
    """Makes batch `number` of epoch `epoch`, or its `part`, in whichever process it is called."""

    def __init__(
        self,
        split: Split,
        normalization: Normalization,
        augmentation: Augmentation,
        seed: int,
        size: int,
        part: slice,
    ) -> None:
        self.split, self.normalization, self.augmentation = split, normalization, augmentation
        self.seed, self.size, self.part = seed, size, part
        self.ordered: int | None = None

    def __call__(self, key: tuple[int, int]) -> Batch:
        epoch, number = key
        if epoch != self.ordered:
            generator = np.random.default_rng([self.seed, epoch])
            self.order, self.ordered = generator.permutation(len(self.split.labels)), epoch
        chosen = self.order[number * self.size : (number + 1) * self.size][self.part]
        generator = np.random.default_rng([self.seed, epoch, number])
        draws = self.augmentation.draw(self.size, generator)[self.part]
        images = self.augmentation.of(self.split.images, chosen, draws)
        return to_tensor(images, self.normalization), torch.from_numpy(self.split.labels[chosen])


class _Evaluation:
    """Makes the batch that starts at an image, in whichever process it is called."""

    def __init__(self, split: Split, normalization: Normalization, size: int) -> None:
        self.split, self.normalization, self.size = split, normalization, size

    def __call__(self, start: int) -> Batch:
        part = slice(start, start + self.size)
        labels = torch.from_numpy(self.split.labels[part])
        return to_tensor(self.split.images[part], self.normalization), labels


class _Workers:
    """`count` processes that call `make`; 0: this one does. They stay until `close`."""

    def __init__(self, make: Callable[[Any], Batch], count: int) -> None:
        self.make, self.count = make, count
        self.keys: list[Any] = []
        self.loader: DataLoader[Any] | None = None
        self.running: Any = None

    def made(self, keys: Sequence[Any]) -> Iterator[Batch]:
        """`make(key)` for each of `keys`, in their order."""
        if not self.count:
            yield from map(self.make, keys)
            return
        self.keys[:] = keys
        self._start()
        for _ in keys:
            try:
                batch = next(self.running)
            except RuntimeError as error:
                self.close()
                if "exited unexpectedly" not in str(error):
                    raise
                raise BindeployError(
                    f"one of {self.count} workers was ended from outside, perhaps for want of"
                    " memory: take fewer workers"
                ) from None
            except BaseException:
                self.close()
                raise
            if isinstance(batch, BindeployError):
                self.close()
                raise batch
            yield batch

    def _start(self) -> None:
        """Start the processes, or let those that wait begin with `keys`."""
        with _silently():
            if self.loader is None:
                self.loader = DataLoader(
                    _Making(self.make),  # type: ignore[arg-type]
                    batch_size=None,
                    sampler=self.keys,
                    num_workers=self.count,
                    collate_fn=_as_it_is,
                    persistent_workers=True,
                    # Copies of this process share its images; elsewhere copies are unsafe.
                    multiprocessing_context="fork" if sys.platform == "linux" else None,
                    # One of its own, since a DataLoader draws a number nobody here needs.
                    generator=torch.Generator(),
                )
            self.running = iter(self.loader)

    def close(self) -> None:
        running, self.running, self.loader = self.running, None, None
        if running is not None:
            running._shutdown_workers()


class _Making:
    """What a worker holds: batches by their keys; bad input comes back as a value, in one line."""

    def __init__(self, make: Callable[[Any], Batch]) -> None:
        self.make = make

    def __getitem__(self, key: Any) -> Batch | BindeployError:
        try:
            return self.make(key)
        except BindeployError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _silently() -> Iterator[None]:
    """Processes started here get no Ctrl-C: this one does, and ends them.

    Nor is there advice about their number or about threads at a fork: the workers use none.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
