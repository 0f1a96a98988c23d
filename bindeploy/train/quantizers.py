"""The pairs (F, B): the network uses `w = F(u, mu)`, and `u` gets the gradient `B(u, mu) * g(w)`.

`u` is the latent weight, `mu` the sharpness, `g(w)` the loss gradient at `w`. Method names and
formulas stand in `methods.METHODS`; here each row meets its functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bindeploy.errors import BindeployError, unknown
from bindeploy.train.consistency import Function, PairReport, check_pair
from bindeploy.train.methods import METHODS, Method

__all__ = ["QUANTIZERS", "Function", "PairReport", "Quantizer", "check_pair", "get"]


def sign(u: Tensor, mu: float = 1.0) -> Tensor:
    """+1 where `u >= 0`, else -1 (also for NaN); `mu` plays no part."""
    return (u >= 0).to(u.dtype).mul_(2).sub_(1)  # half the time of torch.where


def one(u: Tensor, mu: float = 1.0) -> Tensor:
    """1 everywhere: the straight-through gradient."""
    return torch.ones_like(u)


def clip_mask(u: Tensor, mu: float = 1.0) -> Tensor:
    """1 where `|u| <= 1`, else 0: the clipped straight-through gradient."""
    return (u.abs() <= 1).to(u.dtype)


def proximal_map(u: Tensor, rho: float, varrho: float) -> Tensor:
    """ProxConnect's map onto {-1, 1}, with r = min(rho, 1) and v = min(varrho, 1):

    L(u) = sign(u) (1 if |u| >= 1 - r else v + |u| (1 - v) / (1 - r)).

    r = 1 or v = 1 gives sign; L(0, 0) is clip, L(rho, 0) is hardtanh(u / (1 - rho)).
    """
    r, v = min(rho, 1.0), min(varrho, 1.0)
    if r == 1 or v == 1:
        return sign(u)
    magnitude = torch.clamp(v + u.abs() * ((1 - v) / (1 - r)), max=1.0)
    return sign(u) * magnitude


def proximal(u: Tensor, mu: float) -> Tensor:
    """L with rho = varrho = mu (convention): `sign(u) min(1, mu + |u|)`, sign once mu reaches 1."""
    return proximal_map(u, mu, mu)


def sign_swish(u: Tensor, mu: float) -> Tensor:
    """SS(u) = 2 s (1 + mu u (1 - s)) - 1 with s = sigmoid(mu u): odd, overshoots +-1 by 0.1997."""
    x = mu * u
    return 2 * torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)) - 1


def sign_swish_slope(u: Tensor, mu: float) -> Tensor:
    """SS'(u) = mu (2 - mu u tanh(mu u / 2)) / (1 + cosh(mu u)).

    SS'(0) = mu; negative beyond mu |u| = 2.39935, which is part of the method. The hyperbolic
    cosine overflows float32 past 89, so 1 / (1 + cosh x) is computed as 2 sigmoid(x) sigmoid(-x).
    """
    x = mu * u
    return 2 * mu * (2 - x * torch.tanh(x / 2)) * torch.sigmoid(x) * torch.sigmoid(-x)


@dataclass(frozen=True)
class Quantizer:
    """A training method: forward quantizer F and backward quantizer B, both `(u, mu) -> Tensor`.

    `consistent` says whether (F, B) comes from a proximal map (None: not known, ask `check_pair`).
    `schedule` names a row of `schedules.SCHEDULES`. `clip` bounds the latent weights. Binarized
    activations are signs whose gradient is multiplied by `activation_B` (convention: the clipped
    straight-through gradient). An object of your own works wherever the name of a method does.
    """

    name: str
    F: Function
    B: Function
    consistent: bool | None = None
    source: str = ""
    forward: str = ""
    backward: str = ""
    schedule: str = "constant"
    clip: float | None = None
    activation_B: Function = clip_mask


_FUNCTIONS: dict[str, Function] = {
    function.__name__: function
    for function in (sign, one, clip_mask, proximal, sign_swish, sign_swish_slope)
}


def _quantizer(row: Method) -> Quantizer:
    return Quantizer(
        name=row.name,
        F=_FUNCTIONS[row.F],
        B=_FUNCTIONS[row.B],
        consistent=row.consistent,
        source=row.source,
        forward=row.forward,
        backward=row.backward,
        schedule=row.schedule,
        clip=row.clip,
    )


QUANTIZERS: dict[str, Quantizer] = {name: _quantizer(row) for name, row in METHODS.items()}
"""Every method by its name, in the order of `methods.METHODS`."""


def get(method: str | Quantizer) -> Quantizer:
    """The quantizer called `method`, or `method` itself if it is one; else BindeployError."""
    if isinstance(method, Quantizer):
        return method
    if not isinstance(method, str):
        raise BindeployError(
            f"`{type(method).__name__}` is no method: give a Quantizer or one of the names "
            + ", ".join(QUANTIZERS)
        )
    if method not in QUANTIZERS:
        raise unknown("method", method, QUANTIZERS)
    return QUANTIZERS[method]
