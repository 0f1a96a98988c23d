"""The datasets: one row of `DATASETS` each, as numpy arrays or read lazily, without torch.

The input of a network is the normalized image `(pixel / pixel_max - mean) / std`, float32 NCHW; the
three constants are recorded with every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bindeploy.errors import BindeployError, unknown
from bindeploy.train import cifar, idx

CACHE = Path("~/.cache/bindeploy/data")
"""Where datasets are looked for when no folder is given."""

LARGEST_SIZE = 2**14
"""Pixels along a side beyond which a size is taken for a mistake."""


class Images(Protocol):
    """Images uint8 [N, C, H, W]: an array, or what reads them when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Any, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N].

    Image folders are in the order of one image of each class in turn, the others as published.
    """

    images: Images
    labels: NDArray[np.int64]

    def first(self, count: int | None) -> Split:
        """The first `count` images, or all."""
        images: Any = self.images
        if not isinstance(images, np.ndarray):
            return Split(images.first(count), self.labels[:count])
        return Split(images[:count], self.labels[:count])

    def at(self, size: int) -> Split:
        """The same images as `size` x `size` pixels."""
        from bindeploy.train.image_folder import Files, Resized

        if self.images.shape[2:] == (size, size):
            return self
        if isinstance(self.images, Files):
            return replace(self, images=self.images.at(size))
        return replace(self, images=Resized(self.images[:], size))


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Constants of `(pixel / pixel_max - mean) / std`; mean and std have one entry a channel."""

    pixel_max: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalized float32 images of the same shape [N, C, H, W]."""
        mean = np.array(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(self.std, np.float32).reshape(-1, 1, 1)
        values = images.astype(np.float32)
        values /= np.float32(self.pixel_max)
        values -= mean
        values /= std
        return values


@dataclass(frozen=True)
class Dataset:
    """A dataset: its splits, the names of its classes, and its row of `DATASETS`."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    source: Source

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width


Loaded = tuple[Split, Split, tuple[str, ...]]
Counts = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A row of `DATASETS`: how it is read, normalized and augmented, and trained by default.

    `read(folder)` gives the two splits and the class names; `marker` is the file by which a folder
    is recognized (None: the data are embedded and need no folder) and `folder` its published name.
    `augmentation` names a row of `augmentation.AUGMENTATIONS`. `counts` are how many images of each
    class were published, for training and for testing: others are refused (None: any will do).
    """

    name: str
    read: Callable[[Path], Loaded]
    normalization: Normalization
    folder: str | None = None
    marker: str | None = None
    counts: tuple[Counts, Counts] | None = None
    augmentation: str = "none"
    batch_size: int = 128


def _digits(folder: Path) -> Loaded:
    """scikit-learn's embedded 8x8 digits; every fifth image of each class is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    held_out = np.concatenate([np.flatnonzero(labels == digit)[::5] for digit in range(10)])
    is_test = np.zeros(len(labels), bool)
    is_test[held_out] = True
    train = Split(images[~is_test], labels[~is_test])
    return train, Split(images[is_test], labels[is_test]), tuple("0123456789")


def _idx(classes: tuple[str, ...]) -> Callable[[Path], Loaded]:
    """Reader of the four files of MNIST, or of a dataset published like it."""

    def read_split(folder: Path, prefix: str) -> Split:
        images = idx.read(_present(folder / f"{prefix}-images-idx3-ubyte.gz"), 3)
        labels = idx.read(_present(folder / f"{prefix}-labels-idx1-ubyte.gz"), 1)
        if len(images) != len(labels) or not len(images) or labels.max() >= len(classes):
            raise BindeployError(
                f"the labels of `{prefix}` in `{folder}` do not match its {len(images)} images:"
                " download the four files again"
            )
        return Split(images[:, None], labels.astype(np.int64))

    def read(folder: Path) -> Loaded:
        return read_split(folder, "train"), read_split(folder, "t10k"), classes

    return read


def _cifar10(folder: Path) -> Loaded:
    classes = cifar.read_class_names(_present(folder / "batches.meta"))
    batches = [cifar.read_batch(_present(folder / f"data_batch_{n}")) for n in range(1, 6)]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Split(images, labels), Split(*cifar.read_batch(_present(folder / "test_batch"))), classes


def _cifar100(folder: Path) -> Loaded:
    classes = cifar.read_class_names(_present(folder / "meta"), cifar.CIFAR100)
    train, test = (
        Split(*cifar.read_batch(_present(folder / name), cifar.CIFAR100))
        for name in ("train", "test")
    )
    return train, test, classes


