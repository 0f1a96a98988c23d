"""The numbers that theory asks of a trainer, most of them from the trainer's own update rules."""

from __future__ import annotations

import math
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from bindeploy.train import theory
from bindeploy.train.layers import BinaryLinear
from bindeploy.train.quantizers import QUANTIZERS, Quantizer, sign
from bindeploy.train.states import frozen_share, set_sharpness
from bindeploy.train.theory import trajectory

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "theory.py"

RATE = 1 / 8
"""A power of two: rate * gradient is exact, fused with the subtraction or not."""

STEP_SIZES = [0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625]

MATRIX = torch.tensor(
    [[1.0, 0.4, -0.3], [0.2, -0.9, 0.5], [-0.7, 0.1, 0.8], [0.6, 0.3, 0.2]], dtype=torch.float64
)
RIGHT = torch.tensor([0.5, -0.2, 0.9, 0.1], dtype=torch.float64)
START = torch.tensor([0.3, -0.05, -0.8], dtype=torch.float64)


def least_squares(w):
    """The gradient of |MATRIX w - RIGHT|^2 / 2."""
    return MATRIX.T @ (MATRIX @ w - RIGHT)


def toward_0_3(w):
    """The gradient of (w - 0.3)^2 / 2."""
    return w - 0.3


def identity(u, mu):
    return u.clone()


@pytest.fixture
def seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_deterministic_rounding_stagnates_on_the_integers():
    assert theory.deterministic_rounding(toward_0_3, 1.0, 0.1, 1000, spacing=1.0) == [1.0] * 1001
    assert theory.deterministic_rounding(toward_0_3, 1.0, 0.8, 1, spacing=1.0) == [1.0, 0.0]


@pytest.mark.parametrize("spacing", [0.25, 0.1, 0.01])
def test_deterministic_rounding_stops_where_its_step_is_half_a_cell(spacing):
    rate = 0.07
    path = theory.deterministic_rounding(toward_0_3, 10.0, rate, 1000, spacing)
    assert path[-1] == path[-2] < 10.0
    farthest = spacing / 2 / rate  # from w*, where the step is still rounded away
    assert farthest - spacing < path[-1] - 0.3 <= farthest


def test_method_r_stagnates_where_binary_connect_moves():
    start = torch.tensor([0.2, -0.2], dtype=torch.float64)
    stuck = trajectory("r", toward_0_3, start, 0.1, 100)
    assert torch.equal(stuck, torch.tensor([1.0, -1.0], dtype=torch.float64).expand(101, 2))
    used = sign(trajectory("bc", toward_0_3, start, 0.1, 400))
    assert torch.allclose(used.mean(0), torch.full((2,), 0.3, dtype=torch.float64), atol=0.01)


@pytest.mark.parametrize("spacing", [1.0, 0.5, 0.3, 0.07])
@pytest.mark.parametrize("minimizer", [0.3, -2.22, 5.0])
def test_binary_connect_has_no_floor_on_a_quadratic(spacing, minimizer):
    rests = theory.mean_field_fixed_point(lambda w: 3 * (w - minimizer), spacing, near=0.0)
    assert rests == pytest.approx(minimizer, abs=1e-14)


def test_binary_connect_has_its_known_floor_on_an_exponential():
    floors = [theory.accuracy_floor(spacing) for spacing in (1, 1 / 2, 1 / 4, 1 / 8)]
    assert [f"{floor:.1e}" for floor in floors] == ["6.1e-03", "6.2e-04", "1.6e-05", "2.4e-06"]


def test_floor_is_positive_below_its_bound_and_zero_where_the_minimizer_is_on_the_grid():
    for spacing in (2.0, 1.0, 0.7, 0.5, 0.25, 0.11, 1 / 8, 1 / 32):
        assert 0 < theory.accuracy_floor(spacing) < theory.accuracy_floor_bound(spacing)
    assert theory.accuracy_floor_bound(0.5) == pytest.approx(2 * math.e * 0.5 / 2)
    assert theory.accuracy_floor(0.15) < 1e-30


