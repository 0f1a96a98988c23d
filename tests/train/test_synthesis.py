"""Methods synthesized from one function: as in the table where it has them, refused where wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train import quantizers
from bindeploy.train.layers import BinaryLinear
from bindeploy.train.quantizers import QUANTIZERS, check_pair
from bindeploy.train.synthesis import derivative, synthesize

LINE = torch.linspace(-3, 3, 1201, dtype=torch.float64)


@pytest.mark.parametrize("mu", [0.5, 2.0, 20.0, 200.0])
@pytest.mark.parametrize("name", ["bnn++", "tanh++", "poly++", "ede++", "reste++", "dsq"])
def test_a_surrogate_of_the_table_gives_the_row_of_the_table(name, mu):
    row = QUANTIZERS[name]
    made = synthesize(surrogate=row.F, schedule=row.schedule, clip=row.clip)
    assert torch.equal(made.F(LINE, mu), row.F(LINE, mu))
    assert torch.allclose(made.B(LINE, mu), row.B(LINE, mu), rtol=0, atol=1e-12 * max(mu, 1))
    assert (made.consistent, made.schedule, made.clip) == (True, row.schedule, row.clip)


@pytest.mark.parametrize("mu", [0.01, 0.4, 1.0])
def test_a_proximal_map_without_a_transform_gives_proxconnect(mu):
    made, row = synthesize(prox=quantizers.proximal), QUANTIZERS["pc"]
    assert torch.equal(made.F(LINE, mu), row.F(LINE, mu))
    assert torch.equal(made.B(LINE, mu), row.B(LINE, mu))
    assert (made.consistent, made.schedule) == (True, "proximal")


@pytest.mark.parametrize("mu", [0.01, 0.4, 1.0])
def test_a_map_and_a_transform_give_t_of_p_and_the_slope_of_t_at_p(mu):
    made = synthesize(prox=quantizers.proximal, transform=lambda w: w**3 / 2 + w / 2)
    p = quantizers.proximal(LINE, mu)
    assert torch.allclose(made.F(LINE, mu), p**3 / 2 + p / 2, atol=1e-14)
    assert torch.allclose(made.B(LINE, mu), 1.5 * p**2 + 0.5, atol=1e-14)
    assert check_pair(made.F, made.B, mu).consistent


def test_a_transform_may_follow_the_sharpness_and_a_map_may_ignore_it():
    made = synthesize(prox=quantizers.clip, transform=quantizers.tanh, schedule="sharpness")
    u, mu = torch.tensor([-2.0, 0.3], dtype=torch.float64), 5.0
    assert made.F(u, mu).tolist() == pytest.approx([math.tanh(-5), math.tanh(1.5)])
    assert made.B(u, mu).tolist() == pytest.approx([5 / math.cosh(5) ** 2, 5 / math.cosh(1.5) ** 2])


class Softsign(nn.Module):
    def forward(self, x):
        return x / (1 + x.abs())


def softsign(x):
    return nn.functional.softsign(x)


def softsign_of_both(u, mu):
    return softsign(mu * u)


@pytest.mark.parametrize(
    "surrogate", [softsign, softsign_of_both, Softsign(), nn.Softsign(), nn.functional.softsign]
)
def test_a_surrogate_of_one_argument_is_used_at_mu_u(surrogate):
    made = synthesize(surrogate=surrogate, name="softsign++")
    for mu in (1.0, 7.0):
        assert torch.allclose(made.F(LINE, mu), mu * LINE / (1 + mu * LINE.abs()))
        assert torch.allclose(made.B(LINE, mu), mu / (1 + mu * LINE.abs()) ** 2)
    assert made.name == "softsign++"


def test_functions_of_torch_itself_and_with_further_options_take_u_alone():
    for surrogate in (torch.tanh, torch.erf, nn.functional.hardtanh, nn.Hardtanh()):
        made = synthesize(surrogate=surrogate)
        expected = surrogate(4 * LINE)
        assert torch.equal(made.F(LINE, 4.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 3, 3)])
def test_the_slope_has_the_type_and_shape_of_the_latents(dtype, shape):
    u = torch.full(shape, 0.25, dtype=dtype, requires_grad=True)
    slope = synthesize(surrogate=torch.tanh).B(u, 2.0)
    assert (slope.dtype, slope.shape, slope.requires_grad) == (dtype, u.shape, False)
    expected = torch.full(shape, 2 / math.cosh(0.5) ** 2)
    assert torch.allclose(slope.float(), expected, rtol=0.02 if dtype == torch.bfloat16 else 1e-6)
    assert u.grad is None


def test_the_slope_is_computed_where_gradients_are_switched_off():
    B, expected = synthesize(surrogate=torch.tanh).B, quantizers.tanh_slope(LINE, 3.0)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert torch.allclose(B(LINE.clone(), 3.0), expected, atol=1e-14)
            assert not torch.is_grad_enabled()


def test_a_synthesized_method_trains_a_layer():
    torch.manual_seed(0)
    layer = BinaryLinear(6, 3, method=synthesize(surrogate=torch.atan), mode="bw", bias=False)
    layer.mu = 5.0
    u = layer.weight.detach().clone()
    layer(torch.eye(6)).sum().backward()
    expected = 5 / (1 + (5 * u) ** 2)
    assert torch.allclose(layer.weight.grad, expected)


def test_a_surrogate_that_jumps_is_refused_where_it_jumps():
    def staircase(u, mu):
        return torch.round(mu * u) / mu

    with pytest.raises(BindeployError) as caught:
        synthesize(surrogate=staircase, name="stairs", schedule="constant")
    message = str(caught.value)
    assert message.startswith("`stairs` is not consistent: P is infinite: F moves where B is 0")
    assert "at mu 1 between -2.5" in message
    assert "allow_inconsistent" in message


def test_a_map_that_falls_is_refused_and_taken_where_one_insists():
    def falling(u):
        return torch.where(u.abs() < 1, u, 2 * u.sign() - u)

    with pytest.raises(BindeployError, match="P is not monotone.* at mu 1 between -3 and -2.99"):
        synthesize(prox=falling, schedule="constant")
    method = synthesize(prox=falling, schedule="constant", allow_inconsistent=True)
    assert method.consistent is False
    assert synthesize(prox=falling, schedule="constant", clip=0.9).consistent


def test_a_pair_is_tested_over_the_whole_schedule():
    def jumps_when_sharp(u, mu):
        return u if mu < 100 else quantizers.sign(u)

    with pytest.raises(BindeployError, match="F moves where B is 0, at mu 200 between"):
        synthesize(surrogate=jumps_when_sharp)


def test_misuse_is_one_line():
    for both in ({}, {"surrogate": torch.tanh, "prox": quantizers.clip}):
        with pytest.raises(BindeployError, match="give one of `surrogate` and `prox`"):
            synthesize(**both)
    with pytest.raises(BindeployError, match="`transform` belongs to `prox`"):
        synthesize(surrogate=torch.tanh, transform=torch.tanh)
    with pytest.raises(BindeployError, match="unknown schedule `x`"):
        synthesize(surrogate=torch.tanh, schedule="x")
    with pytest.raises(BindeployError, match=r"a function made \[\] of \[60000\]: .*elementwise"):
        synthesize(surrogate=torch.sum)
    with pytest.raises(BindeployError, match="F or B is not finite"):
        synthesize(surrogate=torch.log)


def test_the_derivative_of_a_step_function_is_zero():
    assert derivative(quantizers.sign)(LINE, 1.0).count_nonzero() == 0
