"""The optimizers: one row each, readable without torch, and the groups of parameters they all get.

`g` is the gradient, `eta` the learning rate, `m` and `v` running means of g and of g^2. What a
method does to the gradient of a latent weight has been done before an optimizer sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bindeploy.errors import unknown

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A row: `constructor` is `module:class`, imported when built and called as
    `class(groups, lr=..., **arguments)`; `rule` is the formula for people.
    """

    name: str
    rule: str
    constructor: str
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


_ROWS = (
    Optimizer(
        name="adam",
        rule="u <- u - eta m / (sqrt(v) + 1e-8); weight decay enters g",
        constructor="torch.optim:Adam",
        source="Adam (2015)",
    ),
    Optimizer(
        name="adamw",
        rule="u <- (1 - eta decay) u - eta m / (sqrt(v) + 1e-8)",
        constructor="torch.optim:AdamW",
        source="AdamW (2019)",
    ),
    Optimizer(
        name="sgd",
        rule="b <- 0.9 b + g; u <- u - eta b; weight decay enters g",
        constructor="torch.optim:SGD",
        source="stochastic gradient descent with momentum",
        arguments={"momentum": 0.9},
    ),
    Optimizer(
        name="bop",
        rule="w <- -w where |m| > 1e-8 and sign(m) = sign(w); adam for what is not binary",
        constructor="bindeploy.train.bop:Bop",
        source="Bop (2019)",
    ),
)

OPTIMIZERS: dict[str, Optimizer] = {row.name: row for row in _ROWS}
"""Every optimizer by its name."""


def build(
    name: str, network: nn.Module, learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """The optimizer called `name` for the parameters of `network`, as `groups` sorts them.

    An unknown name raises BindeployError.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    row = OPTIMIZERS[name]
    module, _, attribute = row.constructor.partition(":")
    constructor = getattr(import_module(module), attribute)
    return constructor(groups(network, weight_decay), lr=learning_rate, **row.arguments)


def groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Three groups of parameters, each in the order of the network, some perhaps empty.

    The latent weights of binary layers (their group says `latent`), other weights, and the rest.
    Weight decay is for the first two: parameters called weight that have more than one axis. The
    rest has none: biases, BatchNorm, shifts, slopes, the tokens and positions of a transformer.
    """
    from bindeploy.train.layers import binary_layers

    latent = {id(layer.weight) for _, layer in binary_layers(network)}
    latents, weights, rest = [], [], []
    for name, parameter in network.named_parameters():
        if id(parameter) in latent:
            latents.append(parameter)
        elif parameter.dim() > 1 and name.endswith("weight"):
            weights.append(parameter)
        else:
            rest.append(parameter)
    return [
        {"params": latents, "latent": True, "weight_decay": weight_decay},
        {"params": weights, "latent": False, "weight_decay": weight_decay},
        {"params": rest, "latent": False, "weight_decay": 0.0},
    ]
