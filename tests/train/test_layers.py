"""Binary layers, soft and hard, and turning any module into a binary one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

import bindeploy.train.layers as layers
from bindeploy.errors import BindeployError
from bindeploy.train import quantizers
from bindeploy.train.binarization import binarize, first_and_last
from bindeploy.train.layers import BinaryConv2d, BinaryLinear, BinarySign
from bindeploy.train.quantizers import QUANTIZERS, Quantizer
from bindeploy.train.states import frozen_share, harden, set_sharpness, soften

LINEAR_DATA = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
TARGET = torch.randn(40, 5, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def trained(quantizer: str | Quantizer, steps: int = 20) -> torch.Tensor:
    """Latent weight after `steps` of SGD on a least-squares loss, without a scale."""
    layer = BinaryLinear(12, 5, bias=False, method=quantizer, mode="bw", scale="none")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.mse_loss(layer(LINEAR_DATA), TARGET).backward()
        optimizer.step()
    return layer.weight.detach()


def by_hand(forward, steps: int = 20) -> torch.Tensor:
    """u <- u - eta g(F(u)), written out."""
    u = BinaryLinear(12, 5, bias=False, mode="bw").weight.detach().clone()
    for _ in range(steps):
        w = forward(u).requires_grad_()
        loss = functional.mse_loss(functional.linear(LINEAR_DATA, w), TARGET)
        (gradient,) = torch.autograd.grad(loss, w)
        u = u.add(gradient, alpha=-0.05)  # rounded once, as torch.optim.SGD does
    return u


def reseeded(function, *arguments):
    torch.manual_seed(3)
    return function(*arguments)


def test_sign_and_one_is_binary_connect_bit_for_bit():
    assert torch.equal(reseeded(trained, "bc"), reseeded(by_hand, quantizers.sign))


def test_identity_and_one_is_plain_gradient_descent_bit_for_bit():
    plain = Quantizer("plain", lambda u, mu: u.clone(), quantizers.one)
    assert torch.equal(reseeded(trained, plain), reseeded(by_hand, lambda u: u.clone()))


def test_transformed_pair_is_proxconnect_on_the_transformed_loss():
    """(T o P, T' o P) on l is (P, 1) on l o T, to 1e-12 in float64."""

    def transformed(p):
        return p + p**3 / 3

    def proximal(u, mu):
        return u.clamp(-1, 1)

    pair = Quantizer(
        "pair", lambda u, mu: transformed(proximal(u, mu)), lambda u, mu: 1 + proximal(u, mu) ** 2
    )
    layer = BinaryLinear(12, 5, bias=False, method=pair, mode="bw", scale="none").double()
    u = layer.weight.detach().clone()
    data, target = LINEAR_DATA.double(), TARGET.double()
    for _ in range(20):
        layer.weight.grad = None
        functional.mse_loss(layer(data), target).backward()
        with torch.no_grad():
            layer.weight -= 0.05 * layer.weight.grad
        p = proximal(u, 1.0).requires_grad_()
        loss = functional.mse_loss(functional.linear(data, transformed(p)), target)
        u = u - 0.05 * torch.autograd.grad(loss, p)[0]
    assert torch.allclose(layer.weight, u, rtol=0, atol=1e-12)


PAIRS = [
    name
    for name, row in QUANTIZERS.items()
    if row.gradient_at == "w" and row.gradient is None and not row.standardize
]


@pytest.mark.parametrize("name", PAIRS)
def test_weight_is_alpha_times_f_and_its_gradient_b_times_the_gradient(name):
    method = QUANTIZERS[name]
    layer = BinaryConv2d(3, 4, 3, method=name, mode="bw", scale="filter")
    set_sharpness(layer, 1.5)
    u = layer.weight.detach()
    alpha = u.abs().mean((1, 2, 3), keepdim=True)
    weight = reseeded(layer.soft_weight)
    gradient = torch.randn_like(weight)
    weight.backward(gradient)
    assert torch.equal(weight, alpha * reseeded(method.F, u, 1.5))
    assert torch.equal(layer.weight.grad, method.B(u, 1.5) * gradient)


@pytest.mark.parametrize("name", [n for n, row in QUANTIZERS.items() if row.gradient_at == "u"])
def test_methods_with_the_gradient_at_u_train_with_u_itself(name):
    layer = BinaryLinear(4, 3, method=name, mode="bw", bias=False)
    x = torch.randn(2, 4)
    assert torch.equal(layer(x), functional.linear(x, layer.weight))
    scale = layer.filter_scale()
    hard = harden(layer)(x)
    assert torch.allclose(hard, scale * functional.linear(x, quantizers.sign(layer.weight)))


def test_xnor_net_learns_through_its_scale():
    """The gradient of alpha sign(u) with alpha = mean |u|, straight-through for the sign."""
    layer = BinaryLinear(5, 3, method="xnor", mode="bw")
    gradient = torch.randn(3, 5)
    layer.soft_weight().backward(gradient)
    u = layer.weight.detach().clone().requires_grad_()
    through = quantizers.sign(u.detach()) + u.clamp(-1, 1) - u.detach().clamp(-1, 1)
    (u.abs().mean(1, keepdim=True) * through).backward(gradient)
    assert torch.allclose(layer.weight.grad, u.grad, atol=1e-7)


def test_ir_net_balances_its_filters_and_ships_them_balanced():
    layer = BinaryConv2d(3, 4, 3, method="ir-net", mode="bw", bias=False)
    with torch.no_grad():
        layer.weight += 0.5  # all positive: without the balance one sign alone
    scale = layer.filter_scale()
    assert torch.equal(scale.log2(), scale.log2().round())
    x = torch.randn(1, 3, 5, 5)
    weight = layer.soft_weight()
    assert (weight > 0).any() and (weight < 0).any()
    hard = harden(layer)(x)
    assert torch.allclose(hard, functional.conv2d(x, weight), atol=1e-5)
    weight.sum().backward()  # the gradient passes through mean and deviation
    rows = layer.weight.grad.flatten(1)
    assert torch.allclose(rows.sum(1), torch.zeros(4), atol=1e-4)


@pytest.mark.parametrize("scale", ["filter", "layer", "none", "power-of-two"])
def test_scales_are_what_their_names_say(scale):
    layer = BinaryLinear(3, 2, scale=scale)
    layer.weight.data = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.5, -0.5]])
    expected = {
        "filter": [2.0, 0.5],
        "layer": [1.25, 1.25],
        "none": [1.0, 1.0],
        "power-of-two": [2.0, 0.5],
    }
    assert layer.filter_scale().tolist() == expected[scale]
    layer.weight.data.zero_()
    assert layer.filter_scale().isfinite().all()


