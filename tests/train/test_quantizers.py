"""The training methods against independent computations; which of their pairs are principled."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bindeploy.errors import BindeployError
from bindeploy.train import quantizers
from bindeploy.train.consistency import recovered_map
from bindeploy.train.methods import METHODS, Method
from bindeploy.train.quantizers import EXPECTED, QUANTIZERS, Quantizer, check_pair, is_pair

LINE = torch.linspace(-3, 3, 1201, dtype=torch.float64)
SHARPNESSES = [0.3, 1.0, 3.0, 200.0]
NAMES = (
    "fp r sr bc bc-stochastic bwn pc pq rpc ptb bnn bnn+ bnn++ xnor bi-real ir-net reste dsq"
    " tanh++ poly++ ede++ reste++"
)

# One number at a time, in Python's float64, from the formulas as the papers print them: what the
# tensors are compared with.


def sign_of(u):
    return 1.0 if u >= 0 else -1.0


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def proximal_of(u, mu):
    r = v = min(mu, 1.0)
    if r == 1 or abs(u) >= 1 - r:
        return sign_of(u)
    return sign_of(u) * (v + abs(u) * (1 - v) / (1 - r))


def proxquant_of(u, lam):
    if lam >= 1:
        return sign_of(u)
    beyond = abs(u) - 1
    return sign_of(u) * (max(abs(beyond) - lam, 0) * sign_of(beyond) + 1)


def sign_swish_of(u, mu):
    s = sigmoid(mu * u)
    return 2 * s * (1 + mu * u * (1 - s)) - 1


def polynomial_of(u, mu):
    x = mu * u
    if x < -1:
        return -1.0
    if x < 0:
        return 2 * x + x * x
    return 2 * x - x * x if x < 1 else 1.0


def power_of(u, o):
    line = 0.1 if o <= 3 else 0.1 * 9 / o**2
    size = min(abs(u), 1.5)
    return math.copysign(size ** (1 / o) if size > line else size * line ** (1 / o) / line, u)


def dsq_of(u, k):
    a = 1 - math.tanh(k)  # from which DSQ gets its s and k, for an interval of width 2
    s = 1 / (1 - a)
    assert a < 1e-15 or math.log(2 / a - 1) / 2 == pytest.approx(k)
    return s * math.tanh(k * u)


FORWARD = {
    "identity": lambda u, mu: u,
    "sign": lambda u, mu: sign_of(u),
    "proximal": proximal_of,
    "proxquant": proxquant_of,
    "sign_swish": sign_swish_of,
    "tanh": lambda u, mu: math.tanh(mu * u),
    "soft_quantization": dsq_of,
    "polynomial": polynomial_of,
    "decay": lambda u, t: max(1 / t, 1) * math.tanh(t * u),
    "power": power_of,
}
"""Every F but the random one."""

SLOPES = {
    "sign_swish_slope": "sign_swish",
    "tanh_slope": "tanh",
    "soft_quantization_slope": "soft_quantization",
    "polynomial_slope": "polynomial",
    "decay_slope": "decay",
    "power_slope": "power",
}
"""Every B that is the slope of an F."""

CORNERS = torch.tensor([0.0, 0.1, 1.5], dtype=torch.float64)
"""|u| where some slope jumps or has a corner; so it does at 1 / mu, and 0.9 / mu^2."""


def every(function, u, mu):
    return torch.tensor([function(float(each), mu) for each in u], dtype=torch.float64)


def functions_of_the_table():
    """(function, name) of every F and B that some method names, once."""
    named = {row.F for row in METHODS.values()} | {row.B for row in METHODS.values()}
    named |= {row.activation_B for row in METHODS.values()}
    return sorted(named)


def sharpnesses(name):
    """ReSTE's o is a root, 1 or more; every other mu may be small."""
    return [1.0, 2.0, 3.0] if name.startswith("power") else [1e-3, *SHARPNESSES]


def interval(method):
    return (-3.0, 3.0) if method.clip is None else (-method.clip, method.clip)


def tanh(u, mu):
    return torch.tanh(mu * u)


def tanh_slope(u, mu):
    return mu * (1 - torch.tanh(mu * u) ** 2)


