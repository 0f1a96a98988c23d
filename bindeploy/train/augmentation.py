"""The augmentations of training images: one row of `AUGMENTATIONS` each, without torch.

An augmentation draws its random numbers for all images first, a row an image, and then applies
them. So whoever makes a part of a batch draws for the whole and applies the rows of its part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Draws = NDArray[np.int64]
Size = tuple[int, int]

PADDING = 4


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A row of `AUGMENTATIONS`.

    `draw(count, generator)` gives int64 [count, ...]. `apply(images, draws, size)` gives uint8
    [N, C, H, W] with (H, W) = size: of an array uint8 [N, C, H, W] of that size, or, where
    `of_originals`, of pictures of any size (`image_folder.Files.originals`).
    """

    name: str
    source: str
    draw: Callable[[int, np.random.Generator], Draws]
    apply: Callable[[Any, Draws, Size], Pixels]
    of_originals: bool = False

    def __call__(self, images: Pixels, generator: np.random.Generator) -> Pixels:
        """Augmented images of uint8 [N, C, H, W], of the same shape."""
        return self.of(images, np.arange(len(images)), self.draw(len(images), generator))

    def of(self, images: Any, chosen: NDArray[np.int64], draws: Draws) -> Pixels:
        """`images[chosen]` of an array or a lazy split, augmented by `draws`: [n, C, H, W]."""
        size = images.shape[2:]
        if not self.of_originals:
            return self.apply(images[chosen], draws, size)
        if isinstance(images, np.ndarray):
            from bindeploy.train.image_folder import to_pictures

            return self.apply(to_pictures(images[chosen]), draws, size)
        return self.apply(images.originals(chosen), draws, size)


def _draw_nothing(count: int, generator: np.random.Generator) -> Draws:
    return np.empty((count, 0), np.int64)


def _unchanged(images: Pixels, draws: Draws, size: Size) -> Pixels:
    return images


def _draw_crop_and_flip(count: int, generator: np.random.Generator) -> Draws:
    """[count, 3]: top and left of the crop, and whether the image is mirrored."""
    top, left = generator.integers(0, 2 * PADDING + 1, (2, count))
    mirrored = generator.random(count) < 0.5
    return np.stack([top, left, mirrored], axis=1)


def _crop_and_flip(images: Pixels, draws: Draws, size: Size) -> Pixels:
    height, width = size
    padded = np.zeros((*images.shape[:2], height + 2 * PADDING, width + 2 * PADDING), np.uint8)
    padded[:, :, PADDING:-PADDING, PADDING:-PADDING] = images
    result = np.empty(images.shape, np.uint8)
    for image, (top, left, mirrored) in enumerate(draws.tolist()):
        crop = padded[image, :, top : top + height, left : left + width]
        result[image] = crop[..., ::-1] if mirrored else crop
    return result


def _draw_seeds(count: int, generator: np.random.Generator) -> Draws:
    """[count]: a seed for each image, since images differ in how many numbers they take."""
    return generator.integers(0, 2**63, count)


def _resized_crop(images: Any, draws: Draws, size: Size) -> Pixels:
    from bindeploy.train import resized_crop

    return resized_crop.crop_resize_flip(images, draws, size)


def _deit(images: Any, draws: Draws, size: Size) -> Pixels:
    from bindeploy.train import resized_crop

    return resized_crop.deit(images, draws, size)


_ROWS = (
    Augmentation(
        name="none",
        source="the images as they are",
        draw=_draw_nothing,
        apply=_unchanged,
    ),
    Augmentation(  # pad by 4 black pixels, crop the old size at random, mirror every other image
        name="crop-flip",
        source="He et al., 2015, section 4.2",
        draw=_draw_crop_and_flip,
        apply=_crop_and_flip,
    ),
    Augmentation(  # resize a random part of an image, mirror every other
        name="random-resized-crop-flip",
        source="Szegedy et al., 2015, section 6",
        draw=_draw_seeds,
        apply=_resized_crop,
        of_originals=True,
    ),
    Augmentation(  # the same, then RandAugment and random erasing
        name="deit",
        source="Touvron et al., 2020, table 9",
        draw=_draw_seeds,
        apply=_deit,
        of_originals=True,
    ),
)

AUGMENTATIONS: dict[str, Augmentation] = {row.name: row for row in _ROWS}
"""Every augmentation by its name."""
