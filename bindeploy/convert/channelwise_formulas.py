"""What operators make of one channel, step by step as engines do it: x [F, n], the others [F, 1].

One numpy operation for each operation of the engine, so one rounding, in the precision of the
arrays that come in.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

ZERO = np.float32(0)


def subtract_from(x: NDArray, constant: NDArray) -> NDArray:
    return constant - x


def divide_into(x: NDArray, constant: NDArray) -> NDArray:
    """constant / x; NaN at 0, as engines do not agree on the sign of a zero."""
    return constant / np.where(x == 0, np.float32(np.nan), x)


def largest(x: NDArray, *others: NDArray) -> NDArray:
    return reduce(np.maximum, others, x)


def smallest(x: NDArray, *others: NDArray) -> NDArray:
    return reduce(np.minimum, others, x)


def clip(x: NDArray, low: NDArray, high: NDArray) -> NDArray:
    return np.minimum(np.maximum(x, low), high)


def rectify(x: NDArray, slope: NDArray) -> NDArray:
    """x where x >= 0, else slope * x: PRelu, and LeakyRelu."""
    return np.where(x >= 0, x, slope * x)


def hard_sigmoid(x: NDArray, alpha: NDArray, beta: NDArray) -> NDArray:
    return np.maximum(np.minimum(alpha * x + beta, np.float32(1)), ZERO)


def normalize(x: NDArray, mean: NDArray, slope: NDArray, beta: NDArray) -> NDArray:
    return (x - mean) * slope + beta


def relu(x: NDArray) -> NDArray:
    return np.maximum(x, ZERO)
