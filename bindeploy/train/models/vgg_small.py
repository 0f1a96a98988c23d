"""VGG-Small, the CIFAR network of LQ-Nets (2018) and IR-Net (2020)."""

from __future__ import annotations

from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train.models.nonlinearity import nonlinearity as activation

SMALLEST_IMAGE = 8


class VGGSmall(nn.Module):
    """Six 3x3 convolutions of 128, 128, 256, 256, 512, 512 filters and one dense layer.

    Each is convolution, max pool after every second, BatchNorm, nonlinearity. On 32x32x3 images 604
    million binary and 3.6 million float multiply-accumulates, 4.57 million binary and 0.09 million
    float parameters. Parameter names are IR-Net's.
    """

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise BindeployError(
                f"image size `{image_size}` is too small for vgg-small:"
                f" give {SMALLEST_IMAGE} or more"
            )
        self.conv0 = nn.Conv2d(in_channels, 128, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(128)
        self.nonlinear0 = activation(nonlinearity, 128)
        self.conv1 = nn.Conv2d(128, 128, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.nonlinear1 = activation(nonlinearity, 128)
        self.conv2 = nn.Conv2d(128, 256, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(256)
        self.nonlinear2 = activation(nonlinearity, 256)
        self.conv3 = nn.Conv2d(256, 256, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(256)
        self.nonlinear3 = activation(nonlinearity, 256)
        self.conv4 = nn.Conv2d(256, 512, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(512)
        self.nonlinear4 = activation(nonlinearity, 512)
        self.conv5 = nn.Conv2d(512, 512, 3, padding=1, bias=False)
        self.bn5 = nn.BatchNorm2d(512)
        self.nonlinear5 = activation(nonlinearity, 512)
        self.fc = nn.Linear(512 * (image_size // 8) ** 2, classes)
        self.pooling = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.nonlinear0(self.bn0(self.conv0(x)))
        x = self.nonlinear1(self.bn1(self.pooling(self.conv1(x))))
        x = self.nonlinear2(self.bn2(self.conv2(x)))
        x = self.nonlinear3(self.bn3(self.pooling(self.conv3(x))))
        x = self.nonlinear4(self.bn4(self.conv4(x)))
        x = self.nonlinear5(self.bn5(self.pooling(self.conv5(x))))
        return self.fc(x.flatten(1))
