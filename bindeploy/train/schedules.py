"""How the sharpness mu moves over training: each schedule a function of progress in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

from bindeploy.errors import unknown

SHARPNESS_START, SHARPNESS_END = 5.0, 200.0
"""Sign-swish is nearly linear on fresh weights at 5 and nearly sign at 200 (convention)."""

RHO_START, RHO_REACHES_ONE = 0.01, 2 / 3
"""rho of ProxConnect at the start, and the progress at which it is 1: signs for the last third."""


def constant(progress: float) -> float:
    """mu = 1, for pairs that have no sharpness."""
    return 1.0


def sharpness(progress: float) -> float:
    """mu = 5 (200 / 5)^progress: rises geometrically with every step (convention)."""
    return SHARPNESS_START * (SHARPNESS_END / SHARPNESS_START) ** progress


def proximal(progress: float) -> float:
    """rho_t = min(1, rho_0 (1 + t / T_0)), T_0 such that rho is 1 at two thirds (convention)."""
    period = RHO_REACHES_ONE * RHO_START / (1 - RHO_START)
    return min(1.0, RHO_START * (1 + progress / period))


SCHEDULES: dict[str, Callable[[float], float]] = {
    schedule.__name__: schedule for schedule in (constant, sharpness, proximal)
}
"""Every schedule of mu by its name."""


def sharpness_at(name: str, step: int, steps: int) -> float:
    """mu at `step` of `steps` by the schedule `name`; the last step has progress 1."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    return SCHEDULES[name](step / max(1, steps - 1))


def cosine_learning_rate(peak: float, step: int, steps: int) -> float:
    """Half a cosine from `peak` at step 0 down to almost 0 at the last of `steps`."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2