def test_the_table_holds_every_method_and_names_every_function():
    assert list(METHODS) == list(QUANTIZERS) == NAMES.split()
    assert {row.F for row in METHODS.values()} == {*FORWARD, "stochastic_sign"}
    assert {row.B for row in METHODS.values()} == {*SLOPES, "one", "clip_mask"}
    names = {field.name for field in dataclasses.fields(Quantizer)}
    assert names <= {field.name for field in dataclasses.fields(Method)}


@pytest.mark.parametrize("mu", SHARPNESSES)
@pytest.mark.parametrize("name", FORWARD)
def test_a_forward_is_its_formula(name, mu):
    computed = getattr(quantizers, name)(LINE, mu)
    assert torch.allclose(computed, every(FORWARD[name], LINE, mu), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("name", SLOPES)
def test_a_slope_is_the_difference_quotient_of_its_forward(name, mu):
    step = 1e-5 / max(mu, 1)
    corners = torch.cat([CORNERS, torch.tensor([1 / mu, 0.9 / mu**2])])
    away = (LINE.abs()[:, None] - corners).abs().min(1).values > 1e-3 / max(mu, 1)
    u, F = LINE[away], FORWARD[SLOPES[name]]
    quotient = (every(F, u + step, mu) - every(F, u - step, mu)) / (2 * step)
    slope = getattr(quantizers, name)(u, mu)
    assert torch.allclose(slope, quotient, rtol=1e-6, atol=2e-9 * max(mu, 1))
    assert float(slope.abs().max()) > 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", functions_of_the_table())
def test_every_function_keeps_shape_and_type_and_is_finite_far_out(name, dtype):
    function = getattr(quantizers, name)
    far = torch.tensor([[-3e4, -90.0, -1.0], [0.0, 0.5, 3e4]], dtype=dtype)
    for mu in sharpnesses(name):
        for u in (far, far[:0], far[0, 0], far.view(1, 2, 3, 1)):
            value = function(u, mu)
            assert (value.shape, value.dtype) == (u.shape, dtype)
            assert value.isfinite().all()


@pytest.mark.parametrize("name", sorted({*functions_of_the_table()} - {"stochastic_sign"}))
def test_single_precision_gives_what_double_precision_does(name):
    function = getattr(quantizers, name)
    u = torch.cat([torch.linspace(-2.99, 2.99, 400), torch.tensor([1e-6, -1e-6, 1e-3])])
    for mu in sharpnesses(name):
        exact, single = function(u.double(), mu), function(u, mu)
        assert torch.allclose(single.double(), exact, rtol=2e-4, atol=1e-6 * max(mu, 1))


@pytest.mark.parametrize("name", FORWARD)
def test_every_forward_is_odd(name):
    u = LINE[LINE > 0]
    for mu in SHARPNESSES:
        F = getattr(quantizers, name)
        assert torch.allclose(F(-u, mu), -F(u, mu), rtol=0, atol=1e-14 * max(1, 1 / mu))


@pytest.mark.parametrize("name", [*SLOPES, "triangle", "clip_mask", "one"])
def test_every_backward_is_even(name):
    B = getattr(quantizers, name)
    for mu in SHARPNESSES:
        assert torch.allclose(B(-LINE, mu), B(LINE, mu), rtol=1e-12, atol=1e-12 * mu)


@pytest.mark.parametrize(
    "name", ["sign_swish", "tanh", "soft_quantization", "polynomial", "decay", "proximal"]
)
def test_a_surrogate_tends_to_sign(name):
    away = LINE[LINE.abs() >= 0.1]
    difference = getattr(quantizers, name)(away, 500.0) - away.sign()
    assert float(difference.abs().max()) <= 1e-6


def test_sign_of_both_zeros_is_plus_one_and_of_nan_is_minus_one():
    values = torch.tensor([-2.0, -0.0, 0.0, 3.0, math.nan])
    assert quantizers.sign(values).tolist() == [-1, 1, 1, 1, -1]
    assert quantizers.sign(values.bfloat16()).dtype == torch.bfloat16


def test_sign_swish_overshoots_to_1_1997_where_its_slope_changes_sign():
    fine = torch.linspace(2.3, 2.5, 200_001, dtype=torch.float64)
    values = quantizers.sign_swish(fine, 1.0)
    assert float(values.max()) == pytest.approx(1.1997, abs=5e-5)
    assert float(fine[values.argmax()]) == pytest.approx(2.39935, abs=1e-5)
    slope = quantizers.sign_swish_slope(torch.tensor([2.39930, 2.39940], dtype=torch.float64), 1.0)
    assert slope[0] > 0 > slope[1]


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


def test_slope_of_tanh_keeps_its_digits_where_one_minus_tanh_squared_has_none():
    u = torch.tensor([12.0])
    assert float(tanh_slope(u, 1.0)) == 0
    assert float(quantizers.tanh_slope(u, 1.0)) == pytest.approx(4 * math.exp(-24), rel=1e-5)


@pytest.mark.parametrize("t", [1e-3, 0.5, 1.0, 4.0, 10.0])
def test_error_decay_estimator_is_its_formula(t):
    k = max(1 / t, 1)
    expected = k * t * (1 - torch.tanh(t * LINE) ** 2)
    assert torch.allclose(quantizers.decay_slope(LINE, t), expected, atol=1e-12)
    assert float(quantizers.decay_slope(torch.zeros(1), t)) == pytest.approx(max(t, 1))


@pytest.mark.parametrize("o", [1.0, 1.7, 3.0])
def test_slope_of_reste_is_its_formula_in_each_of_its_three_parts(o):
    def slope(*values):
        return quantizers.power_slope(torch.tensor(values, dtype=torch.float64), o)

    inside = torch.tensor([0.11, 0.7, 1.5], dtype=torch.float64)
    assert torch.allclose(slope(0.11, 0.7, 1.5), inside ** ((1 - o) / o) / o)
    assert len(set(slope(-0.1, -0.03, 0.0, 0.1).tolist())) == 1
    assert slope(0.0)[0] * 0.1 == pytest.approx(0.1 ** (1 / o))  # the line ends at the power
    assert slope(1.5001, -2).tolist() == [0, 0]


def test_the_line_of_reste_shrinks_beyond_its_largest_power_so_that_it_tends_to_sign():
    u = torch.tensor([-0.5, -0.01, 0.01, 0.1], dtype=torch.float64)
    line = 0.1 ** (1 / 3 - 1)
    assert quantizers.power(u, 3.0)[1:3].tolist() == pytest.approx([-0.01 * line, 0.01 * line])
    assert torch.allclose(quantizers.power(u, 1000.0), u.sign(), atol=5e-3)


def test_bi_real_takes_the_triangle_for_activations_and_the_mask_for_weights():
    x = torch.tensor([-1.5, -1.0, -0.25, 0.0, 0.5, 2.0])
    method = QUANTIZERS["bi-real"]
    assert method.activation_B(x, 7.0).tolist() == [0, 0, 1.5, 2, 1, 0]
    assert method.B(x, 7.0).tolist() == [0, 1, 1, 1, 1, 0]
    area = float(method.activation_B(LINE, 1.0).mean()) * 6
    assert area == pytest.approx(2, abs=0.01)  # as high as the jump of sign


def test_proximal_map_has_its_known_special_cases():
    rho, u = 0.4, LINE
    assert torch.allclose(quantizers.proximal_map(u, 0, 0), u.clamp(-1, 1))
    assert torch.allclose(quantizers.proximal_map(u, rho, 0), (u / (1 - rho)).clamp(-1, 1))
    for r, v in ((1, 0), (0, 1), (7, 0.2)):
        assert torch.equal(quantizers.proximal_map(u, r, v), quantizers.sign(u))
    inside = u.abs() <= 1
    prox = quantizers.proxquant(u, 0.3)
    assert torch.allclose(quantizers.proximal_map(u, 0.3, 0.3)[inside], prox[inside])


@settings(deadline=None, max_examples=50)
@given(u=st.floats(-3, 3), lam=st.floats(0.01, 0.99))
def test_map_of_proxquant_minimizes_its_regularizer(u, lam):
    """prox(u) = argmin_w (w - u)^2 / 2 + lam | |w| - 1 |, by brute force."""
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    loss = (grid - u) ** 2 / 2 + lam * (grid.abs() - 1).abs()
    mapped = quantizers.proxquant(torch.tensor(u, dtype=torch.float64), lam)
    reached = (mapped - u) ** 2 / 2 + lam * (mapped.abs() - 1).abs()
    assert float(reached) <= float(loss.min()) + 1e-12


def test_proxquant_moves_small_latents_by_amounts_that_float32_rounds_away_at_one():
    u = torch.tensor([1e-4, -1e-4])
    for _ in range(1000):
        u = quantizers.proxquant(u, 1e-8)
    assert u.tolist() == pytest.approx([1.1e-4, -1.1e-4], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_stochastic_sign_is_plus_one_as_often_as_it_should_be(dtype):
    torch.manual_seed(0)
    levels = torch.tensor([-2.0, -1.0, -0.75, 0.0, 2**-7, 0.5, 1.0, 1.5], dtype=dtype)
    count = 200_000
    drawn = quantizers.stochastic_sign(levels.expand(count, -1))
    assert drawn.dtype == dtype
    assert set(drawn.unique().tolist()) == {-1, 1}
    mean, expected = drawn.double().mean(0), levels.double().clamp(-1, 1)
    deviation = ((1 - expected**2) / count).sqrt()
    assert ((mean - expected).abs() <= 4 * deviation).all()
    assert torch.equal(EXPECTED[quantizers.stochastic_sign](levels, 1.0).double(), expected)


def test_stochastic_sign_follows_the_seed():
    u = torch.linspace(-1, 1, 1000)

    def drawn(seed):
        torch.manual_seed(seed)
        return quantizers.stochastic_sign(u)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def alpha(u):
    return u.abs().flatten(1).mean(1).view(-1, *[1] * (u.dim() - 1))


@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 3, 3), (4, 1, 5)])
def test_gradient_of_xnor_net_is_autograds_with_a_clipped_straight_through_sign(shape):
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    g = torch.randn(shape, generator=generator, dtype=torch.float64)
    hardtanh = u.clamp(-1, 1)
    straight_through = hardtanh + (torch.sign(u) - hardtanh).detach()
    (alpha(u) * straight_through).backward(g)
    method = QUANTIZERS["xnor"]
    assert method.gradient is not None
    assert torch.allclose(method.gradient(u.detach(), g, 1.0), u.grad, atol=1e-14)


