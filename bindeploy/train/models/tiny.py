"""A network that trains in seconds and holds every kind of binary layer the road has to carry."""

from __future__ import annotations

from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train.models.nonlinearity import nonlinearity as activation

SMALLEST_IMAGE = 4
LARGE_IMAGE = 16
"""From this size on the first convolution takes every second pixel."""


class Tiny(nn.Module):
    """conv - conv - conv, stride 2 - max pool - dense - dense, a BatchNorm after each but the last.

    About 45,000 parameters on 8x8 images of one channel. The second convolution is followed by
    BatchNorm and a binarization (a threshold), the third by a pooling first, the hidden dense layer
    reads a flattened image.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise BindeployError(
                f"image size `{image_size}` is too small for tiny: give {SMALLEST_IMAGE} or more"
            )
        stride = 2 if image_size >= LARGE_IMAGE else 1
        side = -(-image_size // stride)
        pooled = -(-side // 2) // 2
        self.conv0 = nn.Conv2d(in_channels, 32, 3, stride=stride, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(32)
        self.nonlinear0 = activation(nonlinearity, 32)
        self.conv1 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.nonlinear1 = activation(nonlinearity, 32)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.pooling = nn.MaxPool2d(2)
        self.bn2 = nn.BatchNorm2d(64)
        self.nonlinear2 = activation(nonlinearity, 64)
        self.fc0 = nn.Linear(64 * pooled * pooled, 64, bias=False)
        self.bn3 = nn.BatchNorm1d(64)
        self.nonlinear3 = activation(nonlinearity, 64)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.nonlinear0(self.bn0(self.conv0(x)))
        x = self.nonlinear1(self.bn1(self.conv1(x)))
        x = self.nonlinear2(self.bn2(self.pooling(self.conv2(x))))
        x = self.nonlinear3(self.bn3(self.fc0(x.flatten(1))))
        return self.fc(x)
