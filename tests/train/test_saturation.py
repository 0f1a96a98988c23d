"""8-bit accumulators against a loop over every word of every output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from bindeploy.train import saturation
from bindeploy.train.layers import BinaryConv2d, BinaryLinear
from bindeploy.train.quantizers import sign
from bindeploy.train.states import harden


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def by_hand(
    x: np.ndarray, weight: np.ndarray, stride: int, dilation: int, group: int
) -> np.ndarray:
    """int8 sums in the order (kernel row, kernel column, word of 32 channels)."""
    filters, channels, rows, columns = weight.shape
    height = (x.shape[1] - dilation * (rows - 1) - 1) // stride + 1
    width = (x.shape[2] - dilation * (columns - 1) - 1) // stride + 1
    y = np.zeros((filters, height, width), int)
    for f, i, j in np.ndindex(y.shape):
        first = f // (filters // group) * channels
        total = 0
        for r, c in np.ndindex(rows, columns):
            tap = x[first : first + channels, i * stride + r * dilation, j * stride + c * dilation]
            for word in range(0, channels, 32):
                dot = int(tap[word : word + 32] @ weight[f, word : word + 32, r, c])
                total = min(max(total + dot, -128), 127)
        y[f, i, j] = total
    return y


@pytest.mark.parametrize(
    "channels, filters, stride, dilation, group",
    [(5, 3, 1, 1, 1), (70, 4, 2, 1, 1), (64, 4, 1, 2, 2), (33, 2, 1, 1, 1)],
)
def test_convolution_saturates_word_by_word(channels, filters, stride, dilation, group):
    # Mostly equal signs, so that sums run into both ends.
    x = sign(torch.randn(1, channels, 7, 6) + 1.0)
    weight = sign(torch.randn(filters, channels // group, 3, 3) + torch.tensor([1.0, -1.0])[0])
    weight[0] *= -1
    y = saturation.conv2d(x, weight, [stride] * 2, [dilation] * 2, group)
    expected = by_hand(x[0].numpy(), weight.numpy(), stride, dilation, group)
    assert np.array_equal(y[0].numpy(), expected)
    if channels // group > 30:
        assert expected.min() == -128 or expected.max() == 127


def test_order_matters_and_is_the_stated_one():
    """+128 then -32: the accumulator stops at 127, so that 95 remains where the sum is 96."""
    weight = torch.ones(1, 160)
    x = torch.ones(1, 160)
    x[:, 128:] = -1
    assert saturation.linear(x, weight).item() == 95
    assert saturation.linear(x.flip(1), weight).item() == 96


def test_layers_of_few_taps_never_saturate():
    layer = BinaryConv2d(14, 6, 3, mode="bwaa", method="bc")
    exact = BinaryConv2d(14, 6, 3, mode="bwa", method="bc")
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(2, 14, 5, 5)
    assert torch.equal(layer.dot(x), exact.dot(x))
    assert torch.allclose(layer(x), exact(x), atol=1e-5)


def test_soft_values_are_the_saturated_ones_and_the_gradient_that_of_exact_sums():
    for layer, x in (
        (BinaryLinear(300, 4, method="bc", mode="bwaa"), torch.ones(1, 300)),
        (BinaryConv2d(300, 4, 1, method="bc", mode="bwaa"), torch.ones(1, 300, 1, 1)),
    ):
        torch.nn.init.constant_(layer.weight, 0.5)
        y = layer(x)
        assert torch.allclose(y.flatten(), 127 * layer.filter_scale() + layer.bias)
        y.sum().backward()
        assert torch.equal(layer.weight.grad.flatten(1), torch.ones(4, 300))
        assert torch.allclose(harden(layer)(x), y)


def test_random_weights_are_drawn_once_a_step():
    layer = BinaryLinear(20, 3, bias=False, method="bc-stochastic", mode="bwaa")
    torch.nn.init.zeros_(layer.weight)
    x = torch.full((1, 20), 0.5, requires_grad=True)
    y = layer(x)
    for column in range(3):
        (drawn,) = torch.autograd.grad(y[0, column], x, retain_graph=True)
        assert drawn.sum() == y[0, column]


def test_hard_layer_is_its_integers_times_scale_plus_bias():
    layer = BinaryConv2d(200, 8, 3, padding=1, mode="bwaa")
    torch.nn.init.constant_(layer.weight[0], 0.1)
    x = torch.randn(1, 200, 4, 4) + 0.5
    dot = layer.dot(x)
    assert int(dot.max()) == 127 and int(dot.min()) >= -128
    assert not torch.equal(
        dot.float(),
        functional.conv2d(functional.pad(sign(x), (1, 1, 1, 1), value=1.0), sign(layer.weight)),
    )
    expected = layer.filter_scale().view(-1, 1, 1) * dot + layer.bias.view(-1, 1, 1)
    assert torch.equal(harden(layer)(x), expected)
