"""What a method does to the latent weights beside the optimizer's step.

The update rules differ in where the gradient is taken (`gradient_at`, which `layers` follows), in
what the step is added to (`step_from`), and in what becomes of the latents afterwards:

    u <- F(u, mu)           before the step, where it starts from w (ProxQuant, reverse ProxConnect)
    u <- u - step           the optimizer
    u <- clip(u, -c, c)     BNN and its kin
    u <- Q(u) in {-1, 1}    deterministic and stochastic rounding (R, SR)

A loop of one's own calls `start` once, `before_step` and `after_step` around `optimizer.step()`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bindeploy.train.layers import BinaryLayer, binary_layers
from bindeploy.train.quantizers import Quantizer, sign, stochastic_sign

ROUNDINGS = {"nearest": sign, "stochastic": stochastic_sign}
"""Each takes latents to the grid {-1, 1}."""


@torch.no_grad()
def start(model: nn.Module) -> None:
    """Put latents on the grid {-1, 1} for the methods that start there."""
    for layer in _layers(model):
        if layer.quantizer.starts_on_grid:
            layer.weight.copy_(sign(layer.weight))


@torch.no_grad()
def before_step(model: nn.Module) -> None:
    """u <- F(u, mu) for the methods whose step starts from the used weight."""
    for layer in _layers(model):
        layer.weight.copy_(stepped_from(layer.weight, layer.quantizer, layer.mu))


@torch.no_grad()
def after_step(model: nn.Module) -> None:
    """Clip latents to the interval of their method, or round them to its grid."""
    for layer in _layers(model):
        layer.weight.copy_(kept(layer.weight, layer.quantizer))


def stepped_from(u: Tensor, quantizer: Quantizer, mu: float) -> Tensor:
    """What the step is added to: u itself, or F(u, mu)."""
    return quantizer.F(u, mu) if quantizer.step_from == "w" else u


def kept(u: Tensor, quantizer: Quantizer) -> Tensor:
    """What becomes of the latents after a step."""
    if quantizer.rounding is not None:
        return ROUNDINGS[quantizer.rounding](u)
    if quantizer.clip is not None:
        return u.clamp(-quantizer.clip, quantizer.clip)
    return u


def _layers(model: nn.Module) -> list[BinaryLayer]:
    return [layer for _, layer in binary_layers(model)]
