"""The quantizers: the network uses `w = F(u, mu)`, and `u` gets the gradient `B(u, mu) * g(w)`.

`u` is the latent weight, of any shape, `mu` the sharpness, `g(w)` the loss gradient at `w`. Method
names and formulas stand in `methods.METHODS`; here each row meets its functions. They keep shape
and dtype (float32, float64, bfloat16) and overflow in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bindeploy.errors import BindeployError, unknown
from bindeploy.train.consistency import Function, PairReport, check_pair
from bindeploy.train.methods import METHODS, Method
from bindeploy.train.scales import SCALES
from bindeploy.train.schedules import SCHEDULES

__all__ = ["QUANTIZERS", "Function", "PairReport", "Quantizer", "check_pair", "get", "is_pair"]


def identity(u: Tensor, mu: float = 1.0) -> Tensor:
    """`u` itself: full precision."""
    return u


def sign(u: Tensor, mu: float = 1.0) -> Tensor:
    """+1 where `u >= 0`, else -1 (also for NaN); `mu` plays no part.

    Comparing into floats, not into booleans that become floats, takes a fifth of the time.
    """
    positive = torch.ge(u.detach(), 0, out=torch.empty_like(u))
    return torch.add(u.new_full((), -1.0), positive, alpha=2, out=positive)


def stochastic_sign(u: Tensor, mu: float = 1.0) -> Tensor:
    """+1 with probability (1 + u) / 2 (u clipped to [-1, 1]), else -1: its expectation is `clip`.

    Draws from torch's global generator, at least in float32: bfloat16 has too few steps.
    """
    precise = torch.promote_types(u.dtype, torch.float32)
    uniform = 2 * torch.rand(u.shape, dtype=precise, device=u.device) - 1
    return (uniform < u).to(u.dtype).mul_(2).sub_(1)


def clip(u: Tensor, mu: float = 1.0) -> Tensor:
    """u clipped to [-1, 1]: the proximal map of that interval."""
    return u.clamp(-1, 1)


def one(u: Tensor, mu: float = 1.0) -> Tensor:
    """1 everywhere: the straight-through gradient."""
    return torch.ones_like(u)


def clip_mask(u: Tensor, mu: float = 1.0) -> Tensor:
    """1 where `|u| <= 1`, else 0: the clipped straight-through gradient."""
    return torch.le(u.detach().abs(), 1, out=torch.empty_like(u))


def triangle(u: Tensor, mu: float = 1.0) -> Tensor:
    """2 - 2|u| where |u| < 1, else 0: the slope of Bi-Real Net's piecewise polynomial."""
    return 2 * torch.relu(1 - u.abs())


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


def proxquant(u: Tensor, mu: float) -> Tensor:
    """ProxQuant's map, lambda = mu: |u| moves by lambda towards 1 and not past it.

    prox(u) = sign(u) (1 + sign(|u| - 1) max(||u| - 1| - lambda, 0)); on [-1, 1] it is `proximal`.
    From lambda = 1 on it is sign (convention; the map itself would still pass |u| > 1 + lambda).
    """
    if mu >= 1:
        return sign(u)
    magnitude = u.abs()
    nearer = torch.where(
        magnitude < 1, (magnitude + mu).clamp(max=1.0), (magnitude - mu).clamp(min=1.0)
    )
    return sign(u) * nearer


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


def tanh(u: Tensor, mu: float) -> Tensor:
    """tanh(mu u)."""
    return torch.tanh(mu * u)


def tanh_slope(u: Tensor, mu: float) -> Tensor:
    """mu (1 - tanh^2(mu u)), as 4 mu s (1 - s) with s = sigmoid(2 mu u): exact in the tails too."""
    x = 2 * mu * u
    return 4 * mu * torch.sigmoid(x) * torch.sigmoid(-x)


def soft_quantization(u: Tensor, mu: float) -> Tensor:
    """DSQ with one interval, [-1, 1]: s tanh(k u), s = 1 / tanh(k), k = mu; it ends at -1 and 1.

    In DSQ's own letters s = 1 / (1 - a) and k = log(2 / a - 1) / 2 for an interval 2 wide. There a
    is learned; here k follows the schedule (convention).
    """
    return torch.tanh(mu * u) / math.tanh(mu)