def _image_folder(folder: Path) -> Loaded:
    from bindeploy.train import image_folder

    train, test, classes = image_folder.read_folder(folder)
    return Split(*train), Split(*test), classes


def _present(path: Path) -> Path:
    if not path.is_file():
        raise BindeployError(f"`{path}` is missing: the dataset needs all its published files")
    return path


FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

MNIST_COUNTS = (
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
)

_ROWS = (
    Source(
        name="digits",
        read=_digits,
        normalization=Normalization(pixel_max=16, mean=(0.3053,), std=(0.3760,)),
        batch_size=64,
    ),
    Source(
        name="mnist",
        read=_idx(tuple("0123456789")),
        normalization=Normalization(pixel_max=255, mean=(0.1307,), std=(0.3081,)),
        folder="mnist",
        marker="train-images-idx3-ubyte.gz",
        counts=MNIST_COUNTS,
    ),
    Source(
        name="fashion-mnist",
        read=_idx(FASHION),
        normalization=Normalization(pixel_max=255, mean=(0.2860,), std=(0.3530,)),
        folder="fashion-mnist",
        marker="train-images-idx3-ubyte.gz",
        counts=((6000,) * 10, (1000,) * 10),
    ),
    Source(
        name="cifar10",
        read=_cifar10,
        normalization=Normalization(
            pixel_max=255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
        ),
        folder="cifar-10-batches-py",
        marker="batches.meta",
        counts=((5000,) * 10, (1000,) * 10),
        augmentation="crop-flip",
    ),
    Source(
        name="cifar100",
        read=_cifar100,
        normalization=Normalization(
            pixel_max=255, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
        ),
        folder="cifar-100-python",
        marker="meta",
        counts=((500,) * 100, (100,) * 100),
        augmentation="crop-flip",
    ),
    Source(
        name="image-folder",
        read=_image_folder,
        normalization=Normalization(
            pixel_max=255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        folder="image-folder",
        marker="train",
        augmentation="random-resized-crop-flip",
        batch_size=256,
    ),
)

DATASETS: dict[str, Source] = {row.name: row for row in _ROWS}
"""Every dataset by its name."""


def load(name: str, data_dir: Path | None = None, image_size: int | None = None) -> Dataset:
    """The dataset `name`; its files are in `data_dir` or in the folder of its own name in there.

    Its images have `image_size` pixels along each side, or as many as the dataset's own have (224
    in image folders). An unknown name, and missing or damaged files raise BindeployError with one
    line; an image of a folder does so when it is read.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    if image_size is not None and not 1 <= image_size <= LARGEST_SIZE:
        raise BindeployError(f"image size `{image_size}`: give 1 to {LARGEST_SIZE} pixels")
    source = DATASETS[name]
    folder = _folder(source, data_dir)
    train, test, classes = source.read(folder)
    _check_counts(source, folder, train, test, classes)
    if image_size is not None:
        train, test = train.at(image_size), test.at(image_size)
    return Dataset(train, test, classes, source)


def _folder(source: Source, data_dir: Path | None) -> Path:
    if source.folder is None or source.marker is None:
        return Path()
    root = Path(os.path.expanduser(data_dir or CACHE))  # an unknown `~name` stays as it is
    for folder in (root / source.folder, root):
        if (folder / source.marker).exists():
            return folder
    raise BindeployError(
        f"no {source.name} in `{root}`: give a --data-dir that holds `{source.marker}`"
        f" or the folder `{source.folder}` with it"
    )


def _check_counts(
    source: Source, folder: Path, train: Split, test: Split, classes: tuple[str, ...]
) -> None:
    """Files that can be read may still be cut short, mixed up, or those of another dataset."""
    if source.counts is None:
        return
    for kind, split, published in zip(
        ("training", "test"), (train, test), source.counts, strict=True
    ):
        if len(split.labels) != sum(published):
            raise BindeployError(
                f"`{folder}` holds {len(split.labels)} {kind} images of {source.name}, not the"
                f" {sum(published)} that were published: download it again"
            )
        found = np.bincount(split.labels, minlength=len(classes)).tolist()
        for name, count, expected in zip(classes, found, published, strict=True):
            if count != expected:
                raise BindeployError(
                    f"`{folder}` holds {count} {kind} images of `{name}`, and {source.name} has"
                    f" {expected} of them: download it again"
                )
