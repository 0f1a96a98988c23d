"""How mu moves over training: where each schedule starts, ends, and what it must reach."""

from __future__ import annotations

import math

import pytest
import torch

from bindeploy.errors import BindeployError
from bindeploy.train.quantizers import EXPECTED, QUANTIZERS
from bindeploy.train.schedules import SCHEDULES, Moment, sharpness_at


def course(name, steps=901, epoch_steps=30, learning_rate=0.01):
    """mu at every step of a training."""
    moments = [Moment(step, steps, step // epoch_steps, learning_rate) for step in range(steps)]
    return [sharpness_at(name, moment) for moment in moments]


@pytest.mark.parametrize("name", SCHEDULES)
def test_mu_is_finite_and_never_falls_for_short_and_long_trainings(name):
    for steps in (1, 2, 3, 901):
        values = course(name, steps)
        assert all(math.isfinite(mu) and mu >= 0 for mu in values)
        assert values == sorted(values)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("constant", 1, 1),
        ("sharpness", 5, 200),
        ("proximal", 0.01, 1),
        ("proxquant", 1 / 600**2, 1),
        ("decay", 1e-3, 10),
        ("decay_to_sign", 1e-3, 200),
        ("power", 1, 3),
        ("power_to_sign", 1, 50),
    ],
)
def test_a_schedule_starts_and_ends_where_its_docstring_says(name, first, last):
    values = course(name)
    assert (values[0], values[-1]) == pytest.approx((first, last))


@pytest.mark.parametrize("name", ["sharpness", "decay", "decay_to_sign", "power_to_sign"])
def test_the_sharpness_rises_by_the_same_factor_every_step(name):
    values = course(name)
    ratios = [after / before for before, after in zip(values, values[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios))


def test_the_power_of_reste_rises_by_the_same_amount_every_step():
    assert course("power", steps=5) == pytest.approx([1, 1.5, 2, 2.5, 3])


@pytest.mark.parametrize("name", ["proximal", "proxquant"])
def test_the_last_third_has_signs_and_nothing_before_it(name):
    values = course(name)
    assert values[599] < 1
    assert set(values[600:]) == {1.0}


def test_lambda_is_the_published_one_in_the_published_training():
    epoch_steps, epochs, learning_rate = 391, 300, 0.01
    steps = epoch_steps * epochs
    for epoch in (1, 100, 199):
        moment = Moment(epoch * epoch_steps, steps, epoch, learning_rate)
        assert sharpness_at("proxquant", moment) == pytest.approx(1e-4 * learning_rate * epoch)
    soft = course("proxquant", steps, epoch_steps, learning_rate)[: 200 * epoch_steps]
    assert sum(soft) == pytest.approx(7.8, abs=0.03)


@pytest.mark.parametrize("steps", [61, 901, 5001])
def test_in_a_short_training_lambda_takes_idle_latents_to_the_signs_by_two_thirds(steps):
    u = torch.linspace(-0.3, 0.3, 101, dtype=torch.float64)
    signs = torch.where(u >= 0, 1.0, -1.0).double()
    soft = [mu for mu in course("proxquant", steps, learning_rate=2e-3) if mu < 1]
    halfway, at_the_end = u, u
    for index, mu in enumerate(soft):
        at_the_end = QUANTIZERS["pq"].F(at_the_end, mu)
        if index == len(soft) // 2:
            halfway = at_the_end
    assert torch.allclose(at_the_end, signs)
    assert float((halfway - signs).abs().min()) > 0.3  # it takes its time


def test_every_method_has_a_known_schedule():
    assert {method.schedule for method in QUANTIZERS.values()} == SCHEDULES.keys()
    with pytest.raises(BindeployError, match="unknown schedule `x`: choose from constant, sharp"):
        sharpness_at("x", Moment(0, 1, 0, 0.1))


SOFT = [
    name
    for name, method in QUANTIZERS.items()
    if method.gradient_at == "w" and method.F not in EXPECTED
]
"""Methods that train with F, without random signs."""


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_forward_has_become_sign_when_training_ends(name):
    away = torch.tensor([-1.0, -0.5, -0.1, -0.05, 0.05, 0.1, 0.5, 1.0])
    end = sharpness_at(QUANTIZERS[name].schedule, Moment(99, 100, 9, 2e-3))
    near = 0.06 if name == "reste++" else 0.01  # the root of 0.05 grows slowly
    assert torch.allclose(QUANTIZERS[name].F(away, end), away.sign(), atol=near)
