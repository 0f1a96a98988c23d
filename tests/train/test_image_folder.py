"""Image folders: which images there are, how they are seen, and what of damaged ones is said."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train import data, image_folder
from bindeploy.train.augmentation import AUGMENTATIONS
from bindeploy.train.batches import Batches, in_order
from bindeploy.train.evaluate import accuracy
from bindeploy.train.image_folder import Files, centre, read

COLOURS = {"ant": (255, 0, 0), "bee": (0, 255, 0), "cat": (0, 0, 255)}


def write_images(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """Plain pictures of a class's colour, of many sizes and every format."""
    suffixes = ("JPEG", "png", "bmp", "webp", "jpg")
    for part in ("train", "val"):
        for name, count in (counts or dict.fromkeys(COLOURS, 5)).items():
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (20 + 7 * number, 45 - 5 * number), COLOURS[name])
                image.save(folder / part / name / f"{number}.{suffixes[number % 5]}", quality=95)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_images(tmp_path)


def test_classes_are_the_sorted_folders_and_every_format_is_read(folder):
    dataset = data.load("image-folder", folder, 16)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.input_shape == (3, 16, 16)
    assert len(dataset.train.labels) == len(dataset.test.images) == 15
    images = dataset.test.images[:]
    assert images.dtype == np.uint8 and images.shape == (15, 3, 16, 16)
    brightest = images.mean((2, 3)).argmax(1)
    assert np.array_equal(brightest, dataset.test.labels)


def test_the_size_is_224_unless_another_is_asked_for(folder):
    dataset = data.load("image-folder", folder)
    assert dataset.input_shape == (3, 224, 224)
    assert dataset.test.images[:1].copy().shape == (1, 3, 224, 224)


def test_the_folder_is_found_in_its_parent(tmp_path):
    write_images(tmp_path / "image-folder")
    assert len(data.load("image-folder", tmp_path).train.labels) == 15


def test_the_first_images_are_one_of_each_class_in_turn(tmp_path):
    write_images(tmp_path, {"ant": 1, "bee": 4, "cat": 2})
    train = data.load("image-folder", tmp_path, 8).train
    assert train.labels.tolist() == [0, 1, 2, 1, 2, 1, 1]
    first = train.first(3)
    assert first.labels.tolist() == [0, 1, 2] and first.images.shape == (3, 3, 8, 8)
    assert isinstance(first.images, Files)
    assert len(train.first(None).images) == 7


def test_images_are_indexed_as_an_array_is(folder):
    images = data.load("image-folder", folder, 8).test.images
    whole = images[:]
    chosen = np.array([7, 2, 2])
    assert np.array_equal(images[chosen], whole[chosen])
    assert np.array_equal(images[4:6], whole[4:6])
    assert np.array_equal(images[-1], whole[-1])
    assert images[3:3].shape == (0, 3, 8, 8)


def test_an_image_is_read_when_it_is_asked_for_and_not_before(folder):
    (folder / "val" / "bee" / "1.png").write_bytes(b"no image")
    images = data.load("image-folder", folder, 8).test.images
    assert os.fsdecode(images.names[4]) == "bee/1.png"
    assert images[:4].shape[0] == 4
    with pytest.raises(BindeployError, match="bee/1.png` is no whole image"):
        images[4]


def test_what_is_no_image_by_its_name_is_passed_over(folder):
    for name in ("Thumbs.db", ".hidden.png", "notes.txt"):
        (folder / "train" / "ant" / name).write_bytes(b"x")
    (folder / "train" / ".git").mkdir()
    (folder / "val" / "README").write_text("x")
    assert len(data.load("image-folder", folder).train.labels) == 15


