"""ResNets for ImageNet (He et al., 2015), with torchvision's parameter names."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from bindeploy.train.models.nonlinearity import nonlinearity as activation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, nonlinearity: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.nonlinear1 = activation(nonlinearity, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)
        self.nonlinear2 = activation(nonlinearity, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.nonlinear1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.nonlinear2(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last gives four times the channels.

    The stride is that of the 3x3 convolution, as in torchvision.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, nonlinearity: str) -> None:
        super().__init__()
        widened = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.nonlinear1 = activation(nonlinearity, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.nonlinear2 = activation(nonlinearity, channels)
        self.conv3 = nn.Conv2d(channels, widened, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(widened)
        self.downsample = _shortcut(in_channels, widened, stride)
        self.nonlinear3 = activation(nonlinearity, widened)

    def forward(self, x: Tensor) -> Tensor:
        y = self.nonlinear1(self.bn1(self.conv1(x)))
        y = self.nonlinear2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.nonlinear3(y + self.downsample(x))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    """x itself, or a 1x1 convolution and BatchNorm where size or channels change."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    convolution = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


class ResNet(nn.Module):
    """A 7x7 convolution and a max pool, four stages of `blocks` blocks, one dense layer.

    Any image size works. The 1x1 convolutions of the shortcuts stay float: what passes them is all
    of the float sum that the next stage sees.
    """

    float_layers = ("*.downsample.0",)

    def __init__(
        self,
        in_channels: int,
        classes: int,
        image_size: int,
        nonlinearity: str,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.nonlinear = activation(nonlinearity, 64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        wide = block.expansion
        self.layer1 = _stage(block, blocks[0], 64, 64, 1, nonlinearity)
        self.layer2 = _stage(block, blocks[1], 64 * wide, 128, 2, nonlinearity)
        self.layer3 = _stage(block, blocks[2], 128 * wide, 256, 2, nonlinearity)
        self.layer4 = _stage(block, blocks[3], 256 * wide, 512, 2, nonlinearity)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * wide, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.nonlinear(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    blocks: int,
    in_channels: int,
    channels: int,
    stride: int,
    nonlinearity: str,
) -> nn.Sequential:
    first = block(in_channels, channels, stride, nonlinearity)
    widened = block.expansion * channels
    rest = (block(widened, channels, 1, nonlinearity) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


resnet18 = partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2))
"""On 224x224x3 images 1676 million binary and 138 million float multiply-accumulates, 11.0 million
binary and 0.7 million float parameters."""

resnet50 = partial(ResNet, block=Bottleneck, blocks=(3, 4, 6, 3))
"""On 224x224x3 images 3.6 billion binary and 0.5 billion float multiply-accumulates, 20.7 million
binary and 4.9 million float parameters."""
