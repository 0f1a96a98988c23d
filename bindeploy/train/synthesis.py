"""A training method out of one function: its pair (F, B) made so that it is consistent.

Any surrogate S of sign gives the pair (S, S'), any proximal map P with a transform T the pair
(T o P, T' o P) (ProxConnect++, 2023, Corollary 1). The derivative is taken by automatic
differentiation, so that the function is all one writes:

>>> import torch
>>> method = synthesize(surrogate=torch.erf, name="erf++")
>>> method.consistent, method.schedule
(True, 'sharpness')
>>> u = torch.tensor([-1.0, 0.0, 1.0])
>>> method.F(u, 200.0).tolist()
[-1.0, 0.0, 1.0]
>>> method.B(u, 2.0)[1].item()  # 2 times the slope of erf at 0, 2 / sqrt(pi)
2.256758451461792
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train.consistency import LINE, Function, check_pair
from bindeploy.train.quantizers import Quantizer, identity, one
from bindeploy.train.schedules import Moment, sharpness_at

STEPS = 101
"""Steps of an imagined training: the pair is checked at its first, middle and last mu."""


def synthesize(
    *,
    surrogate: Callable[..., Tensor] | None = None,
    prox: Callable[..., Tensor] | None = None,
    transform: Callable[..., Tensor] | None = None,
    name: str = "synthesized",
    schedule: str | None = None,
    clip: float | None = None,
    allow_inconsistent: bool = False,
) -> Quantizer:
    """A Quantizer with F = S and B = S', or with F = T o P and B = T' o P.

    `surrogate` is S(u, mu), or S(u), which is then used as S(mu u); a smooth, odd function that
    tends to sign. `prox` is P(u, mu) or P(u), `transform` T(w, mu) or T(w), the identity unless
    given. All work elementwise, in torch, on any shape. `schedule` moves mu: "sharpness" for a
    surrogate, "proximal" for a map unless given. With `clip=c` latents stay in [-c, c].

    The pair is tested at the first, the middle and the last mu of its schedule. One that is not
    consistent (S jumps, or P is not monotone) raises BindeployError that says where, unless
    `allow_inconsistent`; `consistent` of the result tells. So do functions that are not
    elementwise, and neither or both of `surrogate` and `prox`.
    """
    if (surrogate is None) == (prox is None):
        raise BindeployError("give one of `surrogate` and `prox`: a pair is made of either")
    if surrogate is not None:
        if transform is not None:
            raise BindeployError("`transform` belongs to `prox`: a surrogate is its own")
        F, schedule = _of_product(surrogate), schedule or "sharpness"
        B = derivative(F)
        forward, backward = "S(u)", "S'(u)"
    else:
        assert prox is not None
        P, T, schedule = _of_both(prox), _of_both(transform or identity), schedule or "proximal"
        T_slope = one if transform is None else derivative(T)
        F, B = _compose(T, P), _compose(T_slope, P)
        forward, backward = ("P(u)", "1") if transform is None else ("T(P(u))", "T'(P(u))")
    return Quantizer(
        name=name,
        F=F,
        B=B,
        consistent=_consistent(name, F, B, schedule, clip, allow_inconsistent),
        source="synthesized",
        forward=forward,
        backward=backward,
        schedule=schedule,
        clip=clip,
    )


def derivative(F: Function) -> Function:
    """F' with respect to u, by automatic differentiation; F works elementwise.

    Computes also where gradients are switched off, and gives 0 where F has none (signs, steps).
    """

    def slope(u: Tensor, mu: float) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = u.detach().clone().requires_grad_()
            value = F(x, mu)
            if value.shape != u.shape:
                raise BindeployError(
                    f"a function made {list(value.shape)} of {list(u.shape)}:"
                    " give one that works elementwise"
                )
            if not value.requires_grad:
                return torch.zeros_like(u)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return gradient

    return slope


def _consistent(
    name: str, F: Function, B: Function, schedule: str, clip: float | None, allow: bool
) -> bool:
    interval = LINE if clip is None else (-clip, clip)
    for step in (0, STEPS // 2, STEPS - 1):
        mu = sharpness_at(schedule, Moment(step, STEPS, epoch=step, learning_rate=1.0))
        report = check_pair(F, B, mu, interval)
        if report.consistent:
            continue
        if allow:
            return False
        assert report.where is not None
        low, high = report.where
        raise BindeployError(
            f"`{name}` is not consistent: {report.reason}, at mu {mu:g} between {low:g} and"
            f" {high:g}; change the function, or give allow_inconsistent=True"
        )
    return True


def _of_product(surrogate: Callable[..., Tensor]) -> Function:
    """S(u, mu) as it is; S(u) as S(mu u)."""
    if _takes_sharpness(surrogate):
        return surrogate
    return lambda u, mu: surrogate(mu * u)


def _of_both(function: Callable[..., Tensor]) -> Function:
    """f(u, mu) as it is; f(u) for every mu."""
    if _takes_sharpness(function):
        return function
    return lambda u, mu: function(u)


def _compose(outer: Function, inner: Function) -> Function:
    return lambda u, mu: outer(inner(u, mu), mu)


def _takes_sharpness(function: Callable[..., Tensor]) -> bool:
    """Whether it takes two positional arguments; torch's own functions tell none and get one."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(called).parameters.values()
    except ValueError:
        return False
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) == 2
