"""Layers whose weights, and inputs where the mode says so, are one bit wide when they are hardened.

A layer keeps a latent float weight `u`. Soft, as it trains, it uses `w = alpha F(u, mu)`; hard, as
it is exported, `w = alpha sign(u)`. alpha is the mean of |u| over each filter, the least-squares
scale. The gradient of `u` is `B(u, mu)` times that of `w`, elementwise: alpha is detached and is no
factor of it (convention, so that (sign, 1) is BinaryConnect and any torch optimizer works on `u`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.errors import BindeployError, unknown
from bindeploy.train import modes, operators, quantizers
from bindeploy.train.quantizers import Function, Quantizer, sign


class _ProximalWeight(torch.autograd.Function):
    """Forward `alpha F(u, mu)`; backward `B(u, mu) * gradient`."""

    @staticmethod
    def forward(ctx, u: Tensor, alpha: Tensor, quantizer: Quantizer, mu: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.quantizer, ctx.mu = quantizer, mu
        return alpha * quantizer.F(u, mu)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (u,) = ctx.saved_tensors
        return ctx.quantizer.B(u, ctx.mu).to(gradient.dtype) * gradient, None, None, None


class _SignActivation(torch.autograd.Function):
    """Forward sign(x); backward `B(x) * gradient`."""

    @staticmethod
    def forward(ctx, x: Tensor, backward: Function, mu: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.B, ctx.mu = backward, mu
        return sign(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        return ctx.B(x, ctx.mu) * gradient, None, None


def _filter_mean(u: Tensor) -> Tensor:
    return u.abs().flatten(1).mean(1)


def _ones(u: Tensor) -> Tensor:
    return u.new_ones(u.shape[0])


SCALES = {"filter": _filter_mean, "none": _ones}
"""How alpha [F] follows from the latent weight: mean |u| a filter, or 1."""


class _Binary(nn.Module):
    """What the binary layers share: quantizer, mode, scale, sharpness, and soft or hard."""

    quantizer: Quantizer
    mode: modes.Mode
    alpha: str
    mu: float
    hard: bool

    def _configure(self, method: str | Quantizer, mode: str, scale: str) -> None:
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        self.quantizer, self.mode, self.alpha = quantizers.get(method), modes.get(mode), scale
        self.mu, self.hard = 1.0, False

    def filter_scale(self) -> Tensor:
        """alpha [F] of the latent weight as it is now, detached."""
        return SCALES[self.alpha](self._latent().detach())

    def soft_weight(self) -> Tensor:
        """`alpha F(u, mu)` in the shape of the weight, with B as its gradient."""
        weight = self._latent()
        alpha = self.filter_scale().view(-1, *[1] * (weight.dim() - 1))
        return _ProximalWeight.apply(weight, alpha, self.quantizer, self.mu)

    def soft_input(self, x: Tensor) -> Tensor:
        """The input that the soft layer multiplies: its signs if the mode binarizes it."""
        if not self.mode.binary_input:
            return x
        return _SignActivation.apply(x, self.quantizer.activation_B, self.mu)

    def harden(self) -> None:
        """Use sign(u) from now on, with the scale of the latent weight as it is now.

        The scale becomes a plain tensor beside the weight, and so does a bias of zeros where the
        layer has none: that is what the exporter hands on.
        """
        scale = self.filter_scale()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("no_bias", torch.zeros_like(scale), persistent=False)
        self.hard = True

    def soften(self) -> None:
        """Use F(u, mu) again."""
        self.hard = False

    def _hard_bias(self):
        return self.no_bias if self.bias is None else self.bias

    def _latent(self) -> Tensor:
        weight = self.weight
        assert isinstance(weight, Tensor)
        return weight


class BinaryConv2d(_Binary, nn.Conv2d):
    """nn.Conv2d with one-bit weights: x [N, C, H, W] -> [N, F, H', W'].

    Takes what nn.Conv2d takes, and `method` (a name or a Quantizer), `mode` ("bw": the input stays
    float, "bwa": its sign is taken), `scale` ("filter" or "none") and `pad_value`, what a padded
    tap reads (None: 1 for a binary input, 0 for a float one). Padding is with a constant; another
    `padding_mode` raises BindeployError.
    """

    pad_value: float

    def __init__(
        self,
        *arguments,
        method: str | Quantizer = "bnn++",
        mode: str = "bwa",
        scale: str = "filter",
        pad_value: float | None = None,
        **keywords,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.configure(method, mode, scale, pad_value)

    def configure(
        self,
        method: str | Quantizer,
        mode: str,
        scale: str = "filter",
        pad_value: float | None = None,
    ) -> None:
        """Set method, mode, scale and padding; the layer is soft, at sharpness 1."""
        self._configure(method, mode, scale)
        if self.padding_mode != "zeros":
            raise BindeployError(
                f"padding_mode `{self.padding_mode}` of a binary convolution: only `zeros` works"
                " (pad_value chooses the constant)"
            )
        if pad_value not in (None, 0, 1):
            raise BindeployError(f"pad_value `{pad_value}`: choose from 0, 1")
        self.pad_value = self.mode.pad_value if pad_value is None else float(pad_value)

    @property
    def pads(self) -> list[int]:
        """[top, left, bottom, right]."""
        if self.padding == "valid":
            return [0, 0, 0, 0]
        if self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            before = [total // 2 for total in totals]
            return before + [t - b for t, b in zip(totals, before, strict=True)]
        return [int(amount) for amount in self.padding] * 2

    def forward(self, x: Tensor) -> Tensor:
        geometry = list(self.stride), self.pads, list(self.dilation), self.groups, self.pad_value
        if self.hard:
            binary = self.mode.binary_input
            operator = operators.binary_conv2d if binary else operators.binary_weight_conv2d
            return operator(x, self.weight, self.scale, self._hard_bias(), *geometry)
        padded = operators.pad(self.soft_input(x), self.pads, self.pad_value)
        return functional.conv2d(
            padded, self.soft_weight(), self.bias, self.stride, 0, self.dilation, self.groups
        )

    def dot(self, x: Tensor) -> Tensor:
        """The exact integers of the hardened layer for its input `x`: int32 [N, F, H', W']."""
        geometry = list(self.stride), self.pads, list(self.dilation), self.groups, self.pad_value
        product = operators.signed_conv2d(sign(x), self.weight.detach(), *geometry)
        return product.round().to(torch.int32)


class BinaryLinear(_Binary, nn.Linear):
    """nn.Linear with one-bit weights: x [..., C] -> [..., F]. See `BinaryConv2d`."""

    def __init__(
        self,
        *arguments,
        method: str | Quantizer = "bnn++",
        mode: str = "bwa",
        scale: str = "filter",
        **keywords,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.configure(method, mode, scale)

    def configure(self, method: str | Quantizer, mode: str, scale: str = "filter") -> None:
        """Set method, mode and scale; the layer is soft, at sharpness 1."""
        self._configure(method, mode, scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.hard:
            binary = self.mode.binary_input
            operator = operators.binary_linear if binary else operators.binary_weight_linear
            return operator(x, self.weight, self.scale, self._hard_bias())
        return functional.linear(self.soft_input(x), self.soft_weight(), self.bias)

    def dot(self, x: Tensor) -> Tensor:
        """The exact integers of the hardened layer for its input `x`: int32 [..., F]."""
        product = functional.linear(sign(x), sign(self.weight.detach()))
        return product.round().to(torch.int32)


class BinarySign(nn.Module):
    """sign(x), any shape; the gradient passes where |x| <= 1 (convention)."""

    def __init__(self) -> None:
        super().__init__()
        self.hard = False

    def forward(self, x: Tensor) -> Tensor:
        if self.hard:
            return operators.binary_sign(x)
        return _SignActivation.apply(x, quantizers.clip_mask, 1.0)

    def harden(self) -> None:
        """Become one operator, without a gradient."""
        self.hard = True

    def soften(self) -> None:
        """Have a gradient again."""
        self.hard = False


BinaryLayer = BinaryConv2d | BinaryLinear


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer]]:
    """The layers of `model` that have one-bit weights, with their names, in order."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer):
            yield name, module


