"""Folders of images, a folder a class, read when they are asked for; and images at another size.

What a lazy split offers is what an array [N, C, H, W] offers: `shape`, `len` and `images[indices]`.
Two more: `originals(indices)` are the images at their own size, and `first(count)` is a lazy split.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bindeploy.errors import BindeployError

SIZE = 224
CROPPED = (256, 224)
"""The shorter side is resized to 256 pixels where the middle 224 are kept (He et al., 2015)."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""All that is decoded, whatever a file is called: some formats of Pillow start other programs."""

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
"""How the names of images end, in either case; other files in a class folder are passed over."""

DEEP = ("I", "F")
"""Modes of more than 8 bits begin with these; Pillow would clip them to white."""


@dataclass(frozen=True, eq=False)
class Files:
    """Images in files `names` [N] below `folder`, as RGB of `size` x `size` pixels."""

    folder: Path
    names: NDArray[np.bytes_]
    size: int = SIZE

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.size, self.size

    def __getitem__(self, indices: Any) -> NDArray[np.uint8]:
        """uint8 [n, 3, size, size]; an image that cannot be read raises BindeployError."""
        views = [to_array(centre(image, self.size)) for image in self.originals(indices)]
        return np.array(views, np.uint8).reshape(*self.names[indices].shape, *self.shape[1:])

    def originals(self, indices: Any) -> Iterator[Image.Image]:
        """The images as they are stored, RGB, one after another."""
        for name in np.atleast_1d(self.names[indices]):
            yield read(self.folder / os.fsdecode(name))

    def first(self, count: int | None) -> Files:
        return replace(self, names=self.names[:count])

    def at(self, size: int) -> Files:
        return replace(self, size=size)


@dataclass(frozen=True, eq=False)
class Resized:
    """Images uint8 [N, C, H, W] in memory, given out as `size` x `size` pixels."""

    images: NDArray[np.uint8]
    size: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), self.images.shape[1], self.size, self.size

    def __getitem__(self, indices: Any) -> NDArray[np.uint8]:
        """uint8 [n, C, size, size]: the whole image, resized bilinearly."""
        target = (self.size, self.size)
        views = [
            to_array(image.resize(target, Image.Resampling.BILINEAR))
            for image in self.originals(indices)
        ]
        leading = np.empty(len(self), bool)[indices].shape
        return np.array(views, np.uint8).reshape(*leading, *self.shape[1:])

    def originals(self, indices: Any) -> Iterator[Image.Image]:
        """The images as they are stored, one after another."""
        return to_pictures(self.images[indices].reshape(-1, *self.images.shape[1:]))

    def first(self, count: int | None) -> Resized:
        return replace(self, images=self.images[:count])


Labelled = tuple[Files, NDArray[np.int64]]


def read_folder(folder: Path) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """The images and labels of `folder`/train and `folder`/val, and the names of the classes.

    The classes are the folders in train, sorted by name, and val has the same. Anything else raises
    BindeployError with one line; the images themselves are read when they are asked for.
    """
    classes = _classes(folder / "train")
    odd = sorted(set(classes) ^ set(_classes(folder / "val")))
    if odd:
        where, other = ("train", "val") if odd[0] in classes else ("val", "train")
        raise BindeployError(
            f"`{folder / where}` has the class `{odd[0]}` and `{other}` has not:"
            " give both the same class folders"
        )
    return _split(folder / "train", classes), _split(folder / "val", classes), classes


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise BindeployError(
            f"`{folder}` cannot be read ({error.strerror}): image folders are train/CLASS/ and"
            " val/CLASS/"
        ) from None
    if not names:
        raise BindeployError(f"`{folder}` holds no folders: put the images into one a class")
    return tuple(names)


def _split(folder: Path, classes: tuple[str, ...]) -> Labelled:
    """One image of each class in turn, so that the first ones are of many classes."""
    names: list[bytes] = []
    labels: list[int] = []
    turns: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in _listed(folder / name) if _is_image(file))
        if not files:
            raise BindeployError(
                f"`{folder / name}` holds no images ({', '.join(SUFFIXES)}):"
                " put some there or delete it"
            )
        names += [os.fsencode(os.path.join(name, file)) for file in files]
        labels += [label] * len(files)
        turns += range(len(files))
    order = np.lexsort((labels, turns))
    return Files(folder, np.array(names)[order]), np.array(labels, np.int64)[order]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise BindeployError(
            f"`{folder}` cannot be read ({error.strerror}): allow reading it"
        ) from None


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read(path: Path) -> Image.Image:
    """The RGB image in a file. One that is damaged, or no image, raises BindeployError.

    Transparency is dropped, and the orientation that a camera noted is not applied.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.mode.startswith(DEEP):
                    raise ValueError("it has more than 8 bits a pixel")
                return image.convert("RGB")
        except UnidentifiedImageError:
            reason = f"it is none of {', '.join(FORMATS)}"
        except OSError as error:
            reason = error.strerror or str(error)
        except Exception as error:  # a damaged image can raise anything
            reason = str(error) or type(error).__name__
    raise BindeployError(f"`{path}` is no whole image ({reason}): replace or delete it")


def centre(image: Image.Image, size: int) -> Image.Image:
    """The evaluated view: the shorter side resized to size * 256/224, the middle size x size kept.

    Resizing and cropping are one step here, so that no image grows large in between.
    """
    width, height = image.size
    shorter = size * CROPPED[0] // CROPPED[1]
    scaled_width = shorter * width // min(width, height)
    scaled_height = shorter * height // min(width, height)
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    box = (
        left * width / scaled_width,
        top * height / scaled_height,
        (left + size) * width / scaled_width,
        (top + size) * height / scaled_height,
    )
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [C, H, W] of an RGB or a grey image."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def to_pictures(images: NDArray[np.uint8]) -> Iterator[Image.Image]:
    """The images of uint8 [N, C, H, W], C = 1 or 3, one after another."""
    for image in images:
        yield Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy())
