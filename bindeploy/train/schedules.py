"""How the sharpness mu moves over training: each schedule a function of the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bindeploy.errors import unknown

SHARPNESS_START, SHARPNESS_END = 5.0, 200.0
"""Sign-swish is nearly linear on fresh weights at 5 and nearly sign at 200 (convention)."""

SIGNS_FROM = 2 / 3
"""Progress from which the proximal methods use signs: the last third of training."""

RHO_START = 0.01
"""rho of ProxConnect at the start."""

PROXQUANT_RATE, SHORTEST_PULL = 1e-4, 1.0
"""ProxQuant's lambda grows by 1e-4 an epoch; see `proxquant` for what a short training gets."""

DECAY_START, DECAY_END = 1e-3, 10.0
"""t of IR-Net's error decay estimator, first and last."""

POWER_START, POWER_END, POWER_SIGN = 1.0, 3.0, 50.0
"""o of ReSTE, first and last, and one at which |u|^(1/o) is nearly 1: 0.94 at 0.05 (convention)."""


@dataclass(frozen=True)
class Moment:
    """When in a training: `step` of `steps`, in `epoch` (all from 0), at the peak learning rate.

    Only `proxquant` asks for the last two.
    """

    step: int
    steps: int
    epoch: int = 0
    learning_rate: float = 0.0

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(1, self.steps - 1)


def constant(moment: Moment) -> float:
    """mu = 1, for methods that have no sharpness."""
    return 1.0


def sharpness(moment: Moment) -> float:
    """mu = 5 (200 / 5)^progress: rises geometrically with every step (convention)."""
    return _geometric(SHARPNESS_START, SHARPNESS_END, moment)


def proximal(moment: Moment) -> float:
    """rho_t = min(1, rho_0 (1 + t / T_0)), T_0 such that rho is 1 at two thirds (convention)."""
    period = SIGNS_FROM * RHO_START / (1 - RHO_START)
    return min(1.0, RHO_START * (1 + moment.progress / period))


def proxquant(moment: Moment) -> float:
    """lambda = 1e-4 learning_rate epoch, as ProxQuant published it; 1 (sign) from two thirds on.

    The map moves a latent by lambda in every step, so the sum over the steps counts: it is 7.8 in
    the published training (200 epochs of 391 steps before the signs, at 0.01). A shorter one would
    end far from the signs; there lambda rises by as much a step as makes the sum 1, the way from 0
    to +-1 (convention). The larger of the two is taken.
    """
    soft_steps = SIGNS_FROM * (moment.steps - 1)
    if moment.step >= soft_steps:
        return 1.0
    published = PROXQUANT_RATE * moment.learning_rate * moment.epoch
    return min(1.0, max(published, SHORTEST_PULL * (2 * moment.step + 1) / soft_steps**2))


def decay(moment: Moment) -> float:
    """t = 1e-3 (10 / 1e-3)^progress: the error decay estimator of IR-Net."""
    return _geometric(DECAY_START, DECAY_END, moment)


def decay_to_sign(moment: Moment) -> float:
    """t from 1e-3 to 200: latents that are not standardized need that much to be signs."""
    return _geometric(DECAY_START, SHARPNESS_END, moment)


def power(moment: Moment) -> float:
    """o = 1 + 2 progress: the power function of ReSTE goes from |u| to its third root."""
    return POWER_START + (POWER_END - POWER_START) * moment.progress


def power_to_sign(moment: Moment) -> float:
    """o from 1 to 50, geometrically: for the power function as a forward that ends as sign."""
    return _geometric(POWER_START, POWER_SIGN, moment)


def _geometric(start: float, end: float, moment: Moment) -> float:
    return start * (end / start) ** moment.progress


SCHEDULES: dict[str, Callable[[Moment], float]] = {
    schedule.__name__: schedule
    for schedule in (
        constant,
        sharpness,
        proximal,
        proxquant,
        decay,
        decay_to_sign,
        power,
        power_to_sign,
    )
}
"""Every schedule of mu by its name."""


def sharpness_at(name: str, moment: Moment) -> float:
    """mu at `moment` by the schedule `name`."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    return SCHEDULES[name](moment)
