"""Augmentations that cut a random part out of a picture of any size: those of ImageNet.

Each picture has a seed of its own, so that its augmentation is the same beside any others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, Transpose

from bindeploy.train.image_folder import to_array
from bindeploy.train.rand_augment import rand_augment

Pixels = NDArray[np.uint8]
Seeds = NDArray[np.int64]
Range = tuple[float, float]

AREA: Range = (0.08, 1.0)
RATIO: Range = (3 / 4, 4 / 3)
"""The share of a picture that a crop takes, and its width by its height (Szegedy et al., 2015)."""

ERASED = 0.25
ERASED_AREA: Range = (0.02, 1 / 3)
ERASED_RATIO: Range = (0.3, 1 / 0.3)
"""How many pictures have a box erased, and of what size (Zhong et al., 2017, as in DeiT)."""

ATTEMPTS = 10


def crop_resize_flip(images: Iterable[Image], seeds: Seeds, size: tuple[int, int]) -> Pixels:
    """A random part, resized bilinearly to (H, W) = `size`; every other image is mirrored.

    No colours are changed.
    """
    return np.stack(
        [
            to_array(_crop(image, generator, size, Resampling.BILINEAR))
            for image, generator in zip(images, _generators(seeds), strict=True)
        ]
    )


def deit(images: Iterable[Image], seeds: Seeds, size: tuple[int, int]) -> Pixels:
    """The same bicubically, then RandAugment, then random erasing; pixels are 0 to 255.

    What DeiT does besides is not here: Mixup, CutMix and label smoothing concern the labels,
    repeated augmentation the order of the images.
    """
    results = []
    for image, generator in zip(images, _generators(seeds), strict=True):
        view = rand_augment(_crop(image, generator, size, Resampling.BICUBIC), generator)
        results.append(_erase(to_array(view), generator))
    return np.stack(results)


def _generators(seeds: Seeds) -> Iterable[np.random.Generator]:
    return map(np.random.default_rng, seeds.tolist())


def _crop(
    image: Image, generator: np.random.Generator, size: tuple[int, int], resampling: Resampling
) -> Image:
    box = random_box(image.size, AREA, RATIO, generator) or _largest_square(image.size)
    view = image.resize((size[1], size[0]), resampling, box)
    return view.transpose(Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else view


def random_box(
    size: tuple[int, int], area: Range, ratio: Range, generator: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of a random box within a picture of (width, height) = `size`.

    Its share of the area is uniform within `area`, its width by its height log-uniform within
    `ratio`. None where ten such boxes did not fit.
    """
    width, height = size
    for _ in range(ATTEMPTS):
        pixels = width * height * generator.uniform(*area)
        shape = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        across, down = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < across <= width and 0 < down <= height:
            left = int(generator.integers(0, width - across + 1))
            top = int(generator.integers(0, height - down + 1))
            return left, top, left + across, top + down
    return None


def _largest_square(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """In the middle; what a picture gets that is too long for any crop (convention)."""
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _erase(image: Pixels, generator: np.random.Generator) -> Pixels:
    """One image [C, H, W] in four gets a box of uniformly random pixels."""
    channels, height, width = image.shape
    if generator.random() >= ERASED:
        return image
    box = random_box((width, height), ERASED_AREA, ERASED_RATIO, generator)
    if box is None:
        return image
    left, top, right, bottom = box
    erased = image.copy()
    shape = (channels, bottom - top, right - left)
    erased[:, top:bottom, left:right] = generator.integers(0, 256, shape, np.uint8)
    return erased
