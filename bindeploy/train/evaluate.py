"""How many test images a network gets right, soft and hard."""

from __future__ import annotations

import torch
from torch import nn

from bindeploy.train.batches import in_order
from bindeploy.train.data import Dataset
from bindeploy.train.states import harden, soften

BATCH = 250


@torch.no_grad()
def accuracy(network: nn.Module, dataset: Dataset, precision: str = "float32") -> float:
    """The share of test images that `network` classifies rightly, in the state it is in."""
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    right = 0
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for images, labels in in_order(dataset.test, dataset.source.normalization, BATCH):
            images = images.to(device, memory_format=torch.channels_last)
            right += int((network(images).argmax(1).cpu() == labels).sum())
    network.train(training)
    return right / len(dataset.test.labels)


def hard_accuracy(network: nn.Module, dataset: Dataset) -> float:
    """The same with hard weights, which is what is shipped.

    It is computed in float32, where every integer is exact. BatchNorm statistics stay those of the
    soft network: measured again on the hard one they gained less than the spread between seeds.
    """
    harden(network)
    try:
        return accuracy(network, dataset)
    finally:
        soften(network)
