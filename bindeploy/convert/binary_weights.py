"""Weights that are binary in all but their type: w = scale[f] * (+-1) in every filter f.

XNOR-Net (Rastegari et al., 2016) gives a filter the scale mean |w|; where every |w| of a filter is
the same number, that mean is the number itself, and the sign bits with the scale lose nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-5
"""By how much, relative to their mean, the |w| of a filter may differ: an exporter that computes
(sign - w) + w in float32 leaves such noise."""

FLOAT = "weights are float"
"""What weights of many values are."""

BLOCK = 2**20
"""Weights looked at in one step, so that no copy as large as the weight is ever made."""

FEW_VALUES = 16
"""A filter of at most so many values, each there twice or more on average, is quantized, not
float: ternary, or of 4 bits."""

MANY_VALUES = 1000
"""Distinct values are counted up to here."""


@dataclass(frozen=True)
class BinaryWeight:
    """weight[f] = scale[f] where `filters[f] >= 0`, else -scale[f].

    `filters` is float32 [F, C/group, ...] as the file has it, `scale` float32 [F], finite and
    positive. `exact` is False where the equality holds up to rounding only.
    """

    filters: NDArray[np.float32]
    scale: NDArray[np.float32]
    exact: bool

    @property
    def rule(self) -> str:
        """By which rule these weights are binary, for `notes.rule`."""
        alike = (self.scale == self.scale[0]).all()
        text = "weights +-alpha" if alike else "weights +-1 times a scale per filter"
        return text if self.exact else f"{text} up to rounding"

    @property
    def products(self) -> int:
        """How many products make one output value."""
        return self.filters[0].size


def of_transposed(weight: NDArray, group: int) -> NDArray:
    """Filters [F, C/group, ...] of a ConvTranspose's weight [C, F/group, ...]."""
    groups = weight.reshape(group, -1, *weight.shape[1:])
    return np.swapaxes(groups, 1, 2).reshape(-1, groups.shape[1], *weight.shape[2:])


def read(filters: NDArray) -> BinaryWeight | str:
    """The signs and scales of filters [F, C/group, ...], else why they have none, in words."""
    if filters.dtype != np.float32:
        return f"weights are {filters.dtype.name}, not float32"
    if filters.ndim < 2 or not filters.size:
        return f"weights are of shape {list(filters.shape)}"
    if filters[0].size == 1:
        return "one weight a filter only multiplies"
    scale = np.empty(len(filters), np.float32)
    exact, empty = True, None
    for start, block in _blocks(filters):
        least, mean, largest = _magnitudes(block)
        binary = (largest > 0) & (largest - least <= ROUNDING * mean)
        for filter_ in np.flatnonzero(~binary):
            if largest[filter_] != 0:
                return _why(filters, start + int(filter_))
            empty = start + int(filter_) if empty is None else empty
        exact &= bool((least == largest).all())
        scale[start : start + len(block)] = mean
    if empty is not None:
        return f"filter {empty} is all zero"
    return BinaryWeight(filters, scale, exact)


def _blocks(filters: NDArray) -> Iterator[tuple[int, NDArray]]:
    """The number of the first filter, and some whole filters."""
    step = max(1, BLOCK // filters[0].size)
    for start in range(0, len(filters), step):
        yield start, filters[start : start + step]


def _magnitudes(filters: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The least, mean and largest |w| of each filter, float32 [F]; the mean of equal ones is each.

    Where one is infinite or undefined the largest is undefined: no comparison with it holds.
    """
    absolute, axes = np.abs(filters), tuple(range(1, filters.ndim))
    largest = absolute.max(axis=axes)
    largest[np.isinf(largest)] = np.nan
    mean = absolute.mean(axis=axes, dtype=np.float64).astype(np.float32)
    return absolute.min(axis=axes), mean, largest


def _why(filters: NDArray, number: int) -> str:
    """Why filter `number` is not +-alpha."""
    values = np.unique(filters[number])
    if not np.isfinite(values).all():
        return f"weights are not finite in filter {number}"
    if values.size > FEW_VALUES or 2 * values.size > filters[number].size:
        return f"{FLOAT}, of {_count(filters)} values"
    if values.size == 2:
        return f"weights are {values[0]:.6g} and {values[1]:.6g} in filter {number}, not +-alpha"
    return f"weights take {values.size} values in filter {number}"


def _count(filters: NDArray) -> str:
    """How many values the weights take, `more than 1000` beyond that."""
    found = np.empty(0, filters.dtype)
    for _, block in _blocks(filters):
        found = np.union1d(found, block)
        if found.size > MANY_VALUES:
            return f"more than {MANY_VALUES}"
    return str(found.size)
