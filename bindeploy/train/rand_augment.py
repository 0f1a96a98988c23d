"""RandAugment (Cubuk et al., 2019), with the operations and strengths that DeiT trains with.

An operation takes a picture and a strength in [-1, 1], and gives a picture of the same size. What
it moves leaves black behind. Pixels are 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ImageEnhance, ImageOps
from PIL.Image import Image, Resampling, Transform

Operation = Callable[[Image, float], Image]

COUNT = 2
SHARE = 0.5
"""Operations that are drawn for a picture, and the share of them that is applied."""

MEAN_STRENGTH, DEVIATION = 0.9, 0.05


def rand_augment(image: Image, generator: np.random.Generator) -> Image:
    """Two random operations, each skipped half the time, each of random strength either way."""
    for chosen in generator.integers(0, len(OPERATIONS), COUNT):
        strength = min(max(generator.normal(MEAN_STRENGTH, DEVIATION), 0.0), 1.0)
        sign = 1 if generator.random() < 0.5 else -1
        if generator.random() < SHARE:
            image = OPERATIONS[chosen](image, sign * strength)
    return image


def _autocontrast(image: Image, strength: float) -> Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image, strength: float) -> Image:
    return ImageOps.equalize(image)


def _invert(image: Image, strength: float) -> Image:
    return ImageOps.invert(image)


def _posterize(image: Image, strength: float) -> Image:
    """Keep the highest 4 (strength 0) to none (strength 1) of the 8 bits."""
    kept = 4 - int(4 * abs(strength))
    return _each_pixel(image, lambda value: value >> (8 - kept) << (8 - kept))


def _solarize(image: Image, strength: float) -> Image:
    """Invert the pixels from 256 (strength 0) or from 0 (strength 1) on."""
    start = 256 - int(256 * abs(strength))
    return _each_pixel(image, lambda value: 255 - value if value >= start else value)


def _lift_shadows(image: Image, strength: float) -> Image:
    """Add up to 110 to the pixels below 128."""
    more = int(110 * abs(strength))
    return _each_pixel(image, lambda value: value + more if value < 128 else value)


def _each_pixel(image: Image, change: Callable[[int], int]) -> Image:
    return image.point([change(value) for value in range(256)] * len(image.getbands()))


def _enhance(kind: Callable[[Image], Any]) -> Operation:
    """The factor is 0.1 to 1.9."""
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


def _rotate(image: Image, strength: float) -> Image:
    """By up to 30 degrees."""
    return image.rotate(30 * strength, Resampling.BICUBIC)


def _shear(across: float, down: float) -> Operation:
    """By this many pixels a pixel."""

    def operation(image: Image, strength: float) -> Image:
        rows = (1, strength * across, 0, strength * down, 1, 0)
        return image.transform(image.size, Transform.AFFINE, rows, Resampling.BICUBIC)

    return operation


def _translate(across: float, down: float) -> Operation:
    """By these shares of the size."""

    def operation(image: Image, strength: float) -> Image:
        rows = (1, 0, strength * across * image.width, 0, 1, strength * down * image.height)
        return image.transform(image.size, Transform.AFFINE, rows, Resampling.BICUBIC)

    return operation


OPERATIONS: tuple[Operation, ...] = (
    _autocontrast,
    _equalize,
    _invert,
    _posterize,
    _solarize,
    _lift_shadows,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _rotate,
    _shear(0.3, 0),
    _shear(0, 0.3),
    _translate(0.45, 0),
    _translate(0, 0.45),
)
