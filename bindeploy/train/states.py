"""The states of a binary network: soft or hard, how sharp, and its latents in their interval."""

from __future__ import annotations

import torch
from torch import nn

from bindeploy.train.layers import BinaryLayer, BinarySign, binary_layers


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
def clip_latents(model: nn.Module) -> None:
    """Clip latent weights to the interval of their quantizer, where it has one."""
    for _, layer in binary_layers(model):
        if layer.quantizer.clip is not None:
            layer.weight.clamp_(-layer.quantizer.clip, layer.quantizer.clip)


@torch.no_grad()
def frozen_share(model: nn.Module) -> float:
    """The share of latent weights with |B| < 1e-3: gradients hardly reach them any more."""
    frozen = total = 0
    for _, layer in binary_layers(model):
        frozen += int((layer.quantizer.B(layer.weight, layer.mu).abs() < 1e-3).sum())
        total += layer.weight.numel()
    return frozen / max(1, total)