def test_gradient_of_xnor_net_at_hand_computed_numbers():
    u, g = torch.tensor([[0.5, -1.5], [1.0, 0.0]]), torch.tensor([[2.0, 1.0], [4.0, -1.0]])
    # alpha 1, 1/2; mean(sign(u) g) 1/2, 3/2
    assert quantizers.xnor_gradient(u, g).tolist() == [[2.5, -0.5], [3.5, 1.0]]


def test_the_update_rules_of_the_rows_are_the_published_ones():
    def rows(field, value):
        return {name for name in QUANTIZERS if getattr(QUANTIZERS[name], field) == value}

    assert rows("gradient_at", "u") == {"fp", "r", "sr", "rpc", "ptb"}
    assert rows("step_from", "w") == {"pq", "rpc"}
    assert rows("rounding", "nearest") == {"r"}
    assert rows("rounding", "stochastic") == {"sr"}
    assert rows("standardize", True) == {"ir-net"}
    assert rows("scale", "none") == {"r", "sr", "bc", "bc-stochastic", "bnn"}
    assert rows("scale", "power-of-two") == {"ir-net"}
    assert rows("binary", False) == {"fp"}
    assert rows("clip", 1.0) == {"bnn", "dsq"}
    assert set(METHODS) - rows("gradient", None) == {"xnor"}


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0, 5.0, 7.3, 55.1, 200.0])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_method_is_as_consistent_as_its_row_says(name, mu):
    method = QUANTIZERS[name]
    assert (method.consistent is None) == (not is_pair(method)) == bool(METHODS[name].no_pair)
    if method.consistent is None:
        return
    F = EXPECTED.get(method.F, method.F)
    report = check_pair(F, method.B, mu, interval(method))
    assert report.consistent == method.consistent, report
    assert (report.where is None) == report.consistent


