"""The activations that stand between the layers of the zoo's models, by name."""

from __future__ import annotations

from torch import nn

NONLINEARITIES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "hardtanh": nn.Hardtanh}
"""Hardtanh where a sign follows: its gradient is that of the clipped straight-through sign."""
