"""Which pairs (F, B) are principled: those that come from one proximal map.

A pair is consistent when F = T o P and B = T' o P for a proximal map P and some T: training with it
is exactly ProxConnect on the loss l o T, and inherits its convergence (ProxConnect++, 2023,
Corollary 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bindeploy.errors import BindeployError

Function = Callable[[Tensor, float], Tensor]
"""A quantizer: latent values of any shape and mu -> values of the same shape and dtype."""

LINE = (-3.0, 3.0)
"""The latent values that stand for the whole line."""

CELLS = 60_000
"""Cells of the grid on which the integral is summed."""

ZERO = 1e-12
"""A change of F or of P over one cell that counts as none (float64 rounding is 1e-16)."""

FLAT = 1e-6
"""How far F or B may move, relative to its largest value, where P stands still."""

SHORTEST_STRETCH = 3
"""Cells: P has to stand still for longer than a rounding to be called constant."""


@dataclass(frozen=True)
class PairReport:
    """Whether (F, B) is consistent, why (not), and between which latent values it fails."""

    consistent: bool
    reason: str
    where: tuple[float, float] | None


@dataclass(frozen=True)
class _Sum:
    """P as increments over the cells between `nodes`, and what it was computed from."""

    nodes: Tensor
    f: Tensor
    slope: Tensor
    increments: Tensor
    turning: Tensor


def check_pair(
    F: Function, B: Function, mu: float = 1.0, interval: tuple[float, float] = LINE
) -> PairReport:
    """Test whether the pair is consistent on `interval` at sharpness `mu`.

    P(u) = integral up to u of (1/B) dF, a Stieltjes integral whose integrator is F, must be finite
    and monotone, and F and B must be constant wherever P is. It is summed over a grid in float64
    with B at the midpoints; 0/0 counts as 0. F itself need not be monotone. Latents that are
    clipped are asked about on the interval they are clipped to; of a random F, its expectation. An
    empty interval, and functions that are random or not finite on it, raise BindeployError.
    """
    summed = _sum(F, B, mu, interval)
    nodes, increments = summed.nodes, summed.increments

    def between(cell: int) -> tuple[float, float]:
        return float(nodes[cell]), float(nodes[cell + 1])

    infinite = ~increments.isfinite()
    if infinite.any():
        return PairReport(False, "P is infinite: F moves where B is 0", between(_first(infinite)))
    falling = increments < -ZERO
    if falling.any():
        return PairReport(
            False, "P is not monotone: F and B have opposite signs", between(_first(falling))
        )
    for start, stop in _stretches((increments.abs() <= ZERO) & ~summed.turning):
        reaches = (float(nodes[start]), float(nodes[stop]))
        if _moves(summed.f[start : stop + 1], summed.f):
            return PairReport(False, "F varies where P is constant", reaches)
        if _moves(summed.slope[start:stop], summed.slope):
            return PairReport(False, "B varies where P is constant", reaches)
    return PairReport(True, "F = T o P and B = T' o P for a proximal map P", None)


def recovered_map(
    F: Function, B: Function, mu: float = 1.0, interval: tuple[float, float] = LINE
) -> tuple[Tensor, Tensor]:
    """The grid u and P(u) that `check_pair` judges, both [CELLS + 1] in float64.

    P is known up to a constant: here P(low) = -P(high). It is a proximal map only if the pair is
    consistent; of another pair it shows what is wrong. NaN where it is infinite, and where F and B
    are both so flat that float64 cannot tell.
    """
    summed = _sum(F, B, mu, interval)
    nodes, increments, slope = summed.nodes, summed.increments, summed.slope
    untold = (increments == 0) & (slope != 0) & ((slope * nodes.diff()).abs() <= ZERO)
    known = increments.where(increments.isfinite() & ~untold, torch.nan)
    p = torch.nn.functional.pad(known.nan_to_num().cumsum(0), (1, 0))
    p = p - p[-1] / 2
    gaps = known.isnan()
    p[torch.cat([gaps[:1], gaps])] = torch.nan  # a node ends the cell before it; the first, its own
    return nodes, p


def _sum(F: Function, B: Function, mu: float, interval: tuple[float, float]) -> _Sum:
    low, high = interval
    if not low < high:
        raise BindeployError(f"interval `{interval}` is empty: give (low, high) with low < high")
    nodes = low + (high - low) * torch.arange(CELLS + 1, dtype=torch.float64) / CELLS
    middles = (nodes[1:] + nodes[:-1]) / 2
    f, slope, slope_at_nodes = F(nodes, mu), B(middles, mu), B(nodes, mu)
    for name, value, u in (("F", f, nodes), ("B", slope, middles)):
        if value.shape != u.shape:
            raise BindeployError(
                f"{name} gives {list(value.shape)} for u of {list(u.shape)}: give a function that"
                " keeps the shape"
            )
    if not (f.isfinite().all() and slope.isfinite().all()):
        raise BindeployError(f"F or B is not finite on `{interval}`: give functions that are")
    if not torch.equal(f, F(nodes, mu)):
        raise BindeployError("F is random: give its expectation, which is what is consistent")
    change = f.diff()
    still = change.abs() <= ZERO
    turning = ~still & _turning(slope_at_nodes, slope, change, f)
    return _Sum(nodes, f, slope, torch.where(still | turning, 0.0, change / slope), turning)


def _turning(at_nodes: Tensor, at_middles: Tensor, change: Tensor, f: Tensor) -> Tensor:
    """Cells in which B passes through 0, or becomes 0, while F turns smoothly: there dF/B is 0/0.

    In the cell where B becomes 0 its midpoint may already lie beyond.
    """
    passes = at_nodes[1:] * at_nodes[:-1] < 0
    becomes = (at_middles == 0) & (at_nodes[1:] != at_nodes[:-1])
    smooth = change.abs() <= 1e-3 * (f.max() - f.min())
    return (passes | becomes) & smooth


def _first(cells: Tensor) -> int:
    return int(cells.nonzero()[0])


def _stretches(constant: Tensor) -> list[tuple[int, int]]:
    """Runs of True as (first cell, one past the last), those long enough to count."""
    edges = torch.nn.functional.pad(constant.to(torch.int8), (1, 1)).diff()
    starts, stops = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    runs = zip(starts.tolist(), stops.tolist(), strict=True)
    return [(start, stop) for start, stop in runs if stop - start >= SHORTEST_STRETCH]


def _moves(part: Tensor, whole: Tensor) -> bool:
    return bool(part.max() - part.min() > FLAT * whole.abs().max())
