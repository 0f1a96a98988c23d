"""A binary network that knows nothing of bindeploy: hand-written layers, exported by torch alone.

python examples/foreign_network.py NETWORK.onnx

Then: bindeploy convert NETWORK.onnx BITS.onnx --explain
"""

import sys

import torch
from torch import nn
from torch.nn import functional


def sign(x: torch.Tensor) -> torch.Tensor:
    """+-1 with a straight-through estimator: the gradient is that of hardtanh."""
    clipped = x.clamp(-1, 1)
    return (torch.where(x >= 0, 1.0, -1.0) - clipped).detach() + clipped


class BinaryConvolution(nn.Conv2d):
    """Signs of the input, signs of the weights times their mean magnitude (XNOR-Net)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return functional.conv2d(
            sign(x), scale * sign(self.weight), None, self.stride, self.padding, groups=self.groups
        )


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.norm0 = nn.BatchNorm2d(40)
        self.conv1 = BinaryConvolution(40, 72, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(72)
        self.depthwise = BinaryConvolution(72, 72, 3, padding=1, groups=72)
        self.norm2 = nn.BatchNorm2d(72)
        self.slope = nn.PReLU(72)
        self.conv3 = BinaryConvolution(72, 96, 1)
        self.norm3 = nn.BatchNorm2d(96)
        self.classify = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm0(self.stem(x))
        x = self.norm1(functional.max_pool2d(self.conv1(x), 2))
        x = self.slope(self.norm2(self.depthwise(x)))
        x = functional.relu(self.norm3(self.conv3(x)))
        return self.classify(x.mean((2, 3)))


def network() -> nn.Module:
    """With the BatchNorm statistics of some training."""
    torch.manual_seed(0)
    model = Network().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.bias)
    return model


def main(out: str) -> None:
    image = torch.randn(2, 3, 16, 16)
    torch.onnx.export(
        network(),
        (image,),
        out,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("images")},),
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    main(sys.argv[1])