def test_a_learned_shift_moves_what_is_binarized_and_gets_a_gradient():
    layer = BinaryConv2d(2, 3, 3, padding=1, learned_shift=True)
    x = torch.full((1, 2, 4, 4), 0.5)
    before = layer.dot(x)
    layer(x).square().sum().backward()
    assert layer.shift.grad.abs().sum() > 0
    with torch.no_grad():
        layer.shift -= 1.0
    assert torch.equal(layer.dot(x), layer.dot(x - 0.25))
    assert not torch.equal(layer.dot(x), before)
    dot = layer.dot(x)
    expected = layer.filter_scale().view(-1, 1, 1) * dot + layer.bias.view(-1, 1, 1)
    assert torch.equal(harden(layer)(x), expected)


def test_binary_input_is_its_sign_with_the_clipped_gradient():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 1.0, 1.5], requires_grad=True)
    y = BinarySign()(x)
    y.sum().backward()
    assert y.tolist() == [-1, -1, -1, 1, 1, 1]
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_a_quantizer_may_bring_its_own_activation_gradient():
    own = Quantizer("own", quantizers.sign, quantizers.one, activation_B=quantizers.one)
    layer = BinaryLinear(1, 1, bias=False, method=own, scale="none")
    x = torch.tensor([[5.0]], requires_grad=True)
    layer(x).backward()
    assert x.grad is not None and x.grad.abs().item() == 1


