"""How the learning rate moves over training."""

from __future__ import annotations

import math
from collections.abc import Sequence

DROP = 0.1
"""What a milestone multiplies the learning rate by."""


def learning_rate_at(
    peak: float,
    step: int,
    steps: int,
    epoch_steps: int,
    warmup: float = 0.0,
    milestones: Sequence[int] = (),
) -> float:
    """The learning rate at `step` of `steps`, of which an epoch has `epoch_steps`.

    It rises linearly to `peak` in the first `warmup` epochs. Then it falls along half a cosine to
    almost 0 at the end, or, with milestones, to a tenth after each of these epochs.
    """
    rising = warmup * epoch_steps
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    if milestones:
        return peak * DROP ** sum(step >= epoch * epoch_steps for epoch in milestones)
    return peak * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
