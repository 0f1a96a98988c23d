"""Batches: the same whoever makes them, in one process or in many, here or on several devices."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train.augmentation import AUGMENTATIONS
from bindeploy.train.batches import Batches, in_order
from bindeploy.train.data import DATASETS, Dataset, Split
from bindeploy.train.evaluate import accuracy, count_right


def small_dataset(count: int = 10) -> Dataset:
    images = np.arange(count * 3 * 6 * 6).astype(np.uint8).reshape(count, 3, 6, 6)
    split = Split(images, np.arange(count))
    return Dataset(split, split, tuple("0123456789"), DATASETS["cifar10"])


def epochs(batches: Batches, count: int = 1) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    try:
        return [list(batches) for _ in range(count)]
    finally:
        batches.close()


def same(left: list, right: list) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_batches_depend_on_seed_and_epoch_alone():
    def images(seed: int, first: int, count: int) -> list[torch.Tensor]:
        batches = Batches(small_dataset(), None, 4, seed, first)
        return [torch.cat([images for images, _ in batches]) for _ in range(count)]

    whole, rest = images(1, 0, 3), images(1, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], images(2, 0, 1)[0])


def test_order_and_augmentation_have_generators_of_their_own():
    """A run that is resumed with another version of the code sees the images it would have seen."""
    dataset = small_dataset()
    order = np.random.default_rng([3, 5]).permutation(10)
    for number, (images, labels) in enumerate(Batches(dataset, None, 4, 3, 5)):
        chosen = order[4 * number : 4 * number + 4]
        generator = np.random.default_rng([3, 5, number])
        augmented = AUGMENTATIONS["crop-flip"](dataset.train.images[chosen], generator)
        assert labels.tolist() == chosen.tolist()
        assert np.array_equal(images.numpy(), dataset.source.normalization(augmented))


def test_a_limit_takes_the_first_images_and_a_partial_batch_is_left_out():
    batches = Batches(small_dataset(), 7, 3, 0, 0)
    labels = torch.cat([labels for _, labels in batches])
    assert len(batches) == 2 and len(labels) == 6
    assert set(labels.tolist()) <= set(range(7))
    assert len(Batches(small_dataset(), 2, 100, 0, 0)) == 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_make_the_very_same_batches_epoch_after_epoch(workers, name):
    dataset = small_dataset(40)
    here = epochs(Batches(dataset, None, 7, 1, 4, augmentation=name), 3)
    there = epochs(Batches(dataset, None, 7, 1, 4, augmentation=name, workers=workers), 3)
    assert [len(epoch) for epoch in there] == [5, 5, 5]
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_an_epoch_that_was_left_early_is_followed_by_the_next():
    dataset = small_dataset(40)
    expected = epochs(Batches(dataset, None, 4, 0, 0), 2)
    batches = Batches(dataset, None, 4, 0, 0, workers=2)
    for _, _ in zip(batches, range(3), strict=False):
        pass
    assert same(epochs(batches)[0], expected[1])


def test_workers_stay_between_epochs_and_end_when_closed():
    batches = Batches(small_dataset(40), None, 4, 0, 0, workers=2)
    before = set(multiprocessing.active_children())
    list(batches)
    first = set(multiprocessing.active_children()) - before
    list(batches)
    assert set(multiprocessing.active_children()) - before == first and len(first) == 2
    batches.close()
    assert not any(process.is_alive() for process in first)
    assert len(list(batches)) == 10
    batches.close()


def test_workers_leave_the_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epochs(Batches(small_dataset(), None, 4, 0, 0, workers=1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_worker_that_is_killed_is_one_line():
    batches = Batches(small_dataset(400), None, 4, 0, 0, workers=1)
    before = set(multiprocessing.active_children())
    with pytest.raises(BindeployError, match="one of 1 workers was ended from outside"):
        for _ in batches:
            for process in set(multiprocessing.active_children()) - before:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
    assert set(multiprocessing.active_children()) == before


INTERRUPTED = """
import multiprocessing, os, signal, sys, time
import numpy as np
from bindeploy.train.batches import Batches
from bindeploy.train.data import DATASETS, Dataset, Split

