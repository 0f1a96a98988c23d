"""Batches of normalized images for one epoch after another, the same for a seed on every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bindeploy.train.data import Dataset, Normalization, Split

Images = NDArray[np.uint8]

PADDING = 4


def unchanged(images: Images, generator: np.random.Generator) -> Images:
    """No augmentation."""
    return images


def crop_and_flip(images: Images, generator: np.random.Generator) -> Images:
    """Pad by 4 black pixels, crop the old size at a random place, mirror every other image.

    The usual augmentation of CIFAR-10 (He et al., 2015, section 4.2).
    """
    count, _, height, width = images.shape
    edges = ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING))
    padded = np.pad(images, edges)
    top, left = generator.integers(0, 2 * PADDING + 1, (2, count, 1))
    rows = top + np.arange(height)
    columns = left + np.arange(width)
    mirrored = generator.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    image = np.arange(count)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)


AUGMENTATIONS: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "none": unchanged,
    "crop-flip": crop_and_flip,
}
"""Every augmentation by its name: images uint8 [N, C, H, W] and a generator -> images."""


class Batches:
    """The shuffled, augmented training batches: each iteration is the next epoch.

    Order and augmentation depend on `seed` and the number of the epoch alone, so that a resumed run
    sees what an uninterrupted one would have seen. A last batch that is not whole is left out.
    """

    def __init__(
        self, dataset: Dataset, limit: int | None, batch_size: int, seed: int, epoch: int
    ) -> None:
        self.split = dataset.train.first(limit)
        self.normalization = dataset.source.normalization
        self.augment = AUGMENTATIONS[dataset.source.augmentation]
        self.batch_size = min(batch_size, len(self.split.labels))
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.split.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = generator.permutation(len(self.split.labels))
        for batch in range(len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            images = self.augment(self.split.images[chosen], generator)
            yield to_tensor(images, self.normalization), torch.from_numpy(self.split.labels[chosen])


def to_tensor(images: Images, normalization: Normalization) -> Tensor:
    """Normalized float32 tensor [N, C, H, W] of uint8 images."""
    return torch.from_numpy(normalization(images))


def in_order(
    split: Split, normalization: Normalization, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `split`, unshuffled, as (normalized images, labels)."""
    for start in range(0, len(split.labels), batch_size):
        part = slice(start, start + batch_size)
        labels = torch.from_numpy(split.labels[part])
        yield to_tensor(split.images[part], normalization), labels