CONVOLUTIONS = {
    "plain": {},
    "padded": {"padding": 1},
    "zero-padded": {"padding": 1, "pad_value": 0},
    "uneven": {"padding": (2, 0), "stride": (1, 2)},
    "same": {"padding": "same", "dilation": (1, 2)},
    "same, even kernel": {"padding": "same", "kernel_size": 2},
    "valid": {"padding": "valid"},
    "groups": {"groups": 2, "padding": 1, "stride": 2, "bias": False},
    "dilated": {"dilation": 2, "padding": 2},
    "unscaled": {"scale": "none"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("mode", ["bw", "bwa", "bwaa"])
def test_hard_convolution_is_the_soft_one_of_binary_connect(mode, options):
    options = {"kernel_size": 3, **options}
    layer = BinaryConv2d(4, 6, method="bc", mode=mode, **options)
    x = torch.randn(2, 4, 9, 8)
    soft = layer(x)
    hard = harden(layer)(x)
    assert hard.shape == soft.shape
    assert torch.allclose(hard, soft, atol=1e-5)


def test_one_padding_reads_plus_one_and_zero_padding_nothing():
    x = -torch.ones(1, 1, 1, 1)
    for pad_value, dot in ((1, 8 - 1), (0, -1)):
        layer = BinaryConv2d(1, 1, 3, padding=1, pad_value=pad_value)
        nn.init.ones_(layer.weight)
        assert layer.dot(x).flatten().tolist() == [dot]
    assert BinaryConv2d(1, 1, 3, mode="bwa").pad_value == 1
    assert BinaryConv2d(1, 1, 3, mode="bw").pad_value == 0


def test_hard_layer_is_scale_times_the_exact_integer_plus_bias():
    layer = BinaryConv2d(40, 8, 3, padding=1)
    x = torch.randn(2, 40, 6, 6)
    dot = layer.dot(x)
    assert dot.dtype == torch.int32
    assert torch.equal(dot % 2, torch.zeros_like(dot))  # 360 odd terms sum to an even number
    expected = layer.filter_scale().view(-1, 1, 1) * dot + layer.bias.view(-1, 1, 1)
    assert torch.equal(harden(layer)(x), expected)
    dense = BinaryLinear(33, 5)
    y = torch.randn(2, 3, 33)
    assert torch.equal(harden(dense)(y), dense.filter_scale() * dense.dot(y) + dense.bias)


def test_soften_undoes_harden():
    layer = BinaryLinear(8, 4, method="bnn++")
    x = torch.randn(3, 8)
    before = layer(x)
    assert not torch.equal(harden(layer)(x), before)
    assert torch.equal(soften(layer)(x), before)
    assert "scale" not in layer.state_dict()


def test_a_bad_scale_pad_value_and_padding_mode_are_refused():
    with pytest.raises(BindeployError, match="unknown scale `x`: choose from filter, layer"):
        BinaryLinear(2, 2, scale="x")
    with pytest.raises(BindeployError, match="pad_value `2`"):
        BinaryConv2d(2, 2, 3, pad_value=2)
    with pytest.raises(BindeployError, match="padding_mode `reflect`"):
        BinaryConv2d(2, 2, 3, padding_mode="reflect")
    with pytest.raises(BindeployError, match="unknown mode `b`: choose from bw, bw8"):
        BinaryLinear(2, 2, mode="b")


def test_frozen_share_counts_weights_without_a_gradient():
    layer = BinaryLinear(4, 1, method="bnn++")
    layer.weight.data = torch.tensor([[0.0, 0.001, 2.0, -2.0]])
    set_sharpness(layer, 200.0)
    assert frozen_share(layer) == 0.5


def test_frozen_share_looks_at_the_weights_that_b_sees():
    layer = BinaryLinear(4, 1, method="ir-net")
    layer.weight.data = torch.tensor([[0.0201, 0.0199, 0.01, 0.03]])
    set_sharpness(layer, 10.0)
    assert layer.quantizer.B(layer.weight, 10.0).min() > 1
    assert frozen_share(layer) == 0.5


class Odd(nn.Module):
    """Shared, nested, listed, subclassed and transposed layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.shared = nn.Conv2d(4, 4, 1)
        self.again = self.shared
        self.listed = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 3)), nn.ReLU()])
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.last = nn.Linear(4, 2)


def test_binarize_replaces_in_place_and_keeps_weights_names_and_hooks():
    model = Odd()
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    called = []
    model.shared.register_forward_hook(lambda *_: called.append(1))
    assert binarize(model, "bc", "bw") is model
    found = dict(layers.binary_layers(model))
    assert list(found) == ["shared", "listed.0.0"]
    assert model.again is model.shared
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.shared(torch.randn(1, 4, 3, 3))
    assert called == [1]


@pytest.mark.parametrize(
    "skip, left",
    [
        ((), ["first", "shared", "listed.0.0", "last"]),
        (["last"], ["first", "shared", "listed.0.0"]),
        (["first", "listed.*"], ["shared", "last"]),
        (("sh?red", "last", "first"), ["listed.0.0"]),
    ],
)
def test_binarize_skips_by_name_and_pattern(skip, left):
    model = binarize(Odd(), skip=skip)
    assert [name for name, _ in layers.binary_layers(model)] == left


def test_what_a_model_wants_in_float_stays_so():
    model = Odd()
    model.float_layers = ("listed.*", "none.such")
    binarize(model, skip=())
    assert [name for name, _ in layers.binary_layers(model)] == ["first", "shared", "last"]


def test_a_skip_that_fits_nothing_or_is_one_text_is_refused():
    with pytest.raises(BindeployError, match=r"skip `secnd` fits no layer: choose from first"):
        binarize(Odd(), skip=["secnd"])
    with pytest.raises(BindeployError, match=r"give a list of names, \[`first`\]"):
        binarize(Odd(), skip="first")


def test_binarize_skips_what_it_is_told_to():
    model = Odd()
    binarize(model, skip=lambda name, module: name in ("shared", "last"))
    assert [name for name, _ in layers.binary_layers(model)] == ["first", "listed.0.0"]
    single = nn.Linear(3, 3)
    binarize(single, skip=lambda name, module: False)
    assert isinstance(single, BinaryLinear)


def test_binarize_takes_a_quantizer_of_ones_own():
    own = Quantizer("own", quantizers.sign, quantizers.one)
    model = binarize(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), own)
    assert model[1].quantizer is own


def test_binarize_in_full_precision_leaves_the_model_as_it_is():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    assert binarize(model, "fp") is model
    assert [type(layer) for layer in harden(model)] == [nn.Linear] * 3


@pytest.mark.parametrize(
    "model", [nn.ReLU(), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))]
)
def test_a_model_with_nothing_to_binarize_is_refused(model):
    with pytest.raises(BindeployError, match="nothing to binarize"):
        binarize(model, skip=first_and_last)


def test_a_refused_model_is_left_as_it_was():
    model = nn.Sequential(
        nn.Linear(2, 2), nn.Linear(2, 2), nn.Conv2d(2, 2, 3, padding_mode="circular"), nn.ReLU()
    )
    with pytest.raises(BindeployError, match="layer `2` pads by `circular`"):
        binarize(model, skip=lambda name, module: False)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, nn.Conv2d, nn.ReLU]
    with pytest.raises(BindeployError, match="`str` is no torch module"):
        binarize("tiny")


def test_a_binary_model_is_not_binarized_again():
    model = binarize(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))))
    with pytest.raises(BindeployError, match="nothing to binarize"):
        binarize(model)
