"""The datasets: what is read, and what of damaged, missing or hostile files is said."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from bindeploy.errors import BindeployError
from bindeploy.train import cifar, data, idx
from bindeploy.train.batches import AUGMENTATIONS, Batches, crop_and_flip, in_order, unchanged
from bindeploy.train.data import DATASETS, Dataset, Split


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", 8 << 8 | array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        images = generator.integers(0, 256, (count, 28, 28))
        for name, array in (
            ("images-idx3", images),
            ("labels-idx1", np.arange(count) % 10),
        ):
            content = gzip.compress(idx_bytes(array), mtime=0)
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(content)
    return folder


def write_cifar(folder: Path, protocol: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for seed, name in enumerate(names):
        rows = np.random.default_rng(seed).integers(0, 256, (20, 3072)).astype(np.uint8)
        batch = {b"data": rows, b"labels": [index % 10 for index in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    meta = {b"label_names": [f"class {n}".encode() for n in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    return folder


def test_digits_are_split_class_by_class_and_the_same_every_time():
    digits, again = data.load("digits"), data.load("digits")
    assert digits.input_shape == (1, 8, 8)
    assert (len(digits.train.labels), len(digits.test.labels)) == (1433, 364)
    shares = np.bincount(digits.test.labels) / np.bincount(digits.train.labels)
    assert shares.min() > 0.24 and shares.max() < 0.27
    assert np.array_equal(digits.test.images, again.test.images)


def test_digits_are_normalized_to_mean_0_and_deviation_1():
    digits = data.load("digits")
    values = digits.source.normalization(digits.train.images)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 2e-3


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_idx_files_are_found_in_the_folder_and_in_its_parent(tmp_path, name):
    folder = write_idx(tmp_path / name)
    beside, inside = data.load(name, tmp_path), data.load(name, folder)
    assert beside.train.images.shape == (12, 1, 28, 28)
    assert np.array_equal(beside.train.images, inside.train.images)
    assert beside.test.labels.tolist() == [index % 10 for index in range(12)]
    assert len(beside.classes) == 10


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_are_read_in_order(tmp_path, protocol):
    folder = write_cifar(tmp_path / "cifar-10-batches-py", protocol)
    loaded = data.load("cifar10", tmp_path)
    assert loaded.train.images.shape == (100, 3, 32, 32)
    with (folder / "data_batch_2").open("rb") as file:
        second = pickle.load(file)[b"data"]
    assert np.array_equal(loaded.train.images[20:40].reshape(20, -1), second)
    assert loaded.classes[3] == "class 3"


@pytest.mark.parametrize("name", [row.name for row in DATASETS.values() if row.folder])
def test_a_missing_dataset_is_one_line_that_says_what_would_work(tmp_path, name):
    with pytest.raises(BindeployError) as caught:
        data.load(name, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message and "--data-dir" in message
    assert f"`{DATASETS[name].folder}`" in message


def test_an_unknown_dataset_names_the_known_ones():
    with pytest.raises(BindeployError, match="unknown dataset `svhn`: choose from digits"):
        data.load("svhn")


def test_a_missing_file_is_named(tmp_path):
    folder = write_idx(tmp_path / "mnist")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BindeployError, match="t10k-labels-idx1-ubyte.gz` is missing"):
        data.load("mnist", tmp_path)


WHOLE = gzip.compress(idx_bytes(np.zeros((2, 3, 3))), mtime=0)
DAMAGED = {
    "not compressed": idx_bytes(np.zeros((2, 3, 3))),
    "cut short": WHOLE[:-12],
    "corrupt": WHOLE[:12] + bytes([WHOLE[12] ^ 0xFF]) + WHOLE[13:],
    "empty": b"",
    "no header": gzip.compress(b"\0\0"),
    "other magic": gzip.compress(struct.pack(">4I", 0x0D03, 1, 1, 1) + b"\0"),
    "too few bytes": gzip.compress(struct.pack(">4I", 0x0803, 9, 9, 9) + b"\0"),
    "too many bytes": gzip.compress(idx_bytes(np.zeros((1, 1, 1))) + b"\0"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_idx_file_is_one_line(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(BindeployError, match=r"^`.*images.gz` is no whole IDX .gz file") as caught:
        idx.read(path, 3)
    assert "\n" not in str(caught.value)


def test_labels_that_do_not_match_are_refused(tmp_path):
    folder = write_idx(tmp_path / "mnist")
    for labels in (np.arange(11), np.full(12, 10)):
        content = gzip.compress(idx_bytes(labels))
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
        with pytest.raises(BindeployError, match="labels of `train` .* do not match"):
            data.load("mnist", tmp_path)


class Payload:
    """Pickles to a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Payload(f"touch {victim}"), b"labels": []}))
    with pytest.raises(BindeployError, match=r"it asks for (posix|nt)\.system") as caught:
        cifar.read_batch(path)
    assert "\n" not in str(caught.value)
    assert not victim.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "builtins getattr", "os system", "numpy load", "numpy.f2py run_main"]
)
def test_nothing_but_array_reconstruction_can_be_named(tmp_path, name):
    path = tmp_path / "batch"
    module, attribute = name.split()
    path.write_bytes(f"c{module}\n{attribute}\n(S'1'\ntR.".encode())
    with pytest.raises(BindeployError, match=f"asks for {module}.{attribute}"):
        cifar.read_batch(path)