def test_binary_connect_with_stochastic_rounding_rests_at_the_mean_field_fixed_point(seed):
    def slope(w):
        return math.exp(w) - math.exp(0.3)

    # The grid {-1, 1} has Delta = 2 and lies on its multiples once w is moved by 1.
    rests = theory.mean_field_fixed_point(lambda w: slope(w - 1), spacing=2.0, near=1.0) - 1
    assert rests == pytest.approx((math.exp(0.3) - math.cosh(1)) / math.sinh(1))
    for gradient, expected in ((toward_0_3, 0.3), (lambda w: w.exp() - math.exp(0.3), rests)):
        path = trajectory("bc-stochastic", gradient, torch.zeros(500).double(), 0.05, 300)
        assert float(path[150:].clamp(-1, 1).mean()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_stochastic_rounding_gathers_nowhere_whatever_the_step_size(rate, seed):
    path = trajectory("sr", toward_0_3, torch.ones(4000).double(), rate, round(8 / rate))
    assert set(path.unique().tolist()) == {-1.0, 1.0}
    # Up with chance 1.3 rate / 2, down with 0.7 rate / 2: 65 % are +1, for every rate.
    assert float((path[-1] > 0).double().mean()) == pytest.approx(0.65, abs=0.02)


@pytest.mark.parametrize("rate", [*STEP_SIZES, 0.001])
def test_stationary_distribution_of_stochastic_rounding_ignores_the_step_size(rate):
    chain = theory.stochastic_rounding_chain(rate)
    assert torch.allclose(chain.sum(1), torch.ones(7).double(), atol=1e-14)
    stationary = theory.stationary_distribution(chain)
    assert torch.allclose(stationary @ chain, stationary, atol=1e-14)
    reference = theory.stationary_distribution(theory.stochastic_rounding_chain(0.2))
    assert torch.allclose(stationary, reference, atol=1e-12)
    assert float(stationary.min()) >= 0.06


def test_step_sizes_that_jump_over_cells_change_the_stationary_distribution():
    short, long = (
        theory.stationary_distribution(theory.stochastic_rounding_chain(rate))
        for rate in (0.2, 0.4)
    )
    assert float((short - long).abs().max()) > 0.02


def test_full_precision_gathers_at_the_lowest_minimum_as_steps_shrink():
    near = (theory.states(0.02) + 2).abs() <= 0.5
    shares = [
        float(
            theory.stationary_distribution(theory.stochastic_rounding_chain(rate, 0.02))[near].sum()
        )
        for rate in (0.2, 0.1, 0.05, 0.025)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 and shares[-1] > 0.95


def test_mixing_time_of_stochastic_rounding_doubles_as_the_step_size_halves():
    times = [theory.mixing_time(theory.stochastic_rounding_chain(rate)) for rate in STEP_SIZES]
    assert times == [62, 125, 250, 501, 1003, 2007]
    assert all(abs(later - 2 * sooner) <= 1 for sooner, later in pairwise(times))


def test_mixing_time_is_the_first_step_that_is_close_from_every_start():
    chain = theory.stochastic_rounding_chain(0.2)
    stationary = theory.stationary_distribution(chain)
    distances = [
        float((torch.linalg.matrix_power(chain, time) - stationary).abs().sum(1).max() / 2)
        for time in (61, 62)
    ]
    assert distances[0] > 0.05 >= distances[1]
    assert theory.mixing_time(stationary.expand(7, 7)) == 1


@pytest.mark.parametrize("value", [-2.4, -1.0, -0.013, 0.0, 0.3, 0.999, 7.25])
@pytest.mark.parametrize("spacing", [1.0, 0.25, 0.3])
def test_stochastic_rounding_keeps_the_mean(value, spacing):
    below, above, chance = theory.outcomes(value, spacing)
    assert below <= value < above == pytest.approx(below + spacing)
    assert (1 - chance) * below + chance * above == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("slope", [-3.0, -0.4, 0.7, 2.0])
@pytest.mark.parametrize("rate", [0.2, 0.01])
def test_rounding_error_of_a_step_is_bounded_by_its_length(slope, rate):
    for spacing in (1.0, 0.75):
        moved = 2 * spacing - rate * slope
        below, above, chance = theory.outcomes(moved, spacing)
        square = (1 - chance) * (below - moved) ** 2 + chance * (above - moved) ** 2
        assert square == pytest.approx(spacing**2 * chance * (1 - chance))
        assert 0 < square <= spacing * rate * abs(slope)


def test_stochastic_sign_of_the_trainer_rounds_as_often_as_theory_says(seed):
    for value in (-0.9, 0.0, 0.4):
        _, _, chance = theory.outcomes(value + 1, 2.0)  # the grid {-1, 1}, moved by 1
        rounded = QUANTIZERS["bc-stochastic"].F(torch.full((20_000,), value), 1.0)
        assert float((rounded > 0).double().mean()) == pytest.approx(chance, abs=0.01)


def test_sign_and_one_is_binary_connect_bit_for_bit():
    start = 2 * START
    u, path = start.clone(), [start]
    for _ in range(200):
        u = u - RATE * least_squares(torch.where(u >= 0, 1.0, -1.0).double())
        path.append(u)
    expected = torch.stack(path)
    assert torch.equal(trajectory("bc", least_squares, start, RATE, 200), expected)
    assert len(expected.sign().unique(dim=0)) > 2  # signs did change on the way,
    assert (expected.abs() > 1).any()  # and latents moved where BNN would stop them


def test_identity_and_one_is_gradient_descent_bit_for_bit():
    u, path = START.clone(), [START]
    for _ in range(200):
        u = u - RATE * least_squares(u)
        path.append(u)
    plain = Quantizer("plain", F=identity, B=QUANTIZERS["bc"].B, scale="none")
    for method in (plain, "fp"):
        assert torch.equal(trajectory(method, least_squares, START, RATE, 200), torch.stack(path))


def proximal_map_by_hand(u, rho):
    """sign(u) min(1, rho + |u|)."""
    return torch.where(u >= 0, 1.0, -1.0) * torch.clamp(rho + u.abs(), max=1.0)


def transform(v):
    return torch.tanh(2 * v) / math.tanh(2)


def transform_slope(v):
    return 2 / torch.cosh(2 * v) ** 2 / math.tanh(2)


def test_a_consistent_pair_is_prox_connect_on_the_transformed_loss():
    def rho(step):
        return 0.01 * 1.05**step

    own = Quantizer(
        "T of P",
        F=lambda u, mu: transform(proximal_map_by_hand(u, mu)),
        B=lambda u, mu: transform_slope(proximal_map_by_hand(u, mu)),
    )
    u, path = START.clone(), [START]
    for step in range(120):
        v = proximal_map_by_hand(u, rho(step)).requires_grad_()
        residual = MATRIX @ transform(v) - RIGHT
        (gradient,) = torch.autograd.grad(residual.square().sum() / 2, v)
        u = u - RATE * gradient
        path.append(u)
    taken = trajectory(own, least_squares, START, RATE, 120, rho)
    assert torch.allclose(taken, torch.stack(path), rtol=0, atol=1e-12)
    other = trajectory("pc", least_squares, START, RATE, 120, rho)
    assert not torch.allclose(other, taken, atol=0.1)


def test_bnn_plus_plus_is_gradient_descent_through_its_own_forward():
    rate = RATE / 16  # of a sharp function; larger steps jump, and blow rounding errors up

    def sharpness(step):
        return 1.02**step

    u, path = START.clone(), [START]
    for step in range(100):
        latent = u.clone().requires_grad_()
        x = sharpness(step) * latent
        swish = 2 * torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x))) - 1
        ((MATRIX @ swish - RIGHT).square().sum() / 2).backward()
        u = u - rate * latent.grad
        path.append(u)
    taken = trajectory("bnn++", least_squares, START, rate, 100, sharpness)
    assert torch.allclose(taken, torch.stack(path), rtol=0, atol=1e-12)
    assert float((taken[-1] - START).abs().min()) > 0.05


