"""Bop: binary weights that flip, instead of latent weights that drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from bindeploy.train.quantizers import sign

GAMMA, THRESHOLD = 1e-4, 1e-8
"""The paper's on CIFAR-10 (section 5.2), where gamma falls to a tenth after every 100 epochs."""


class Bop(torch.optim.Optimizer):
    """Flips the weights of groups that say `latent`; steps the others by Adam.

        m <- (1 - gamma) m + gamma g
        w <- -w where |m| > threshold and sign(m) = sign(w)

    m is the running mean of the gradient, 0 at first, and the only state of such a weight. Weights
    are -1 and 1 from the start, the signs of what they were, so that the mean |w| that scales a
    filter is 1; weight decay is not for them. gamma follows the learning rate of its group, as
    gamma lr / initial_lr (convention: the paper gives it a schedule of its own).

    The gradient has to be that of the sign itself (methods bc and bnn): a flip asks for its
    direction alone. Without such groups this is torch.optim.Adam, bit for bit.

    Source: Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network
    Optimization" (2019), algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-2,
        gamma: float = GAMMA,
        threshold: float = THRESHOLD,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "gamma": gamma,
            "threshold": threshold,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "latent": False,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])
            if group["latent"]:
                _take_signs(group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure`, where given, computes the loss and the gradients before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["latent"]:
                self._flip(parameters, group)
            else:
                self._adam(parameters, group)
        return loss

    def _flip(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        gamma = group["gamma"] * float(group["lr"]) / group["initial_lr"]
        for w in weights:
            state = self.state[w]
            if not state:
                state["exp_avg"] = torch.zeros_like(w)
            m = state["exp_avg"].mul_(1 - gamma).add_(_gradient(w), alpha=gamma)
            w.copy_(torch.where(m * w > group["threshold"], -w, w))

    def _adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        rows = [self.state[parameter] for parameter in parameters]
        adam(
            list(parameters),
            [_gradient(parameter) for parameter in parameters],
            [row["exp_avg"] for row in rows],
            [row["exp_avg_sq"] for row in rows],
            [],
            [row["step"] for row in rows],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


@torch.no_grad()
def _take_signs(weights: Iterable[Tensor]) -> None:
    for w in weights:
        w.copy_(sign(w))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