def soft_quantization_slope(u: Tensor, mu: float) -> Tensor:
    """k (1 - tanh^2(k u)) / tanh(k) with k = mu."""
    return tanh_slope(u, mu) / math.tanh(mu)


def polynomial(u: Tensor, mu: float) -> Tensor:
    """x (2 - |x|) with x = clip(mu u, -1, 1): Bi-Real Net's piecewise polynomial of mu u."""
    x = (mu * u).clamp(-1, 1)
    return x * (2 - x.abs())


def polynomial_slope(u: Tensor, mu: float) -> Tensor:
    """2 mu max(1 - mu |u|, 0)."""
    return mu * triangle(mu * u)


def decay(u: Tensor, mu: float) -> Tensor:
    """k tanh(t u) with t = mu and k = max(1 / t, 1): u itself for small t, sign for large ones."""
    return max(1 / mu, 1.0) * torch.tanh(mu * u)


def decay_slope(u: Tensor, mu: float) -> Tensor:
    """k t (1 - tanh^2(t u)), the error decay estimator of IR-Net; t = mu, k = max(1 / t, 1)."""
    return max(1 / mu, 1.0) * tanh_slope(u, mu)


STEEP, LAST = 0.1, 1.5
"""ReSTE's power function is a line where |u| <= 0.1 and flat where |u| > 1.5."""

LARGEST_POWER = 3.0
"""ReSTE's largest o."""


def _steep(o: float) -> float:
    """|u| up to which the power function is a line: 0.1 for o up to 3, ReSTE's own range.

    Beyond, 0.1 (3 / o)^2 (convention): the line shrinks away, so that the function tends to sign.
    """
    return STEEP * min(1.0, LARGEST_POWER / o) ** 2


def power(u: Tensor, mu: float) -> Tensor:
    """sign(u) |u|^(1/o) with o = mu, ReSTE's power function, and the integral of `power_slope`.

    Where |u| <= 0.1 the line through its values there (less for o > 3, see `_steep`); constant
    beyond 1.5.
    """
    steep, magnitude = _steep(mu), u.abs()
    root = magnitude.clamp(steep, LAST) ** (1 / mu)
    return torch.where(magnitude <= steep, u * steep ** (1 / mu - 1), sign(u) * root)


def power_slope(u: Tensor, mu: float) -> Tensor:
    """|u|^(1/o - 1) / o with o = mu where 0.1 < |u| <= 1.5, and 0 beyond.

    Where |u| <= 0.1, around the pole, the slope of the line: 0.1^(1/o - 1). (Less for o > 3.)
    """
    steep, magnitude = _steep(mu), u.abs()
    slope = magnitude.clamp(steep, LAST) ** (1 / mu - 1) / mu
    return torch.where(magnitude <= steep, steep ** (1 / mu - 1), slope) * (magnitude <= LAST)


def xnor_gradient(u: Tensor, g: Tensor, mu: float = 1.0) -> Tensor:
    """The gradient of u where w = alpha sign(u), alpha = mean |u| of each filter (axis 0 of u):

    alpha 1[|u| <= 1] g + sign(u) mean(sign(u) g)

    The derivative of sign is the clipped straight-through one; the second term is alpha's share.
    """
    signs, mask = sign(u), clip_mask(u)

    def filter_mean(values: Tensor) -> Tensor:
        means = values.reshape(len(values), -1).mean(1)
        return means.view(-1, *[1] * (values.dim() - 1))

    return filter_mean(u.abs()) * mask * g + signs * filter_mean(signs * g)


EXPECTED: dict[Function, Function] = {stochastic_sign: clip}
"""The expectation of each F that is random: what `check_pair` can be asked about."""


