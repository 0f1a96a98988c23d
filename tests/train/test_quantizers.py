"""The pairs (F, B) against their formulas, and the test of which pairs are principled."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from bindeploy.errors import BindeployError
from bindeploy.train import quantizers
from bindeploy.train.methods import METHODS
from bindeploy.train.quantizers import QUANTIZERS, Quantizer, check_pair
from bindeploy.train.schedules import SCHEDULES, cosine_learning_rate, sharpness_at

LINE = torch.linspace(-3, 3, 1201, dtype=torch.float64)


def tanh(u, mu):
    return torch.tanh(mu * u)


def tanh_slope(u, mu):
    return mu * (1 - torch.tanh(mu * u) ** 2)


def test_sign_of_both_zeros_is_plus_one_and_of_nan_is_minus_one():
    values = torch.tensor([-2.0, -0.0, 0.0, 3.0, math.nan])
    assert quantizers.sign(values).tolist() == [-1, 1, 1, 1, -1]
    assert quantizers.sign(values.bfloat16()).dtype == torch.bfloat16


def test_sign_swish_is_its_formula_and_odd():
    mu = 3.0
    s = 1 / (1 + torch.exp(-mu * LINE))
    expected = 2 * s * (1 + mu * LINE * (1 - s)) - 1
    assert torch.allclose(quantizers.sign_swish(LINE, mu), expected, atol=1e-14)
    assert torch.allclose(
        quantizers.sign_swish(-LINE, mu), -quantizers.sign_swish(LINE, mu), atol=1e-14
    )


def test_sign_swish_overshoots_to_1_1997_where_its_slope_changes_sign():
    fine = torch.linspace(2.3, 2.5, 200_001, dtype=torch.float64)
    values = quantizers.sign_swish(fine, 1.0)
    assert float(values.max()) == pytest.approx(1.1997, abs=5e-5)
    assert float(fine[values.argmax()]) == pytest.approx(2.39935, abs=1e-5)
    slope = quantizers.sign_swish_slope(torch.tensor([2.39930, 2.39940], dtype=torch.float64), 1.0)
    assert slope[0] > 0 > slope[1]


def test_sign_swish_tends_to_sign():
    away = LINE[LINE.abs() >= 0.1]
    difference = quantizers.sign_swish(away, 500.0) - quantizers.sign(away)
    assert float(difference.abs().max()) <= 1e-6


@pytest.mark.parametrize("mu", [1.0, 5.0, 200.0])
def test_slope_of_sign_swish_is_its_formula_and_mu_at_zero(mu):
    near = LINE[(mu * LINE).abs() < 500]
    x = mu * near
    expected = mu * (2 - x * torch.tanh(x / 2)) / (1 + torch.cosh(x))
    assert torch.allclose(quantizers.sign_swish_slope(near, mu), expected, atol=1e-12 * mu)
    assert float(quantizers.sign_swish_slope(torch.zeros(1), mu)) == mu


def test_slope_of_sign_swish_is_finite_in_float32_where_cosh_overflows():
    far = torch.tensor([-1e4, -3.0, 3.0, 1e4])
    assert torch.equal(quantizers.sign_swish_slope(far, 200.0), torch.zeros(4).copysign(-far.abs()))


def test_backward_of_bnn_plus_plus_is_the_derivative_of_its_forward_and_of_bnn_plus_is_not():
    mu, step = 5.0, 1e-6

    def differences(name: str) -> torch.Tensor:
        F = QUANTIZERS[name].F
        return (F(LINE + step, mu) - F(LINE - step, mu)) / (2 * step)

    principled, other = QUANTIZERS["bnn++"], QUANTIZERS["bnn+"]
    assert torch.allclose(principled.B(LINE, mu), differences("bnn++"), atol=1e-8)
    assert not torch.allclose(other.B(LINE, mu), differences("bnn+"), atol=0.1)


def test_proximal_map_has_its_known_special_cases():
    rho, u = 0.4, LINE
    assert torch.allclose(quantizers.proximal_map(u, 0, 0), u.clamp(-1, 1))
    assert torch.allclose(quantizers.proximal_map(u, rho, 0), (u / (1 - rho)).clamp(-1, 1))
    for r, v in ((1, 0), (0, 1), (7, 0.2)):
        assert torch.equal(quantizers.proximal_map(u, r, v), quantizers.sign(u))
    lam = 0.3
    beyond = u.abs() - 1
    prox = quantizers.sign(u) * (torch.relu(beyond.abs() - lam) * beyond.sign() + 1)
    inside = u.abs() <= 1
    assert torch.allclose(quantizers.proximal_map(u, lam, lam)[inside], prox[inside])


@pytest.mark.parametrize("mu", [0.3, 1.0, 5.0, 200.0])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_method_is_as_consistent_as_its_row_says(name, mu):
    method = QUANTIZERS[name]
    interval = (-3.0, 3.0) if method.clip is None else (-method.clip, method.clip)
    report = check_pair(method.F, method.B, mu, interval)
    assert report.consistent == method.consistent, report
    assert (report.where is None) == report.consistent


def test_bnn_on_the_whole_line_is_not_consistent():
    report = check_pair(quantizers.sign, quantizers.clip_mask)
    assert not report.consistent
    assert report.reason == "B varies where P is constant"
    assert report.where is not None and report.where[0] < -1 < report.where[1]


def test_a_surrogate_with_its_slope_is_consistent_and_with_one_is_not_where_it_falls():
    assert check_pair(tanh, tanh_slope, 5.0).consistent
    report = check_pair(quantizers.sign_swish, quantizers.one)
    assert (report.consistent, report.reason[:18]) == (False, "P is not monotone:")
    assert check_pair(quantizers.sign_swish, quantizers.one, 1.0, (-2.0, 2.0)).consistent


def test_bi_real_and_a_zero_gradient_are_not_consistent():
    def bi_real(u, mu):
        return (2 - 2 * u.abs()) * (u.abs() < 1)

    assert not check_pair(quantizers.sign, bi_real).consistent
    report = check_pair(lambda u, mu: u, quantizers.clip_mask)
    assert report.reason == "P is infinite: F moves where B is 0"


def test_an_empty_interval_and_an_infinite_function_are_refused():
    with pytest.raises(BindeployError, match=r"`\(1, -1\)` is empty"):
        check_pair(tanh, tanh_slope, 1.0, (1, -1))
    with pytest.raises(BindeployError, match="not finite"):
        check_pair(lambda u, mu: u / 0, tanh_slope)


def test_get_takes_names_and_objects_and_names_the_known_ones():
    own = Quantizer("own", tanh, tanh_slope)
    assert quantizers.get(own) is own
    assert quantizers.get("bc") is QUANTIZERS["bc"]
    with pytest.raises(BindeployError, match="unknown method `b`: choose from bc, pc"):
        quantizers.get("b")
    with pytest.raises(BindeployError, match="`int` is no method"):
        quantizers.get(3)


def test_every_row_has_a_known_schedule():
    assert list(QUANTIZERS) == list(METHODS)
    assert {method.schedule for method in QUANTIZERS.values()} <= SCHEDULES.keys()


def test_schedules_start_and_end_where_they_should():
    assert sharpness_at("sharpness", 0, 100) == 5
    assert sharpness_at("sharpness", 99, 100) == pytest.approx(200)
    ratios = [
        sharpness_at("sharpness", step + 1, 100) / sharpness_at("sharpness", step, 100)
        for step in range(99)
    ]
    assert max(ratios) == pytest.approx(min(ratios))
    assert sharpness_at("proximal", 0, 100) == 0.01
    assert sharpness_at("proximal", 65, 100) < 1 == sharpness_at("proximal", 67, 100)
    assert sharpness_at("constant", 5, 100) == 1 == sharpness_at("constant", 0, 1)
    assert cosine_learning_rate(0.1, 0, 10) == 0.1
    assert cosine_learning_rate(0.1, 5, 10) == pytest.approx(0.05)
    with pytest.raises(BindeployError, match="unknown schedule `x`"):
        sharpness_at("x", 0, 1)


def test_the_tables_are_read_without_torch():
    program = (
        "import sys, bindeploy.train, bindeploy.train.methods, bindeploy.train.modes,"
        "bindeploy.train.models, bindeploy.train.data;"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