ROWS = np.zeros((3, 3072), np.uint8)
WRONG = {
    "empty": b"",
    "no pickle": b"<html>not found</html>",
    "cut short": pickle.dumps({b"data": ROWS, b"labels": [0, 1, 2]}, 2)[:-40],
    "a list": pickle.dumps([1]),
    "no data": pickle.dumps({b"labels": [1]}),
    "floats": pickle.dumps({b"data": ROWS.astype(float), b"labels": [0, 1, 2]}),
    "narrow": pickle.dumps({b"data": ROWS[:, 1:], b"labels": [0, 1, 2]}),
    "too few labels": pickle.dumps({b"data": ROWS, b"labels": [0]}),
    "label 10": pickle.dumps({b"data": ROWS, b"labels": [0, 1, 10]}),
    "label -1": pickle.dumps({b"data": ROWS, b"labels": [0, 1, -1]}),
    "label text": pickle.dumps({b"data": ROWS, b"labels": ["0", "1", "2"]}),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_damaged_batch_is_one_line(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(BindeployError, match=r"^`.*data_batch_1` is no CIFAR-10 file") as caught:
        cifar.read_batch(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [None, [b"cat"], ["cat"] * 10])
def test_class_names_are_checked(tmp_path, names):
    path = tmp_path / "batches.meta"
    path.write_bytes(pickle.dumps({b"label_names": names}))
    with pytest.raises(BindeployError, match="no CIFAR-10 file"):
        cifar.read_class_names(path)


def small_dataset(count: int = 10) -> Dataset:
    images = np.arange(count * 3 * 6 * 6).astype(np.uint8).reshape(count, 3, 6, 6)
    split = Split(images, np.arange(count))
    return Dataset(split, split, tuple("0123456789"), DATASETS["cifar10"])


def test_batches_depend_on_seed_and_epoch_alone():
    def epochs(seed: int, first: int, count: int) -> list[torch.Tensor]:
        batches = Batches(small_dataset(), None, 4, seed, first)
        return [torch.cat([images for images, _ in batches]) for _ in range(count)]

    whole, rest = epochs(1, 0, 3), epochs(1, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], epochs(2, 0, 1)[0])


def test_a_limit_takes_the_first_images_and_a_partial_batch_is_left_out():
    batches = Batches(small_dataset(), 7, 3, 0, 0)
    labels = torch.cat([labels for _, labels in batches])
    assert len(batches) == 2 and len(labels) == 6
    assert set(labels.tolist()) <= set(range(7))
    assert len(Batches(small_dataset(), 2, 100, 0, 0)) == 1


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


def test_evaluation_sees_every_image_once_in_order():
    dataset = small_dataset()
    parts = list(in_order(dataset.test, dataset.source.normalization, 4))
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(10))


def test_every_dataset_has_a_known_augmentation():
    assert {row.augmentation for row in DATASETS.values()} <= AUGMENTATIONS.keys()
    assert AUGMENTATIONS["none"] is unchanged


@pytest.mark.skipif("BINDEPLOY_DATA" not in os.environ, reason="BINDEPLOY_DATA names no folder")
@pytest.mark.parametrize("name, shape", [("fashion-mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_the_published_files_are_read_whole(name, shape):
    published = data.load(name, Path(os.environ["BINDEPLOY_DATA"]))
    assert published.input_shape == shape
    assert len(published.test.labels) == 10_000
    assert np.bincount(published.train.labels).tolist() == [len(published.train.labels) // 10] * 10
    values = published.source.normalization(published.test.images)
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
