"""ResNets for CIFAR (He et al., 2015, section 4.2), as binarized by IR-Net (2020).

Parameter names are those of Idelbayev's PyTorch implementation (akamaster/pytorch_resnet_cifar10).
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.train.models.nonlinearity import nonlinearity as activation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A).

    Where the block halves the image and doubles the channels, the shortcut takes every second pixel
    and pads the channels with zeros, half of them on either side.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, nonlinearity: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.nonlinear1 = activation(nonlinearity, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.nonlinear2 = activation(nonlinearity, channels)
        self.stride = stride
        self.added_channels = channels - in_channels

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.added_channels == 0:
            return x
        side = self.added_channels // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))

    def forward(self, x: Tensor) -> Tensor:
        y = self.nonlinear1(self.bn1(self.conv1(x)))
        return self.nonlinear2(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """One convolution, three stages of `blocks` blocks with w, 2w and 4w channels, one dense layer.

    That is 6 blocks + 2 layers with weights. Any image size works.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        image_size: int,
        nonlinearity: str,
        *,
        blocks: int,
        width: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.nonlinear = activation(nonlinearity, width)
        self.layer1 = _stage(blocks, width, width, 1, nonlinearity)
        self.layer2 = _stage(blocks, width, 2 * width, 2, nonlinearity)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, nonlinearity)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.nonlinear(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.average(x).flatten(1))


def _stage(
    blocks: int, in_channels: int, channels: int, stride: int, nonlinearity: str
) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, nonlinearity)
    rest = (BasicBlock(channels, channels, 1, nonlinearity) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


resnet20 = partial(ResNet, blocks=3, width=16)
"""On 32x32x3 images 40 million binary and 0.4 million float multiply-accumulates, 0.27 million
parameters."""

resnet56 = partial(ResNet, blocks=9, width=16)
"""On 32x32x3 images 125 million binary and 0.4 million float multiply-accumulates, 0.85 million
parameters."""

wrn56_2 = partial(ResNet, blocks=9, width=32)
"""ResNet-56 with twice the channels everywhere: 500 million binary multiply-accumulates and 3.4
million parameters on 32x32x3 images, four times those of ResNet-56 (convention: so read is the name
in "Training Quantized Nets" (2017). In Wide Residual Networks (2016) the depth is 6 n + 4 and the
first convolution stays narrow)."""
