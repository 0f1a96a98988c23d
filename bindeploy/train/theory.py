"""What theory says a correct trainer does, in numbers small enough to compute exactly.

Two papers speak: "Training Quantized Nets: A Deeper Understanding" (2017) of weights rounded to the
grid of multiples of Delta, "ProxConnect++" (2023) of the pairs (F, B). `Qd` rounds to the nearest
point of the grid and `Qs` to one of the two around, at random, so that the mean is kept. Everything
is float64 and deterministic; only `trajectory` draws random numbers, where its method does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bindeploy.train import updates
from bindeploy.train.layers import BinaryLinear
from bindeploy.train.quantizers import Quantizer

Slope = Callable[[float], float]
"""The derivative of a function of one weight."""


def trajectory(
    method: str | Quantizer,
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    learning_rate: float,
    steps: int,
    mu: float | Callable[[int], float] = 1.0,
) -> Tensor:
    """The latent weights [steps + 1, n] of `method` from `start` [n] on, a row a step.

    `gradient` maps the weights [n] that the method evaluates to the loss gradient there [n]; `mu`
    is the sharpness, or gives it for every step. The layer, its update rule and torch's SGD are the
    trainer's own; alpha is 1, as in the theorems, whatever the scale of the method.
    """
    layer = BinaryLinear(
        len(start), 1, bias=False, method=method, mode="bw", scale="none", dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(start)
    updates.start(layer)
    optimizer = torch.optim.SGD([layer.weight], lr=learning_rate)
    path = [layer.weight.detach().flatten().clone()]
    for step in range(steps):
        layer.mu = mu(step) if callable(mu) else mu
        optimizer.zero_grad()
        weight = layer.soft_weight()
        weight.backward(gradient(weight.detach().flatten()).view_as(weight))
        updates.before_step(layer)
        optimizer.step()
        updates.after_step(layer)
        path.append(layer.weight.detach().flatten().clone())
    return torch.stack(path)


def outcomes(value: float, spacing: float) -> tuple[float, float, float]:
    """Both outcomes of Qs on multiples of `spacing`, and the chance q of the upper one.

    q = value / Delta - floor(value / Delta), so E[Qs(value)] = value and the rounding error r has
    E[r^2] = Delta^2 q (1 - q). From a point of the grid, a step of length alpha |g| <= Delta has
    q or 1 - q equal to alpha |g| / Delta, whence E[r^2] <= Delta alpha |g| (2017, the lemma under
    its convergence theorems): rounding noise shrinks with alpha, the noise of SGD with alpha^2.
    """
    cell = math.floor(value / spacing)
    return cell * spacing, (cell + 1) * spacing, value / spacing - cell


def deterministic_rounding(
    slope: Slope, start: float, learning_rate: float, steps: int, spacing: float
) -> list[float]:
    """The weights of R: w <- Qd(w - alpha f'(w)) on multiples of `spacing`; [start, ...].

    R stagnates (2017): a step shorter than Delta / 2 is rounded away, so once alpha |f'| is below
    that the weight never moves again, wherever the minimum may be.
    """
    path = [start]
    for _ in range(steps):
        moved = path[-1] - learning_rate * slope(path[-1])
        path.append(math.floor(moved / spacing + 0.5) * spacing)
    return path


def mean_field_fixed_point(slope: Slope, spacing: float, near: float) -> float:
    """Where BinaryConnect with stochastic rounding comes to rest on average: E[f'(Qs(u))] = 0.

    The expectation is f' interpolated linearly between multiples of `spacing`. For a convex f it is
    monotone; where f has a minimum, a walk from the cell of `near` finds the change of its sign.
    Linear f', a quadratic f, is its own interpolation: u = w* for every Delta (2017, corollary).
    """
    cell = math.floor(near / spacing)
    while slope(cell * spacing) > 0:
        cell -= 1
    while slope((cell + 1) * spacing) < 0:
        cell += 1
    below, above = slope(cell * spacing), slope((cell + 1) * spacing)
    return (cell - below / (above - below)) * spacing


MINIMIZER = 0.3
"""w* of F(w) = exp(w) - e^0.3 w, a convex function whose second derivative is not constant."""

DOMAIN = (-1.0, 1.0)
"""Where F is looked at: of diameter D = 2; F'' = exp has the Lipschitz constant L2 = e there."""


def accuracy_floor(spacing: float) -> float:
    """F(u) - F(w*) > 0 at the mean-field fixed point u: what BinaryConnect's average never gains.

    Zero only where w* is on the grid or F is quadratic; no learning rate lowers it (2017).
    """

    def slope(w: float) -> float:
        return math.exp(w) - math.exp(MINIMIZER)

    # F(w* + e) - F(w*) = e^w* (exp(e) - 1 - e), without the cancellation of a difference.
    excess = mean_field_fixed_point(slope, spacing, near=MINIMIZER) - MINIMIZER
    return math.exp(MINIMIZER) * (math.expm1(excess) - excess)


def accuracy_floor_bound(spacing: float) -> float:
    """D L2 sqrt(d) Delta / 2, the floor in BinaryConnect's convergence theorem (2017).

    D is the diameter of the domain, L2 the Lipschitz constant of the Hessian there, d = 1 weight.
    """
    diameter = DOMAIN[1] - DOMAIN[0]
    lipschitz = math.exp(DOMAIN[1])
    return diameter * lipschitz * spacing / 2


EDGE = 3.0
"""The double well is walked on from -EDGE to EDGE: 7 states where Delta = 1."""

NOISE = 2.0
"""The stochastic gradient is f' + NOISE or f' - NOISE, each half of the time."""


def double_well(w: float) -> float:
    """f(w) = (w^2 - 4)^2 / 32 + 0.15 w: minima near -2, the lower one, and near 2."""
    return (w**2 - 4) ** 2 / 32 + 0.15 * w


def double_well_slope(w: float) -> float:
    """f'(w) = w (w^2 - 4) / 8 + 0.15."""
    return w * (w**2 - 4) / 8 + 0.15


def states(spacing: float = 1.0) -> Tensor:
    """The points of the grid from -EDGE to EDGE, one every `spacing`."""
    cells = round(EDGE / spacing)
    return torch.arange(-cells, cells + 1, dtype=torch.float64) * spacing


def stochastic_rounding_chain(learning_rate: float, spacing: float = 1.0) -> Tensor:
    """P [n, n]: the chance that SR, w <- Qs(w - alpha (f' +- NOISE)), goes from state to state.

    Steps that leave the grid end on its edge. While alpha (|f'| + NOISE) <= Delta, with Delta = 1
    for alpha up to 0.248, no step is longer than a cell, and P = I + alpha U with one U for all. A
    grid much finer than alpha NOISE rounds next to nothing away: that is full-precision SGD.
    """
    grid = states(spacing).tolist()
    chain = [[0.0] * len(grid) for _ in grid]
    for state, row in zip(grid, chain, strict=True):
        for noise in (NOISE, -NOISE):
            moved = state - learning_rate * (double_well_slope(state) + noise)
            below, above, chance = outcomes(moved, spacing)
            for outcome, probability in ((below, 1 - chance), (above, chance)):
                column = round((outcome - grid[0]) / spacing)
                row[min(max(column, 0), len(grid) - 1)] += probability / 2
    return torch.tensor(chain, dtype=torch.float64)


def stationary_distribution(chain: Tensor) -> Tensor:
    """pi [n] with pi P = pi and sum 1, of an irreducible chain P [n, n].

    SR's does not depend on alpha and gathers at no minimum, however small alpha is (2017): where
    P = I + alpha U, pi P = pi says pi U = 0. Full-precision SGD's gathers at the lowest minimum.
    """
    equations = chain.T - torch.eye(len(chain), dtype=chain.dtype)
    equations[-1] = 1  # the rows add up to 0, so one of them says nothing
    right = torch.zeros(len(chain), dtype=chain.dtype)
    right[-1] = 1
    return torch.linalg.solve(equations, right)


def mixing_time(chain: Tensor, distance: float = 0.05) -> int:
    """Steps until P^t is within `distance` of pi in total variation, from the worst start.

    SR's grows as 1 / alpha (2017): smaller steps buy the same distribution later, and nothing else.
    """
    stationary = stationary_distribution(chain)

    def mixed(power: Tensor) -> bool:
        return bool((power - stationary).abs().sum(1).max() / 2 <= distance)

    powers = [chain]  # P^1, P^2, P^4, ...
    while not mixed(powers[-1]):
        powers.append(powers[-1] @ powers[-1])
    # The distance never grows, so the binary digits of the last unmixed time follow one by one.
    time, unmixed = 0, torch.eye(len(chain), dtype=chain.dtype)
    for digit in reversed(range(len(powers))):
        further = unmixed @ powers[digit]
        if not mixed(further):
            time, unmixed = time + 2**digit, further
    return time + 1
