"""AlexNet as XNOR-Net (2016) binarizes it: a BatchNorm before every binary layer, not after it."""

from __future__ import annotations

from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train.models.nonlinearity import nonlinearity as activation

SMALLEST_IMAGE = 63
EPSILON = 1e-4
"""What the BatchNorms before the binary layers add to a variance."""


class Convolution(nn.Module):
    """BatchNorm, nonlinearity, convolution; the image keeps its size."""

    def __init__(self, in_channels: int, channels: int, kernel: int, nonlinearity: str) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels, EPSILON)
        self.nonlinear = activation(nonlinearity, in_channels)
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.nonlinear(self.bn(x)))


class Dense(nn.Module):
    """The given BatchNorm, nonlinearity, dense layer; x [N, channels] or [N, channels, H, W].

    An image of `pixels` in all is flattened after it is normalized, a channel as a whole, as in
    XNOR-Net's own network, where this layer is a convolution.
    """

    def __init__(
        self,
        normalization: nn.BatchNorm1d | nn.BatchNorm2d,
        pixels: int,
        features: int,
        nonlinearity: str,
    ) -> None:
        super().__init__()
        channels = normalization.num_features
        self.bn = normalization
        self.nonlinear = activation(nonlinearity, channels)
        self.linear = nn.Linear(channels * pixels, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(self.bn(x)).flatten(1))


class AlexNet(nn.Module):
    """Five convolutions of 96, 256, 384, 384 and 256 filters, dense layers of 4096 and 4096.

    On 224x224x3 images 1026 million binary and 110 million float multiply-accumulates, 58.2 million
    binary and 4.2 million float parameters. Parameter names are those of jiecaoyu/XNOR-Net-PyTorch.
    Where the two differ, the layers are those of the authors' own network (allenai/XNOR-Net): order
    BatchNorm, sign, convolution, pool, with bits alone between binary layers; a first convolution
    that pads by 2; one BatchNorm value a channel before the dense layers. Dropout is left to the
    last layer: before a sign it would set bits.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise BindeployError(
                f"image size `{image_size}` is too small for alexnet: give {SMALLEST_IMAGE} or more"
            )
        side = (image_size + 4 - 11) // 4 + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 11, stride=4, padding=2),
            nn.BatchNorm2d(96, EPSILON),
            activation(nonlinearity, 96),
            nn.MaxPool2d(3, stride=2),
            Convolution(96, 256, 5, nonlinearity),
            nn.MaxPool2d(3, stride=2),
            Convolution(256, 384, 3, nonlinearity),
            Convolution(384, 384, 3, nonlinearity),
            Convolution(384, 256, 3, nonlinearity),
            nn.MaxPool2d(3, stride=2),
        )
        self.classifier = nn.Sequential(
            Dense(nn.BatchNorm2d(256, EPSILON), side * side, 4096, nonlinearity),
            Dense(nn.BatchNorm1d(4096, EPSILON), 1, 4096, nonlinearity),
            nn.BatchNorm1d(4096, 1e-3),
            nn.Sequential(activation(nonlinearity, 4096), nn.Dropout(0.5)),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
