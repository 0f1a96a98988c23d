"""ReActNet-A (Liu et al., 2020): MobileNet with binary convolutions and learned shifts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bindeploy.errors import BindeployError

STAGES = (64, 128, 128, 256, 256, *6 * (512,), 1024, 1024)
"""Output channels of each block; the first has 32 at its input."""

REDUCTION = 32
"""By how much an edge of the image shrinks; the average pools of the shortcuts need it whole."""


class LearnableBias(nn.Module):
    """x + a learned number a channel: [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class FirstConvolution(nn.Module):
    """A 3x3 convolution on every second pixel, and its BatchNorm."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x))


class Block(nn.Module):
    """A 3x3 and a 1x1 convolution, each beside a shortcut; the inputs of both are shifted.

    RSign, a shift and then a sign, is `move11` or `move21` before a binary convolution, which takes
    the sign. RPReLU is a shift, PReLU and another shift: `move12`, `prelu1`, `move13`. A block that
    doubles the channels has two 1x1 convolutions side by side, each with the same shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.move11 = LearnableBias(in_channels)
        self.binary_3x3 = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.shortcut = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.move12 = LearnableBias(in_channels)
        self.prelu1 = nn.PReLU(in_channels)
        self.move13 = LearnableBias(in_channels)

        self.doubles = channels == 2 * in_channels
        self.move21 = LearnableBias(in_channels)
        if self.doubles:
            self.binary_pw_down1 = nn.Conv2d(in_channels, in_channels, 1, bias=False)
            self.binary_pw_down2 = nn.Conv2d(in_channels, in_channels, 1, bias=False)
            self.bn2_1 = nn.BatchNorm2d(in_channels)
            self.bn2_2 = nn.BatchNorm2d(in_channels)
        else:
            self.binary_pw = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
        self.move22 = LearnableBias(channels)
        self.prelu2 = nn.PReLU(channels)
        self.move23 = LearnableBias(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.binary_3x3(self.move11(x))) + self.shortcut(x)
        y = self.move13(self.prelu1(self.move12(y)))
        z = self.move21(y)
        if self.doubles:
            first = self.bn2_1(self.binary_pw_down1(z)) + y
            second = self.bn2_2(self.binary_pw_down2(z)) + y
            z = torch.cat([first, second], dim=1)
        else:
            z = self.bn2(self.binary_pw(z)) + y
        return self.move23(self.prelu2(self.move22(z)))


class ReActNetA(nn.Module):
    """One convolution, 13 blocks of 64 to 1024 channels, one dense layer.

    On 224x224x3 images 4,817 million binary and 11.9 million float multiply-accumulates, 28.3
    million binary and 1.1 million float parameters. Parameter names are those of the authors'
    network with float weights, from which they train the binary one. The nonlinearity is RPReLU,
    whatever `nonlinearity` says.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        if image_size < 1 or image_size % REDUCTION:
            raise BindeployError(
                f"image size `{image_size}` does not fit reactnet-a: give a multiple of {REDUCTION}"
            )
        self.feature = nn.ModuleList([FirstConvolution(in_channels, 32)])
        width = 32
        for channels in STAGES:
            stride = 2 if channels != width and width != 32 else 1
            self.feature.append(Block(width, channels, stride))
            width = channels
        self.pool1 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.feature:
            x = block(x)
        return self.fc(self.pool1(x).flatten(1))