@dataclass(frozen=True)
class Quantizer:
    """A training method: forward quantizer F and backward quantizer B, both `(u, mu) -> Tensor`.

    The network trains with `alpha F(u, mu)` and ships `alpha sign(u)`. An object of your own works
    wherever the name of a method does; only `name`, `F` and `B` are asked for.

    - `consistent`: whether (F, B) comes from a proximal map (of the expected F where F is random).
      None: the method is no pair, or it is not known; ask `check_pair`.
    - `schedule`: the row of `schedules.SCHEDULES` that moves mu over training.
    - `clip`: latent weights are clipped to [-clip, clip] after every step.
    - `activation_B`: binarized activations are signs whose gradient is multiplied by this
      (convention: the clipped straight-through gradient).
    - `gradient(u, g, mu)`: the gradient of u; replaces `B * g` where it is no factor.
    - `gradient_at`: "w", the network trains with `alpha F(u, mu)`; "u", with u itself.
    - `step_from`: "u", `u <- u - step`; "w", `u <- F(u, mu) - step`.
    - `rounding`: u is replaced after every step by `sign(u)` ("nearest") or `stochastic_sign(u)`
      ("stochastic").
    - `starts_on_grid`: u is replaced by `sign(u)` before training; fresh latents, close to 0, would
      be drawn as if by a coin.
    - `standardize`: F, sign and alpha see (u - mean) / deviation of each filter; so does what is
      shipped.
    - `scale`: the method's own alpha: mean |u| of a "filter", of a "layer", "none", or
      "power-of-two", the power nearest to the mean |u| of a filter.
    - `binary`: False leaves a model in full precision; `binarize` changes nothing.
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
    gradient: Callable[[Tensor, Tensor, float], Tensor] | None = None
    gradient_at: str = "w"
    step_from: str = "u"
    rounding: str | None = None
    starts_on_grid: bool = False
    standardize: bool = False
    scale: str = "filter"
    binary: bool = True

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                choices = [str(choice) for choice in known]
                raise unknown(f"{name} of `{self.name}`", str(getattr(self, name)), choices)
        if self.clip is not None and not self.clip > 0:
            raise BindeployError(f"clip `{self.clip}` of `{self.name}`: give a number above 0")


CHOICES = {
    "gradient_at": ("w", "u"),
    "step_from": ("u", "w"),
    "rounding": (None, "nearest", "stochastic"),
    "schedule": tuple(SCHEDULES),
    "scale": tuple(SCALES),
}
"""What the fields of a Quantizer may say that are words."""

FUNCTIONS = ("F", "B", "activation_B", "gradient")
"""The fields of a Quantizer that a row of `methods.METHODS` gives as names."""


def _quantizer(row: Method) -> Quantizer:
    values: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(Quantizer)}
    for field in FUNCTIONS:
        if values[field] is not None:
            values[field] = globals()[values[field]]
    return Quantizer(**values)


QUANTIZERS: dict[str, Quantizer] = {name: _quantizer(row) for name, row in METHODS.items()}
"""Every method by its name, in the order of `methods.METHODS`."""


def is_pair(quantizer: Quantizer) -> bool:
    """Whether a step of the method is ProxConnect++ with its (F, B): u <- u - eta B(u) g(F(u)).

    Not so where latents are rounded, where the step starts from w, where the gradient is taken at
    another weight than F(u), and where it is no factor times g.
    """
    return (
        quantizer.gradient is None
        and quantizer.rounding is None
        and quantizer.step_from == "u"
        and (quantizer.gradient_at == "w" or quantizer.F is identity)
    )


def check(quantizer: Quantizer) -> None:
    """BindeployError unless the functions of a quantizer of one's own can train a network.

    F, B and activation_B have to give finite numbers in the shape and type of u, at mu = 1. What
    they draw at random does not count. Rows of `QUANTIZERS` are right by their tests.
    """
    if QUANTIZERS.get(quantizer.name) is quantizer:
        return
    u = torch.linspace(-1.5, 1.5, 54).view(2, 3, 3, 3)
    for name in ("F", "B", "activation_B"):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                value = getattr(quantizer, name)(u.clone(), 1.0)
            except Exception as error:
                reason = " ".join(str(error).split())
                raise BindeployError(
                    f"{name} of `{quantizer.name}` fails ({reason}): give a function of a tensor u"
                    " and a number mu"
                ) from error
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (u.shape, u.dtype):
            kind = type(value).__name__
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else kind
            raise BindeployError(
                f"{name} of `{quantizer.name}` gives {found} for u of {u.dtype} {list(u.shape)}:"
                " give a function that keeps shape and type"
            )
        if not value.isfinite().all():
            raise BindeployError(
                f"{name} of `{quantizer.name}` is not finite on [-1.5, 1.5] at mu = 1:"
                " give a function that is"
            )


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
