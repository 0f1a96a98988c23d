"""Padding with ones by the convolution of a frame: values and gradients of a padded copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from bindeploy.train.layers import BinaryConv2d


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": (2, 0), "stride": (1, 2)},
        {"padding": 2, "dilation": 2, "groups": 2},
        {"padding": "same", "kernel_size": 2},
        {"padding": 0},
    ],
)
def test_values_and_gradients_are_those_of_a_padded_copy(options, channels_last):
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 6, method="bnn++", **{"kernel_size": 3, **options}).double()
    x = torch.randn(5, 4, 7, 6, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    y = layer(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    found = [x.grad, layer.weight.grad, layer.bias.grad]
    top, left, bottom, right = layer.pads
    x.grad = layer.weight.grad = layer.bias.grad = None
    padded = functional.pad(layer.soft_input(x), (left, right, top, bottom), value=1.0)
    expected = functional.conv2d(
        padded, layer.soft_weight(), layer.bias, layer.stride, 0, layer.dilation, layer.groups
    )
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    expected.backward(gradient)
    for mine, theirs in zip(found, [x.grad, layer.weight.grad, layer.bias.grad], strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


def test_an_image_without_a_batch_and_a_batch_without_an_image_are_padded_alike():
    layer = BinaryConv2d(3, 4, 3, padding=1, method="bnn++")
    image = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(layer(image), layer(image[None])[0], rtol=0, atol=1e-6)
    layer(image).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    layer.zero_grad()
    layer(torch.zeros(0, 3, 5, 5)).sum().backward()
    assert not layer.weight.grad.any()
