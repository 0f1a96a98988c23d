"""The scale alpha of binary weights, and what a filter's weights are before their sign is taken.

The table is readable without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-30
"""A filter of zeros has this scale where a logarithm is taken."""


def _filter_mean(u: Tensor) -> Tensor:
    return u.abs().flatten(1).mean(1)


def _layer_mean(u: Tensor) -> Tensor:
    return u.abs().mean().expand(u.shape[0]).contiguous()


def _ones(u: Tensor) -> Tensor:
    return u.new_ones(u.shape[0])


def _power_of_two(u: Tensor) -> Tensor:
    return _filter_mean(u).clamp(min=SMALLEST).log2().round().exp2()


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "filter": _filter_mean,
    "layer": _layer_mean,
    "none": _ones,
    "power-of-two": _power_of_two,
}
"""How alpha [F] follows from the latent weight: mean |u| of a filter, of the layer, 1, or
2^round(log2 mean |u|) of a filter, a shift in hardware."""

SMALLEST_DEVIATION = 1e-8
"""A filter whose weights are all equal is divided by this instead of by its deviation, 0."""


def standardized(u: Tensor) -> Tensor:
    """(u - mean) / standard deviation of each filter (IR-Net, 2020, section 3.2)."""
    rows = u.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    return (centred / deviation.clamp(min=SMALLEST_DEVIATION)).view_as(u)
