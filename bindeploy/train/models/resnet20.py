"""ResNet-20 for CIFAR (He et al., 2015, section 4.2), as binarized by IR-Net (2020)."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.train.models.nonlinearity import NONLINEARITIES


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A).

    Where the block halves the image and doubles the channels, the shortcut takes every second pixel
    and pads the channels with zeros, half of them on either side.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, nonlinearity: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.nonlinear = NONLINEARITIES[nonlinearity]()
        self.stride = stride
        self.added_channels = channels - in_channels

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.added_channels == 0:
            return x
        side = self.added_channels // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))

    def forward(self, x: Tensor) -> Tensor:
        y = self.nonlinear(self.bn1(self.conv1(x)))
        return self.nonlinear(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """One convolution, three stages of three blocks with 16, 32 and 64 channels, one dense layer.

    On 32x32x3 images 40 million binary and 0.4 million float multiply-accumulates, 0.27 million
    parameters. Any image size works.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.nonlinear = NONLINEARITIES[nonlinearity]()
        self.layer1 = _stage(16, 16, 1, nonlinearity)
        self.layer2 = _stage(16, 32, 2, nonlinearity)
        self.layer3 = _stage(32, 64, 2, nonlinearity)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.nonlinear(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.average(x).flatten(1))


def _stage(in_channels: int, channels: int, stride: int, nonlinearity: str) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, nonlinearity)
    return nn.Sequential(
        first, *(BasicBlock(channels, channels, 1, nonlinearity) for _ in range(2))
    )
