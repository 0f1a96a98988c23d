"""The integer comparison that gives the sign of a chain of functions of an integer.

A layer's accumulator d is an integer. What is binarized is f(d), a function of d alone: first

    y(d) = scale * d + bias      in float32, one rounding for each, as every engine

and then the chain. Max pools may stand in it: f(max(a, b)) is max(f(a), f(b)) where f rises and
min(f(a), f(b)) where it falls, so a pool of floats is one of signs, with a direction.

Each filter has one threshold if, over the integers that occur, f(d) >= 0 changes at most once, and
each pool one direction if f(d) >= 0 on one end of the values it reads. Of functions that rise or
fall by nature, in floats as in exact numbers, the first and the last integer tell; otherwise all
integers are tried. The threshold is the first d at which the answer changes, found by bisection of
f itself: no inequality is solved, so a tie f(d) = 0 is +1 like everywhere.

    rising   (no..yes)   threshold = first d with f(d) >= 0,   direction  1
    falling  (yes..no)   threshold = first d with f(d) < 0,    direction -1
    always               threshold = the least int32,          direction  1
    never                threshold = the least int32,          direction -1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bindeploy.convert.chains import Pool, Step
from bindeploy.convert.channelwise import Function
from bindeploy.convert.integer_range import IntegerRange

ALWAYS = np.iinfo(np.int32).min
BLOCK = 2**20
"""Floats that are evaluated at once."""
MOST = 2**28
"""Floats that are evaluated of one layer at most."""


class NoThreshold(Exception):
    """Why the signs of a chain are no comparison with one integer a filter."""


@dataclass(frozen=True)
class Chain:
    """y = scale * d + bias (float32 [F]) and the steps that follow it."""

    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    steps: Sequence[Step] = ()

    @property
    def functions(self) -> list[Function]:
        return [step for step in self.steps if isinstance(step, Function)]

    def values(self, integers: NDArray, filters: slice = slice(None)) -> Iterator[NDArray]:
        """y, then the value after each step, float [F, n], at integers [n] or [F, n]."""
        y = self.scale[filters, None] * integers.astype(np.float32) + self.bias[filters, None]
        yield y
        for step in self.steps:
            if isinstance(step, Function):
                y = step(y, filters)
            yield y

    def positive(self, integers: NDArray) -> NDArray[np.bool_]:
        """[F, n]: whether f(d) >= 0."""
        with np.errstate(all="ignore"):
            *_, last = self.values(integers)
        return last >= 0


@dataclass(frozen=True)
class Thresholds:
    """threshold int32 [F] and direction int8 [F]; the direction int8 [F] of each Pool, in order."""

    threshold: NDArray[np.int32]
    direction: NDArray[np.int8]
    pools: list[NDArray[np.int8]]


def thresholds(chain: Chain, integers: NDArray | IntegerRange) -> Thresholds:
    """The comparison that agrees with `chain` on every one of the ascending `integers` [n].

    Raises NoThreshold where there is none, or engines might not agree on the floats.
    """
    _check_engines_agree(chain)
    filters = len(chain.scale)
    if all(function.monotone for function in chain.functions):
        tried = integers[[0, -1]]
    elif filters * len(integers) > MOST:
        raise NoThreshold(f"{len(integers)} sums of {filters} filters are too many to try")
    else:
        tried = integers[:]
    block = max(BLOCK // len(tried), 1)
    with np.errstate(all="ignore"):
        rows = [
            _pool_directions(chain, tried, slice(start, start + block))
            for start in range(0, filters, block)
        ]
    pools = [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]
    return Thresholds(*_bisect(chain, integers), pools)


def _check_engines_agree(chain: Chain) -> None:
    """After a function of which only the sign is known nothing but the sign may count."""
    vague: Function | None = None
    for function in chain.functions:
        if vague is not None and not function.keeps_sign:
            raise NoThreshold(f"engines round {_named(vague)} differently")
        if not function.exact:
            vague = function
        elif function.binarizes:
            vague = None


def _pool_directions(chain: Chain, integers: NDArray, filters: slice) -> list[NDArray[np.int8]]:
    """The direction of each pool; NoThreshold where one has none, or a filter no threshold."""
    read, y = [], np.zeros(0)
    for step, y in zip((None, *chain.steps), chain.values(integers, filters), strict=True):
        if np.isnan(y).any():
            raise NoThreshold(f"{_named(step)} gives NaN in channel {_first(np.isnan(y), filters)}")
        if isinstance(step, Pool):
            read.append(y)
    positive = y >= 0
    turns = np.count_nonzero(positive[:, 1:] != positive[:, :-1], axis=1) > 1
    if turns.any():
        raise NoThreshold(_turning(chain, integers, _first(turns[:, None], filters)))
    constant = positive.all(axis=1) | ~positive.any(axis=1)
    directions = []
    for pooled in read:
        rising = constant | (_least(pooled, positive) > _greatest(pooled, ~positive))
        falling = _greatest(pooled, positive) < _least(pooled, ~positive)
        if not (rising | falling).all():
            channel = _first(~(rising | falling)[:, None], filters)
            raise NoThreshold(_turning(chain, integers, channel))
        directions.append(np.where(rising, 1, -1).astype(np.int8))
    return directions


def _least(values: NDArray, where: NDArray[np.bool_]) -> NDArray:
    return np.where(where, values, np.inf).min(axis=1)


def _greatest(values: NDArray, where: NDArray[np.bool_]) -> NDArray:
    return np.where(where, values, -np.inf).max(axis=1)


def _first(rows: NDArray[np.bool_], filters: slice) -> int:
    """The number of the first filter of which any entry is true."""
    return int(filters.start + np.argmax(rows.any(axis=1)))


def _turning(chain: Chain, integers: NDArray, channel: int) -> str:
    """Which function is the first that neither rises nor falls, in one channel."""
    values = chain.values(integers, slice(channel, channel + 1))
    changes = [np.diff(y[0]) for y in values]
    turns = [bool((change > 0).any() and (change < 0).any()) for change in changes]
    step = (None, *chain.steps)[turns.index(True)]
    return f"{_named(step)} turns in channel {channel}: no single threshold"


def _named(step: Step | None) -> str:
    return "scale and bias" if step is None else f"{step.node.op_type} `{step.node.name}`"


def _bisect(
    chain: Chain, integers: NDArray | IntegerRange
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """threshold and direction of each filter, when f(d) >= 0 changes at most once."""
    first, last = (chain.positive(integers[[end]])[:, 0] for end in (0, -1))
    before = np.zeros(len(first), np.intp)
    behind = np.full(len(first), len(integers) - 1)
    while (behind - before > 1).any():
        middle = (before + behind) // 2
        changed = chain.positive(integers[middle, None])[:, 0] != first
        before, behind = np.where(changed, before, middle), np.where(changed, middle, behind)
    threshold = np.where(first == last, ALWAYS, integers[behind])
    return threshold.astype(np.int32), np.where(last, 1, -1).astype(np.int8)