def test_the_listing_says_in_words_what_is_consistent():
    def words(name):
        return METHODS[name].principled

    assert words("bnn") == "yes, on [-1, 1]"
    assert words("bnn++") == "yes"
    assert words("bnn+") == "no"
    assert words("bc-stochastic") == "yes, in expectation"
    for name, row in METHODS.items():
        assert row.in_expectation == (QUANTIZERS[name].F in EXPECTED)
    assert words("pq") == "no pair: the step is taken from w"


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


@pytest.mark.parametrize("mu", [1.0, 3.0, 7.0])
def test_the_triangle_goes_with_its_polynomial_and_not_with_sign(mu):
    assert not check_pair(quantizers.sign, quantizers.polynomial_slope, mu).consistent
    for high in (3.0, 3.0417, 1.234567):  # the corner at 1 / mu on a node of the grid, and beside
        ends = (-high, high)
        report = check_pair(quantizers.polynomial, quantizers.polynomial_slope, mu, ends)
        assert report.consistent, report


def test_a_zero_gradient_where_the_forward_moves_is_not_consistent():
    for high in (3.0, 3.0417):
        report = check_pair(lambda u, mu: u, quantizers.clip_mask, 1.0, (-high, high))
        assert report.reason == "P is infinite: F moves where B is 0"
        assert report.where is not None and not -1 < report.where[0] < 0.999