Named = list[tuple[str, nn.Module]]
Skip = Callable[[str, nn.Module], bool]

REPLACEMENTS: dict[type[nn.Module], type[BinaryConv2d] | type[BinaryLinear]] = {
    nn.Conv2d: BinaryConv2d,
    nn.Linear: BinaryLinear,
}
"""Which layer takes the place of which. Subclasses are left alone: they compute something else."""


def first_and_last(layers: Named) -> Skip:
    """The rule that leaves the first and the last of `layers`, as registered, in float."""
    ends = {id(layers[0][1]), id(layers[-1][1])} if layers else set()
    return lambda name, module: id(module) in ends


def binarize(
    model: nn.Module,
    method: str | Quantizer = "bnn++",
    mode: str = "bwa",
    skip: Skip | Callable[[Named], Skip] = first_and_last,
) -> nn.Module:
    """Make the nn.Conv2d and nn.Linear layers of `model` binary, in place; returns `model`.

    Weights, biases, names, hooks and devices are kept: the float weight becomes the latent one. A
    layer for which `skip(name, module)` is true stays float; by default the first and the last do.
    `method` is a name or a Quantizer, `mode` "bw" or "bwa". A convolution whose padding is not a
    constant, an unknown name, and a model with nothing left to binarize raise BindeployError, and
    leave the model as it was.
    """
    if not isinstance(model, nn.Module):
        raise BindeployError(f"`{type(model).__name__}` is no torch module: give an nn.Module")
    quantizer = quantizers.get(method)
    modes.get(mode)
    candidates = [(n, m) for n, m in model.named_modules() if type(m) in REPLACEMENTS]
    rule = first_and_last(candidates) if skip is first_and_last else cast(Skip, skip)
    chosen = [(name, module) for name, module in candidates if not rule(name, module)]
    if not chosen:
        raise BindeployError(
            f"`{type(model).__name__}` has nothing to binarize among its {len(candidates)} "
            "nn.Conv2d and nn.Linear layers: give a larger model, or a skip that leaves some"
        )
    for name, module in chosen:
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise BindeployError(
                f"layer `{name}` pads by `{module.padding_mode}`: only `zeros` can be binarized,"
                " skip it or change it"
            )
    for _, module in chosen:
        # The object stays and changes its class: whoever holds it, under whatever names, sees the
        # binary layer, and hooks and optimizers keep working.
        module.__class__ = REPLACEMENTS[type(module)]
        module.configure(quantizer, mode)
    return model
