"""The states of a binary network: soft or hard, how sharp, how frozen, which signs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bindeploy.train.layers import BinaryLayer, BinarySign, binary_layers

FROZEN = 1e-3
"""A latent weight whose |B| is less than this hardly gets a gradient any more."""


def harden(model: nn.Module) -> nn.Module:
    """Put every binary layer of `model` into its hard state, in place; returns `model`."""
    for module in model.modules():
        if isinstance(module, BinaryLayer | BinarySign):
            module.harden()
    return model


def soften(model: nn.Module) -> nn.Module:
    """Put every binary layer of `model` back into its soft state, in place; returns `model`."""
    for module in model.modules():
        if isinstance(module, BinaryLayer | BinarySign):
            module.soften()
    return model


def set_sharpness(model: nn.Module, mu: float) -> None:
    """Set mu of every binary layer of `model`."""
    for _, layer in binary_layers(model):
        layer.mu = mu


@torch.no_grad()
def signs(model: nn.Module) -> dict[str, Tensor]:
    """Where the weight of each binary layer, by its name, is +1: bool, in the weight's shape."""
    return {name: layer.shipped_latent() >= 0 for name, layer in binary_layers(model)}


@torch.no_grad()
def frozen_share(model: nn.Module) -> float:
    """The share of latent weights, as B sees them, with |B| < `FROZEN`."""
    frozen = total = 0
    for _, layer in binary_layers(model):
        slope = layer.quantizer.B(layer.shipped_latent(), layer.mu)
        frozen += int((slope.abs() < FROZEN).sum())
        total += layer.weight.numel()
    return frozen / max(1, total)
