"""The activations that stand between the layers of the zoo's models, by name, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindeploy.errors import unknown

if TYPE_CHECKING:
    from torch import nn

NONLINEARITIES = {"relu": "ReLU", "hardtanh": "Hardtanh", "prelu": "PReLU"}
"""The class of `torch.nn` of each.

Hardtanh stands where a sign follows: its gradient is that of the clipped straight-through sign.
PReLU learns a slope a channel (ReActNet, 2020).
"""


def nonlinearity(name: str, channels: int) -> nn.Module:
    """The activation called `name` for tensors [N, channels, ...]."""
    from torch import nn

    if name not in NONLINEARITIES:
        raise unknown("nonlinearity", name, NONLINEARITIES)
    activation = getattr(nn, NONLINEARITIES[name])
    return activation(channels) if name == "prelu" else activation()
