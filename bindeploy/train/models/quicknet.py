"""QuickNet, the network of "Larq Compute Engine" (Bannink et al., MLSys 2021, section 5).

It is fast because what stays float is cheap: a thin stem, and a pointwise convolution on a quarter
of the pixels between its sections.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.errors import BindeployError

SMALLEST_IMAGE = 29
"""Below it, nothing is left for the third transition to pool."""

BINOMIAL = (1.0, 2.0, 1.0)


class Stem(nn.Module):
    """A 3x3 convolution to a quarter of the filters, a depthwise one, a pointwise one.

    Both 3x3 convolutions take every second pixel: [N, in_channels, H, W] -> [N, filters, H/4, W/4].
    """

    def __init__(self, in_channels: int, filters: int) -> None:
        super().__init__()
        thin = filters // 4
        self.conv = nn.Conv2d(in_channels, thin, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(thin)
        self.depthwise = nn.Conv2d(thin, thin, 3, stride=2, padding=1, groups=thin, bias=False)
        self.bn2 = nn.BatchNorm2d(thin, affine=False)
        self.pointwise = nn.Conv2d(thin, filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv(x)))
        return self.bn3(self.pointwise(self.bn2(self.depthwise(x))))


class Residual(nn.Module):
    """x + BatchNorm(ReLU(convolution(x))), one 3x3 convolution with a shortcut of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(functional.relu(self.conv(x)))


class BlurPool(nn.Conv2d):
    """A fixed depthwise 3x3 binomial filter on every second pixel (Zhang, 2019), never trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
        row = torch.tensor(BINOMIAL) / sum(BINOMIAL)
        kernel = torch.outer(row, row).repeat(channels, 1, 1, 1)
        self.weight = nn.Parameter(kernel, requires_grad=False)


class Transition(nn.Module):
    """Half the pixels and more channels: ReLU, max pool, blur, and a pointwise convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pooling = nn.MaxPool2d(2, stride=1)
        self.blur = BlurPool(in_channels)
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pointwise(self.blur(self.pooling(functional.relu(x)))))


class QuickNet(nn.Module):
    """A stem, four sections of residual convolutions, a dense layer.

    `filters` and `blocks` give the channels and the convolutions of each section. The nonlinearity
    is ReLU, as published, whatever `nonlinearity` says. The stem pads on all sides (convention; the
    published network, by Keras, on the right and the bottom alone).
    """

    float_layers: tuple[str, ...] = ("stem.*", "sections.*.pointwise")

    def __init__(
        self,
        in_channels: int,
        classes: int,
        image_size: int,
        nonlinearity: str,
        filters: tuple[int, ...] = (64, 128, 256, 512),
        blocks: tuple[int, ...] = (4, 4, 4, 4),
    ) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise BindeployError(
                f"image size `{image_size}` is too small for quicknet:"
                f" give {SMALLEST_IMAGE} or more"
            )
        self.stem = Stem(in_channels, filters[0])
        sections, channels = [], filters[0]
        for width, count in zip(filters, blocks, strict=True):
            entry = [] if width == channels else [Transition(channels, width)]
            sections.append(nn.Sequential(*entry, *(Residual(width) for _ in range(count))))
            channels = width
        self.sections = nn.Sequential(*sections)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.sections(self.stem(x)))
        return self.fc(self.average(x).flatten(1))


quicknet = QuickNet
"""1,850 million binary and 30 million float multiply-accumulates on 224x224x3 images; 12.5 million
binary and 0.7 million float parameters."""

quicknet_small = partial(QuickNet, filters=(32, 64, 256, 512))
"""Half the channels in the first two sections: 1,156 million binary multiply-accumulates."""

quicknet_large = partial(QuickNet, blocks=(6, 8, 12, 6))
"""Twice as many convolutions in all: 3,699 million binary multiply-accumulates."""
