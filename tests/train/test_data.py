"""The datasets: what is read, and what of damaged, missing or hostile files is said."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bindeploy.errors import BindeployError
from bindeploy.train import cifar, data, idx
from bindeploy.train.augmentation import AUGMENTATIONS
from bindeploy.train.data import DATASETS, Split


@pytest.fixture(autouse=True)
def small_files_will_do(request, monkeypatch):
    """Made-up files hold a few images; a test marked `published` wants all that were published."""
    if "published" not in request.fixturenames:
        for name, row in DATASETS.items():
            monkeypatch.setitem(DATASETS, name, replace(row, counts=None))


@pytest.fixture
def published():
    """Keeps the counts of the table."""


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


def write_cifar100(folder: Path, count: int = 200) -> Path:
    """Python 2 pickled the published files with protocol 2."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("train", "test")):
        rows = np.random.default_rng(seed).integers(0, 256, (count, 3072)).astype(np.uint8)
        content = {
            b"data": rows,
            b"fine_labels": [index % 100 for index in range(count)],
            b"coarse_labels": [index % 20 for index in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {
        b"fine_label_names": [f"fine {n}".encode() for n in range(100)],
        b"coarse_label_names": [f"coarse {n}".encode() for n in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
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


def test_the_fine_classes_of_cifar100_are_read(tmp_path):
    folder = write_cifar100(tmp_path / "cifar-100-python")
    loaded = data.load("cifar100", tmp_path)
    assert loaded.train.images.shape == (200, 3, 32, 32)
    with (folder / "test").open("rb") as file:
        rows = pickle.load(file)[b"data"]
    assert np.array_equal(loaded.test.images[:].reshape(200, -1), rows)
    assert loaded.test.labels[150] == 50 and loaded.classes[99] == "fine 99"


def test_a_cifar10_file_is_no_cifar100_file(tmp_path):
    write_cifar(tmp_path)
    with pytest.raises(BindeployError, match="is no CIFAR-100 file .its fine_labels are no list"):
        cifar.read_batch(tmp_path / "test_batch", cifar.CIFAR100)
    with pytest.raises(BindeployError, match="is no CIFAR-100 file .it has no list of 100 label"):
        cifar.read_class_names(tmp_path / "batches.meta", cifar.CIFAR100)


WRITERS = {
    "mnist": write_idx,
    "fashion-mnist": write_idx,
    "cifar10": write_cifar,
    "cifar100": write_cifar100,
}


def test_every_published_dataset_has_counts_that_fit_its_classes():
    rows = {row.name for row in data._ROWS if row.counts}
    assert rows == WRITERS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_files_that_hold_a_part_of_the_images_are_refused(tmp_path, name, published):
    WRITERS[name](tmp_path)
    train = sum(DATASETS[name].counts[0])
    assert train in (50_000, 60_000) and sum(DATASETS[name].counts[1]) == 10_000
    with pytest.raises(BindeployError, match=f"training images of {name}, not the {train} that"):
        data.load(name, tmp_path)


def test_another_number_of_images_of_a_class_is_refused(tmp_path, monkeypatch):
    write_idx(tmp_path)
    right = (2, 2, *[1] * 8)
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], counts=(right, right)))
    assert len(data.load("mnist", tmp_path).test.labels) == 12
    wrong = (2, 1, 2, *[1] * 7)
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], counts=(right, wrong)))
    with pytest.raises(BindeployError, match="holds 2 test images of `1`, and mnist has 1 of them"):
        data.load("mnist", tmp_path)


def test_images_are_given_at_another_size(tmp_path):
    write_cifar(tmp_path)
    own, larger = data.load("cifar10", tmp_path), data.load("cifar10", tmp_path, 48)
    assert larger.input_shape == (3, 48, 48) and own.input_shape == (3, 32, 32)
    chosen = np.array([5, 3])
    views = larger.test.images[chosen]
    assert views.shape == (2, 3, 48, 48) and views.dtype == np.uint8
    means = own.test.images[chosen].mean((2, 3))
    assert np.abs(views.mean((2, 3)) - means).max() < 2
    assert np.array_equal(larger.test.images[5], views[0])
    assert larger.train.first(7).images.shape == (7, 3, 48, 48)
    assert data.load("cifar10", tmp_path, 32).test.images is not larger.test.images
    assert isinstance(data.load("cifar10", tmp_path, 32).test.images, np.ndarray)


def test_a_resized_image_keeps_what_stands_at_its_edges():
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[..., 0], image[..., -1] = 200, 100
    views = Split(image, np.zeros(1, np.int64)).at(16).images[:]
    assert (views[..., 0] == 200).all() and (views[..., -1] == 100).all()


@pytest.mark.parametrize("size", [0, -1, 10**6])
def test_an_image_size_that_cannot_be_is_one_line(size):
    with pytest.raises(BindeployError, match=f"image size `{size}`: give 1 to"):
        data.load("digits", image_size=size)


def test_normalization_is_its_formula_to_the_bit():
    source = DATASETS["cifar10"].normalization
    images = np.arange(2 * 3 * 256, dtype=np.uint8).reshape(2, 3, 16, 16)
    mean = np.array(source.mean, np.float32).reshape(3, 1, 1)
    std = np.array(source.std, np.float32).reshape(3, 1, 1)
    expected = (images.astype(np.float32) / np.float32(255) - mean) / std
    assert np.array_equal(source(images), expected)


def test_every_dataset_has_a_known_augmentation():
    assert {row.augmentation for row in DATASETS.values()} <= AUGMENTATIONS.keys()


@pytest.mark.skipif("BINDEPLOY_DATA" not in os.environ, reason="BINDEPLOY_DATA names no folder")
@pytest.mark.parametrize("name, shape", [("fashion-mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_the_published_files_are_read_whole(name, shape, published):
    loaded = data.load(name, Path(os.environ["BINDEPLOY_DATA"]))
    assert loaded.source.counts is not None
    assert loaded.input_shape == shape
    assert len(loaded.test.labels) == 10_000
    values = loaded.source.normalization(loaded.test.images[:])
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