@pytest.mark.parametrize("size", [(500, 375), (300, 401), (224, 224), (90, 1000), (31, 17)])
def test_the_evaluated_view_is_resize_256_then_crop_224(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    width, height = size
    if width <= height:
        resized = image.resize((256, 256 * height // width), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((256 * width // height, 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(np.asarray(centre(image, 224)).astype(int) - expected).max() <= 1


def test_a_very_long_image_is_evaluated_in_little_memory():
    assert centre(Image.new("RGB", (1, 60_000)), 224).size == (224, 224)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_every_mode_of_8_bits_becomes_rgb_without_a_warning(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    options = {"transparency": b"\0" * 3} if mode == "P" else {}
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read(path)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert np.asarray(image).min() > 250 or mode in ("LA", "RGBA")


def jpeg(folder: Path) -> bytes:
    path = folder / "whole.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    return path.read_bytes()


def test_a_damaged_image_is_one_line_that_names_it(tmp_path, monkeypatch):
    whole = jpeg(tmp_path)
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    deep = (tmp_path / "deep.png").read_bytes()
    Image.new("L", (9, 9)).save(tmp_path / "x.eps")
    for name, content, reason in (
        ("short", whole[: len(whole) // 2], "truncated"),
        ("empty", b"", "none of JPEG"),
        ("text", b"<html>not found\n</html>", "none of JPEG"),
        ("header", whole[:20], ""),
        ("deep", deep, "more than 8 bits"),
        ("program", (tmp_path / "x.eps").read_bytes(), "none of JPEG"),
    ):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(BindeployError, match=f"{name}.jpg` is no whole image .*{reason}") as e:
            read(path)
        assert "\n" not in str(e.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BindeployError, match="whole.jpg` is no whole image .*pixels"):
        read(tmp_path / "whole.jpg")
    with pytest.raises(BindeployError, match="absent.jpg` is no whole image .No such file"):
        read(tmp_path / "absent.jpg")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_one_line_from_workers_too(folder, workers):
    (folder / "train" / "cat" / "2.bmp").write_bytes(b"BM")
    dataset = data.load("image-folder", folder, 8)
    batches = Batches(dataset, None, 4, 0, 0, workers=workers)
    for _ in range(2):
        with pytest.raises(BindeployError, match="cat/2.bmp` is no whole image") as caught:
            for _ in range(2):
                list(batches)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    batches.close()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_workers_and_ranks_make_the_same_batches(folder, name):
    dataset = data.load("image-folder", folder, 16)

    def made(**arguments) -> list[torch.Tensor]:
        batches = Batches(dataset, None, 4, 0, 0, augmentation=name, **arguments)
        images = [images for images, _ in batches]
        batches.close()
        return images

    here = made()
    assert [tuple(images.shape) for images in here] == [(4, 3, 16, 16)] * 3
    assert all(torch.equal(a, b) for a, b in zip(here, made(workers=2), strict=True))
    one = Batches(dataset, None, 8, 0, 0, augmentation=name)
    halves = [made(rank=rank, ranks=2) for rank in range(2)]
    for (whole, _), left, right in zip(one, *halves, strict=True):
        assert torch.equal(whole, torch.cat([left, right]))


def test_a_rank_reads_its_own_images_alone(folder, monkeypatch):
    names = []
    whole = image_folder.read
    monkeypatch.setattr(image_folder, "read", lambda path: (names.append(path), whole(path))[1])
    dataset = data.load("image-folder", folder, 8)
    list(Batches(dataset, None, 5, 0, 0, rank=1, ranks=3))
    assert len(names) == 5
    list(in_order(dataset.test, dataset.source.normalization, 4, rank=1, ranks=2))
    assert len(names) == 5 + 7


def test_a_resized_crop_may_show_the_margin_that_evaluation_cuts_off(tmp_path):
    pixels = np.full((64, 64, 3), 50, np.uint8)
    pixels[4:-4, 4:-4] = 200
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "a" / "x.png")
    files = data.load("image-folder", tmp_path, 56).train.images
    assert files[0].min() == 200
    augmentation = AUGMENTATIONS["random-resized-crop-flip"]
    draws = augmentation.draw(20, np.random.default_rng(0))
    darkest = augmentation.of(files, np.zeros(20, np.int64), draws).min((1, 2, 3))
    assert (darkest.min(), darkest.max()) == (50, 200)


def test_evaluation_reads_every_image_once(folder):
    class Colour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    dataset = data.load("image-folder", folder, 8)
    assert accuracy(Colour(), dataset) == accuracy(Colour(), dataset, workers=2) == 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: (f / "val").rename(f / "test"), "val` cannot be read .No such file"),
        (lambda f: (f / "val" / "bee").rename(f / "val" / "wasp"), "train` has the class `bee`"),
        (lambda f: (f / "val" / "dog").mkdir(), "val` has the class `dog` and `train` has not"),
        (lambda f: [p.unlink() for p in (f / "train" / "ant").iterdir()], "ant` holds no images"),
        (lambda f: (f / "val").rename(f / "train" / "x"), "val` cannot be read"),
    ],
)
def test_a_folder_that_is_laid_out_otherwise_is_one_line(folder, change, message):
    change(folder)
    with pytest.raises(BindeployError, match=message) as caught:
        data.load("image-folder", folder)
    assert "\n" not in str(caught.value)


def test_images_without_class_folders_are_one_line(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.JPEG").write_bytes(b"")
    with pytest.raises(BindeployError, match="train` holds no folders: put the images into one a"):
        data.load("image-folder", tmp_path)
