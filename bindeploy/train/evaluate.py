"""How many test images a network gets right, soft and hard."""

from __future__ import annotations

import torch
from torch import nn

from bindeploy.train.batches import in_order
from bindeploy.train.data import Dataset

BATCH = 250


def accuracy(
    network: nn.Module, dataset: Dataset, precision: str = "float32", workers: int = 0
) -> float:
    """The share of test images that `network` classifies rightly, in the state it is in.

    `workers` processes read the images ahead, which pays where they come from files.
    """
    right = count_right(network, dataset, precision, workers)
    return right / len(dataset.test.labels)


@torch.no_grad()
def count_right(
    network: nn.Module,
    dataset: Dataset,
    precision: str = "float32",
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> int:
    """How many test images `network` classifies rightly, of those that are this rank's.

    Every image is of one rank, so that the numbers of all ranks add up.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    split, normalization = dataset.test, dataset.source.normalization
    batches = in_order(split, normalization, BATCH, workers=workers, rank=rank, ranks=ranks)
    right = 0
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for images, labels in batches:
            images = images.to(device, memory_format=torch.channels_last)
            right += int((network(images).argmax(1).cpu() == labels).sum())
    network.train(training)
    return right
