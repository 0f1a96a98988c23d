"""The activations that stand between the layers of the zoo's models, by name, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bindeploy.errors import unknown

if TYPE_CHECKING:
    from torch import nn

NONLINEARITIES = {
    "relu": "torch.nn:ReLU",
    "hardtanh": "bindeploy.train.activations:Hardtanh",
    "prelu": "torch.nn:PReLU",
}
"""The class of each, as `module:class`; it is imported when it is built.

Hardtanh stands where a sign follows: its gradient is that of the clipped straight-through sign.
PReLU learns a slope a channel (ReActNet, 2020).
"""


def nonlinearity(name: str, channels: int) -> nn.Module:
    """The activation called `name` for tensors [N, channels, ...]."""
    if name not in NONLINEARITIES:
        raise unknown("nonlinearity", name, NONLINEARITIES)
    module, _, attribute = NONLINEARITIES[name].partition(":")
    activation = getattr(import_module(module), attribute)
    return activation(channels) if name == "prelu" else activation()
