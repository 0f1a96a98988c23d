"""The augmentations: what becomes of an image, and that a part of a batch is made alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bindeploy.train.augmentation import AUGMENTATIONS
from bindeploy.train.rand_augment import OPERATIONS
from bindeploy.train.resized_crop import AREA, RATIO, random_box

crop_and_flip = AUGMENTATIONS["crop-flip"]


def noise(count: int, channels: int = 3, size: int = 16) -> np.ndarray:
    shape = (count, channels, size, size)
    return np.random.default_rng(9).integers(0, 256, shape).astype(np.uint8)


def test_crop_and_flip_moves_each_image_as_a_whole():
    generator = np.random.default_rng(0)
    ramp = np.arange(1, 65, dtype=np.uint8).reshape(1, 1, 8, 8)
    images = np.repeat(np.concatenate([ramp, ramp + 64], 1), 200, axis=0)
    moved = crop_and_flip(images, generator)
    assert moved.shape == images.shape and moved.dtype == np.uint8
    seen = moved[:, 0] > 0
    assert np.array_equal(moved[:, 1][seen], moved[:, 0][seen] + 64)
    padded = np.pad(ramp[0, 0], 4)
    crops = {
        padded[top : top + 8, left : left + 8][:, ::step].tobytes()
        for top in range(9)
        for left in range(9)
        for step in (1, -1)
    }
    results = {image.tobytes() for image in moved[:, 0]}
    assert results <= crops
    assert len(results) > 50


def test_crop_and_flip_draws_all_rows_then_all_columns_then_all_mirrors():
    """A run that is resumed with another version of the code sees the images it would have seen."""
    images = noise(20)
    generator = np.random.default_rng([1, 2, 3])
    top, left = generator.integers(0, 9, (2, 20, 1))
    rows, columns = top + np.arange(16), left + np.arange(16)
    mirrored = generator.random(20) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    image = np.arange(20)[:, None, None]
    expected = padded[image, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    assert np.array_equal(crop_and_flip(images, np.random.default_rng([1, 2, 3])), expected)


def test_none_leaves_images_as_they_are():
    images = noise(3)
    assert np.array_equal(AUGMENTATIONS["none"](images, np.random.default_rng(0)), images)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_of_a_batch_is_made_as_it_is_in_the_whole(name, channels):
    augmentation, images = AUGMENTATIONS[name], noise(12, channels)
    before = images.copy()
    whole = augmentation(images, np.random.default_rng(5))
    assert whole.shape == images.shape and whole.dtype == np.uint8
    draws = augmentation.draw(12, np.random.default_rng(5))
    part = augmentation.of(images, np.arange(4, 9), draws[4:9])
    assert np.array_equal(part, whole[4:9])
    assert np.array_equal(images, before)
    if name != "none":
        assert not np.array_equal(whole, augmentation(images, np.random.default_rng(6)))


def test_random_boxes_are_within_the_picture_and_of_the_shares_and_shapes_asked_for():
    generator = np.random.default_rng(0)
    shares, shapes = [], []
    for _ in range(500):
        left, top, right, bottom = random_box((400, 300), AREA, RATIO, generator)
        assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
        shares.append((right - left) * (bottom - top) / (400 * 300))
        shapes.append((right - left) / (bottom - top))
    assert 0.075 < min(shares) < 0.12 and 0.9 < max(shares) <= 1
    assert 0.74 < min(shapes) < 0.78 and 1.28 < max(shapes) < 1.35


def test_a_picture_too_long_for_any_crop_gives_the_square_in_its_middle():
    assert random_box((1000, 1), (0.5, 1), RATIO, np.random.default_rng(0)) is None
    strip = np.zeros((2, 3, 3, 900), np.uint8)
    strip[..., 445:455] = 77
    augmentation = AUGMENTATIONS["random-resized-crop-flip"]
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in strip]
    draws = augmentation.draw(2, np.random.default_rng(0))
    assert (augmentation.apply(pictures, draws, (5, 7)) == 77).all()


def test_a_resized_crop_is_a_part_of_the_picture_mirrored_every_other_time():
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8), (300, 1, 60, 60))
    views = AUGMENTATIONS["random-resized-crop-flip"](ramp, np.random.default_rng(0))
    assert (views == views[:, :, :1]).all()
    steps = np.diff(views[:, 0, 0].astype(int), axis=1)
    rising, falling = (steps >= 0).all(1), (steps <= 0).all(1)
    assert (rising ^ falling).all()
    assert 110 < rising.sum() < 190
    assert len(np.unique(views[:, 0, 0, 0])) > 40


def test_one_image_in_four_has_a_box_of_noise_in_the_augmentation_of_deit():
    grey = np.full((400, 3, 32, 32), 128, np.uint8)
    views = AUGMENTATIONS["deit"](grey, np.random.default_rng(0))
    noisy = [len(np.unique(image)) > 8 for image in views]
    assert 70 < sum(noisy) < 130


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_an_operation_changes_colours_more_the_stronger_it_is(number):
    pixels = np.random.default_rng(0).integers(40, 200, (24, 24, 3)).astype(np.uint8)
    distances = []
    for strength in (0.3, 0.9, 1.0):
        view = OPERATIONS[number](Image.fromarray(pixels), strength)
        assert (view.size, view.mode) == ((24, 24), "RGB")
        distances.append(np.abs(np.asarray(view).astype(int) - pixels).mean())
    assert 0 < distances[0] <= distances[1] <= distances[2]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("strength", [-1.0, 0.0, 1.0])
def test_an_operation_takes_grey_images_and_every_strength(number, strength):
    view = OPERATIONS[number](Image.linear_gradient("L").resize((24, 16)), strength)
    assert (view.size, view.mode) == ((24, 16), "L")


def test_the_table_is_read_without_torch_and_without_pillow():
    program = (
        "import sys, bindeploy.train.augmentation, bindeploy.train.data;"
        "sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