split = Split(np.zeros((4000, 3, 32, 32), np.uint8), np.zeros(4000, np.int64))
dataset = Dataset(split, split, ("a",), DATASETS["cifar10"])
batches = Batches(dataset, None, 4, 0, 0, workers=2)
workers = []
try:
    for number, _ in enumerate(batches):
        if number == 2:
            workers = multiprocessing.active_children()
            if sys.argv[1] == "go on":
                signal.signal(signal.SIGINT, lambda *_: None)
            os.killpg(0, signal.SIGINT)
    assert sys.argv[1] == "go on" and number == 999
    print("all", flush=True)
except KeyboardInterrupt:
    if sys.argv[1] == "close":
        batches.close()
        assert not any(worker.is_alive() for worker in workers)
    print(*(worker.pid for worker in workers), flush=True)
    sys.exit(130)
"""


def interrupted(what: str) -> tuple[int, str, list[str]]:
    """Status, stderr and words of a program whose whole group gets Ctrl-C, as from a terminal."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED, what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    return done.returncode, done.stderr, done.stdout.split()


@pytest.mark.parametrize("what", ["close", "leave"])
def test_ctrl_c_ends_the_workers_without_a_word(what):
    status, stderr, pids = interrupted(what)
    assert (status, stderr, len(pids)) == (130, "", 2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_who_catches_ctrl_c_may_go_on_with_the_same_workers():
    assert interrupted("go on") == (0, "", ["all"])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batch_that_one_process_would_make(ranks, name):
    dataset = small_dataset(41)
    one = Batches(dataset, None, 4 * ranks, 2, 3, augmentation=name)
    parts = [
        Batches(dataset, None, 4, 2, 3, augmentation=name, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    assert {len(part) for part in parts} == {len(one)}
    for _ in range(2):
        together = [
            (torch.cat([image for image, _ in slices]), torch.cat([label for _, label in slices]))
            for slices in zip(*parts, strict=True)
        ]
        assert same(together, list(one))


def test_ranks_share_a_dataset_smaller_than_a_batch_equally():
    parts = [Batches(small_dataset(7), None, 100, 0, 0, rank=r, ranks=2) for r in range(2)]
    labels = [next(iter(part))[1].tolist() for part in parts]
    assert [len(part) for part in labels] == [3, 3]
    assert len({*labels[0], *labels[1]}) == 6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"workers": -1}, "workers `-1`"),
        ({"rank": 2, "ranks": 2}, "rank `2`"),
        ({"rank": -1}, "rank `-1`"),
        ({"ranks": 11}, "`cifar10` has 10 images for 11 processes"),
        ({"augmentation": "x"}, "unknown augmentation `x`: choose from none, crop-flip"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(arguments, message):
    with pytest.raises(BindeployError, match=message):
        Batches(small_dataset(), None, 4, 0, 0, **arguments)


def test_evaluation_sees_every_image_once_in_order():
    dataset = small_dataset()
    parts = list(in_order(dataset.test, dataset.source.normalization, 4))
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(10))


def test_evaluation_is_the_same_with_workers_and_leaves_none_behind():
    dataset = small_dataset()
    before = set(multiprocessing.active_children())
    here = list(in_order(dataset.test, dataset.source.normalization, 4))
    there = list(in_order(dataset.test, dataset.source.normalization, 4, workers=2))
    assert same(here, there)
    next(in_order(dataset.test, dataset.source.normalization, 4, workers=2))
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_evaluate_every_image_once(ranks):
    dataset = small_dataset()
    parts = [
        in_order(dataset.test, dataset.source.normalization, 4, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    labels = [label for part in parts for _, batch in part for label in batch.tolist()]
    assert sorted(labels) == list(range(10))


def test_right_answers_of_all_ranks_add_up():
    images = np.random.default_rng(0).integers(0, 256, (600, 1, 4, 4)).astype(np.uint8)
    split = Split(images, np.arange(600) % 10)
    dataset = Dataset(split, split, tuple("0123456789"), DATASETS["mnist"])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    right = [count_right(network, dataset, rank=rank, ranks=2) for rank in range(2)]
    assert min(right) > 0
    assert sum(right) / 600 == accuracy(network, dataset) == accuracy(network, dataset, workers=1)
