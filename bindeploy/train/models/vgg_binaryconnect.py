"""The VGG of BinaryConnect (2015), which "Training Quantized Nets" (2017) trains on CIFAR too."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train.models.nonlinearity import nonlinearity as activation

SMALLEST_IMAGE = 8
FILTERS = (128, 128, 256, 256, 512, 512)


class VGGBinaryConnect(nn.Module):
    """Six 3x3 convolutions, two hidden dense layers of 1024, one dense layer to the classes.

    Each is convolution, max pool after every second, BatchNorm, nonlinearity. On 32x32x3 images 613
    million binary and 3.5 million float multiply-accumulates, 14.0 million binary and 0.02 million
    float parameters. Parameter names are those of the PyTorch implementation of Binarized Neural
    Networks (itayhubara/BinaryNet.pytorch), without the biases before a BatchNorm, which takes them
    off again, and without the BatchNorm of the logits, which belongs to the hinge loss.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise BindeployError(
                f"image size `{image_size}` is too small for vgg-binaryconnect:"
                f" give {SMALLEST_IMAGE} or more"
            )
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise((in_channels, *FILTERS))):
            layers.append(nn.Conv2d(before, after, 3, padding=1, bias=False))
            if index % 2:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.BatchNorm2d(after), activation(nonlinearity, after)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * (image_size // 8) ** 2, 1024, bias=False),
            nn.BatchNorm1d(1024),
            activation(nonlinearity, 1024),
            nn.Linear(1024, 1024, bias=False),
            nn.BatchNorm1d(1024),
            activation(nonlinearity, 1024),
            nn.Linear(1024, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