RULES = {"pc": "wu", "pq": "ww", "rpc": "uw", "ptb": "uu"}
"""Where each rule takes its gradient, and what it adds its step to."""


@pytest.mark.parametrize("name", RULES)
def test_update_rules_differ_in_where_the_gradient_is_and_where_the_step_starts(name):
    at, start_from = RULES[name]
    F = QUANTIZERS[name].F
    u, path = START.clone(), [START]
    for _ in range(60):
        point = {"u": u, "w": F(u, 0.05)}
        u = point[start_from] - RATE * least_squares(point[at])
        path.append(u)
    taken = trajectory(name, least_squares, START, RATE, 60, 0.05)
    assert torch.allclose(taken, torch.stack(path), rtol=0, atol=1e-13)


@pytest.mark.parametrize("gradient_at", ["u", "w"])
@pytest.mark.parametrize("step_from", ["u", "w"])
def test_update_rules_are_all_gradient_descent_without_a_quantizer(gradient_at, step_from):
    rule = Quantizer(
        "plain",
        F=identity,
        B=QUANTIZERS["bc"].B,
        gradient_at=gradient_at,
        step_from=step_from,
    )
    expected = trajectory("fp", least_squares, START, RATE, 50)
    assert torch.equal(trajectory(rule, least_squares, START, RATE, 50), expected)


def test_weights_freeze_as_sharpness_grows():
    latents = torch.cat([-torch.linspace(0.02, 1, 50), torch.linspace(0.02, 1, 50)])
    layer = BinaryLinear(10, 10, bias=False, method="bnn++")
    layer.weight = nn.Parameter(latents.view(10, 10))
    shares = []
    for mu in (1.0, 5.0, 20.0, 80.0, 320.0, 1280.0):
        set_sharpness(layer, mu)
        shares.append(frozen_share(layer))
    assert shares[0] == 0 and shares[-1] == 1
    assert shares == sorted(shares) and len(set(shares)) >= 4


def test_the_page_draws_its_picture_and_prints_its_numbers(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the page draws with matplotlib")
    runpy.run_path(str(EXAMPLE))["main"](["--out", str(tmp_path / "page")])
    picture = (tmp_path / "page" / "theory.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    printed = capsys.readouterr().out
    for number in ("6.07e-03", "2.35e-06", "2007", "0.2424"):
        assert number in printed
