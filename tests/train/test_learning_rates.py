"""The learning rate's way over training."""

from __future__ import annotations

import pytest

from bindeploy.train.learning_rates import learning_rate_at


def test_a_cosine_falls_from_the_peak_to_almost_nothing():
    rates = [learning_rate_at(0.1, step, 100, 10) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[50] == pytest.approx(0.05)
    assert 0 < rates[-1] < 1e-4
    assert rates == sorted(rates, reverse=True)


def test_warm_up_rises_linearly_and_the_cosine_follows():
    rates = [learning_rate_at(0.1, step, 100, 10, warmup=2) for step in range(100)]
    steps = [later - earlier for earlier, later in zip(rates[:19], rates[1:20], strict=True)]
    assert min(steps) == pytest.approx(max(steps)) and min(steps) > 0
    assert rates[0] > 0 and max(rates) == rates[20] == 0.1
    assert learning_rate_at(0.1, 60, 100, 10, warmup=2) == pytest.approx(0.05)


def test_milestones_divide_by_ten_at_the_start_of_an_epoch():
    rates = [learning_rate_at(1.0, step, 60, 10, milestones=(2, 4)) for step in range(60)]
    assert rates[:20] == [1.0] * 20
    assert rates[20:40] == [pytest.approx(0.1)] * 20
    assert rates[40:] == [pytest.approx(0.01)] * 20