def test_what_cannot_be_asked_about_is_refused():
    with pytest.raises(BindeployError, match=r"`\(1, -1\)` is empty"):
        check_pair(tanh, tanh_slope, 1.0, (1, -1))
    with pytest.raises(BindeployError, match="not finite"):
        check_pair(lambda u, mu: u / 0, tanh_slope)
    with pytest.raises(BindeployError, match="F is random: give its expectation"):
        check_pair(quantizers.stochastic_sign, quantizers.one)


def test_the_recovered_map_of_proxconnect_is_its_map_and_of_a_surrogate_the_identity():
    for mu in (0.1, 0.6, 1.0):
        u, p = recovered_map(quantizers.proximal, quantizers.one, mu)
        expected = quantizers.proximal(u, mu)
        assert torch.allclose(p, expected, atol=1e-9)
    for mu in (0.5, 2.0):
        u, p = recovered_map(tanh, tanh_slope, mu)
        assert torch.allclose(p, u, atol=1e-4)
    u, p = recovered_map(quantizers.polynomial, quantizers.polynomial_slope, 2.0)
    assert torch.allclose(p, u.clamp(-0.5, 0.5), atol=1e-4)


def test_the_recovered_map_has_gaps_where_it_is_infinite_or_cannot_be_told():
    u, p = recovered_map(lambda u, mu: u, quantizers.clip_mask)
    assert p[u.abs() > 1.001].isnan().all()
    assert p[u.abs() < 0.999].isfinite().all()
    u, p = recovered_map(quantizers.tanh, quantizers.tanh_slope, 10.0)
    known = ~p.isnan()
    assert torch.allclose(p[known], u[known], atol=1e-3)
    assert 0.9 < float(u[known].max()) < 1.5


def test_get_takes_names_and_objects_and_names_the_known_ones():
    own = Quantizer("own", tanh, tanh_slope)
    assert quantizers.get(own) is own
    assert quantizers.get("bc") is QUANTIZERS["bc"]
    with pytest.raises(BindeployError, match="unknown method `b`: choose from fp, r, sr, bc"):
        quantizers.get("b")
    with pytest.raises(BindeployError, match="`int` is no method"):
        quantizers.get(3)


def test_the_tables_are_read_without_torch():
    program = (
        "import sys, bindeploy.train, bindeploy.train.methods, bindeploy.train.modes,"
        "bindeploy.train.models, bindeploy.train.data;"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("rounding", "up", "unknown rounding of `own` `up`: choose from None, nearest, stochastic"),
        ("gradient_at", "x", "unknown gradient_at of `own` `x`: choose from w, u"),
        ("schedule", "x", "unknown schedule of `own` `x`"),
        ("clip", -1.0, "clip `-1.0` of `own`: give a number above 0"),
    ],
)
def test_a_quantizer_that_says_what_nobody_does_is_refused(field, value, message):
    with pytest.raises(BindeployError, match=message):
        Quantizer("own", quantizers.sign, quantizers.one, **{field: value})
