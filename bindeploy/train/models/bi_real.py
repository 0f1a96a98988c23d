"""Bi-Real Net (2018): ResNet-18 with a shortcut around every convolution."""

from __future__ import annotations

from torch import Tensor, nn

from bindeploy.train.models.nonlinearity import nonlinearity as activation


class Block(nn.Module):
    """x + BatchNorm(conv(nonlinearity(x))): the sum passes every layer as the float it is.

    The nonlinearity stands in the branch, before the convolution: a Hardtanh there is the clip of
    the paper's float stage, and none once the convolution takes signs. Where the image is halved,
    the shortcut is a mean over 2x2 pixels (over what is there at an odd edge), a 1x1 convolution
    and BatchNorm.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, nonlinearity: str) -> None:
        super().__init__()
        self.nonlinear = activation(nonlinearity, in_channels)
        self.binary_conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(in_channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.binary_conv(self.nonlinear(x))) + self.downsample(x)


class BiReal18(nn.Module):
    """A 7x7 convolution and a max pool, four stages of four blocks, one dense layer.

    On 224x224x3 images 1676 million binary and 138 million float multiply-accumulates, 11.0 million
    binary and 0.7 million float parameters; any image size works. The convolutions of the shortcuts
    stay float. Names are those of the authors' PyTorch implementation (liuzechun/Bi-Real-net),
    which holds `binary_conv.weight` as one column, `binary_conv.weights`.
    """

    float_layers = ("*.downsample.1",)

    def __init__(self, in_channels: int, classes: int, image_size: int, nonlinearity: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 1, nonlinearity)
        self.layer2 = _stage(64, 128, 2, nonlinearity)
        self.layer3 = _stage(128, 256, 2, nonlinearity)
        self.layer4 = _stage(256, 512, 2, nonlinearity)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(in_channels: int, channels: int, stride: int, nonlinearity: str) -> nn.Sequential:
    first = Block(in_channels, channels, stride, nonlinearity)
    return nn.Sequential(first, *(Block(channels, channels, 1, nonlinearity) for _ in range(3)))
