"""8-bit inputs: their range, their grid and their gradient."""

from __future__ import annotations

import pytest
import torch

from bindeploy.errors import BindeployError
from bindeploy.train import activations
from bindeploy.train.layers import BinaryConv2d, BinaryLinear
from bindeploy.train.quantizers import clip_mask
from bindeploy.train.states import harden, soften


def test_integers_lie_on_the_grid_round_halves_to_even_and_stop_at_the_ends():
    maximum = torch.tensor(127.0)
    assert activations.step_of(maximum) == 1
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 127.4, 300.0, -300.0])
    expected = [0.0, 2.0, 2.0, 0.0, -2.0, 127.0, 127.0, 127.0, -128.0]
    assert activations.integers(x, maximum).tolist() == expected


def test_a_step_is_the_power_of_two_that_reaches_the_maximum():
    for maximum, step in ((127.0, 1.0), (127.1, 2.0), (1.0, 2**-6), (63.5, 0.5), (200.0, 2.0)):
        assert activations.step_of(torch.tensor(maximum)) == step


def test_a_layer_that_saw_no_batch_has_no_range():
    with pytest.raises(BindeployError, match="has seen no batch"):
        harden(BinaryLinear(2, 2, mode="bw8"))


def test_the_gradient_passes_inside_the_range_alone():
    x = torch.tensor([-3.0, -0.4, 0.7, 2.5], requires_grad=True)
    activations.integers(x, torch.tensor(127 / 128)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 0]


def test_the_maximum_is_set_by_the_first_batch_and_follows_the_others():
    running = torch.tensor(activations.UNSEEN)
    activations.follow_maximum(running, torch.tensor([-4.0, 2.0]))
    assert running.item() == 4
    activations.follow_maximum(running, torch.tensor([2.0]))
    assert running.item() == pytest.approx(3.8)


def test_a_layer_moves_its_range_in_training_alone_and_keeps_it_with_its_weights():
    layer = BinaryLinear(2, 2, mode="bw8")
    layer.eval()(torch.tensor([[3.0, 1.0]]))
    assert layer.input_maximum == activations.UNSEEN
    layer.train()(torch.tensor([[3.0, 1.0]]))
    assert layer.input_maximum == 3
    assert layer.state_dict()["input_maximum"] == 3


def test_hard_and_soft_layers_quantize_alike():
    torch.manual_seed(0)
    layer = BinaryConv2d(3, 4, 3, padding=1, method="bc", mode="bw8")
    x = torch.randn(2, 3, 6, 6)
    layer(x)
    layer.eval()
    soft = layer(4 * x)  # beyond the range that was seen
    assert torch.allclose(harden(layer)(4 * x), soft, atol=1e-5)
    soften(layer)
    unquantized = BinaryConv2d(3, 4, 3, padding=1, method="bc", mode="bw")
    unquantized.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    assert not torch.allclose(unquantized(4 * x), soft, atol=1e-3)


def test_the_hardtanh_of_the_zoo_has_one_range():
    x = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    assert activations.Hardtanh()(x).tolist() == [-1, 0.5, 1]
    with pytest.raises(TypeError):
        activations.Hardtanh(-2.0, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_clipped_gradient_of_a_sign_is_the_mask_times_the_gradient(dtype):
    one = torch.ones((), dtype=dtype)
    edges = [torch.nextafter(one, one * 2), one, torch.nextafter(one, one * 0), one * 0]
    x = torch.stack([*edges, *(-edge for edge in edges), one * 3]).requires_grad_()
    gradient = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).to(dtype)
    activations.signed(x, clip_mask, 1.0).backward(gradient)
    assert x.grad is not None
    assert torch.equal(x.grad, clip_mask(x) * gradient)
