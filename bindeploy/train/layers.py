"""Layers whose weights, and inputs where the mode says so, are one bit wide when they are hardened.

A layer keeps a latent float weight `u`. Soft, as it trains, it uses `w = alpha F(u, mu)`; hard, as
it is exported, `w = alpha sign(u)`. alpha is the scale of each filter, by default the mean of |u|,
the least-squares one. The gradient of `u` is `B(u, mu)` times that of `w`, elementwise: alpha is
detached and is no factor of it (convention, so that (sign, 1) is BinaryConnect and any torch
optimizer works on `u`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.errors import BindeployError, unknown
from bindeploy.train import activations, modes, operators, padding, quantizers, saturation
from bindeploy.train.quantizers import Quantizer, sign
from bindeploy.train.scales import SCALES, SMALLEST_DEVIATION, standardized
from bindeploy.train.weights import used


class _Binary(nn.Module):
    """What the binary layers share: quantizer, mode, scale, sharpness, and soft or hard."""

    quantizer: Quantizer
    mode: modes.Mode
    scale_name: str
    mu: float
    hard: bool
    shift: nn.Parameter | None
    scale: Tensor
    input_maximum: Tensor
    input_scale: Tensor

    def _configure(
        self,
        method: str | Quantizer,
        mode: str,
        scale: str | None,
        channels: int,
        learned_shift: bool,
    ) -> None:
        self.quantizer, self.mode = quantizers.get(method), modes.get(mode)
        self.scale_name = self.quantizer.scale if scale is None else scale
        if self.scale_name not in SCALES:
            raise unknown("scale", self.scale_name, SCALES)
        if self.quantizer.gradient is not None and self.scale_name != self.quantizer.scale:
            raise BindeployError(
                f"scale `{scale}`: the gradient of method `{self.quantizer.name}` goes with scale"
                f" `{self.quantizer.scale}` alone"
            )
        self.mu, self.hard = 1.0, False
        weight = self._latent()
        zeros = nn.Parameter(weight.new_zeros(channels)) if learned_shift else None
        self.register_parameter("shift", zeros)
        if self.mode.input_bits == 8:
            self.register_buffer("input_maximum", weight.new_full((), activations.UNSEEN))

    def filter_scale(self) -> Tensor:
        """alpha [F] of the latent weight as it is now, detached."""
        return SCALES[self.scale_name](self.shipped_latent())

    def shipped_latent(self) -> Tensor:
        """The latent weight whose sign counts: standardized where the method does so, detached."""
        weight = self._latent().detach()
        return standardized(weight) if self.quantizer.standardize else weight

    def soft_weight(self) -> Tensor:
        """`alpha F(u, mu)` in the shape of the weight, with B as its gradient.

        Methods whose gradient is taken at u train with u itself.
        """
        weight = self._latent()
        if self.quantizer.gradient_at == "u":
            return weight
        if self.quantizer.standardize:
            weight = standardized(weight)
        return used(weight, self._alpha_by_filter(), self.quantizer, self.mu)

    def soft_input(self, x: Tensor) -> Tensor:
        """The input that the soft layer multiplies: signs, 8-bit integers times their scale, or x.

        Only a layer in training moves the range of its integers.
        """
        x = self._shifted(x)
        if self.mode.input_bits == 1:
            return activations.signed(x, self.quantizer.activation_B, self.mu)
        if self.mode.input_bits == 8:
            if self.training and not self.hard:
                activations.follow_maximum(self.input_maximum, x.detach())
            return activations.integers(x, self.input_maximum)
        return x

    def hard_input(self, x: Tensor) -> Tensor:
        """The input of the hard operator, which takes signs by itself."""
        x = self._shifted(x)
        return operators.quantize_int8(x, self.input_scale) if self.mode.input_bits == 8 else x

    def harden(self) -> None:
        """Use sign(u) from now on, with the scale of the latent weight as it is now.

        The scale becomes a plain tensor beside the weight, and so does a bias of zeros where the
        layer has none: that is what the exporter hands on.
        """
        scale = self.filter_scale()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("no_bias", torch.zeros_like(scale), persistent=False)
        if self.quantizer.standardize:
            self.register_buffer("standardized", self.shipped_latent(), persistent=False)
        if self.mode.input_bits == 8:
            if not self.input_maximum.is_meta and self.input_maximum < 0:
                raise BindeployError(
                    "a layer of mode `bw8` has seen no batch, so that the range of its integers is"
                    " not known: run the network in training mode first"
                )
            step = activations.step_of(self.input_maximum)
            self.register_buffer("input_scale", step, persistent=False)
        self.hard = True

    def soften(self) -> None:
        """Use F(u, mu) again."""
        self.hard = False

    def _shifted(self, x: Tensor) -> Tensor:
        """x + shift, a learned number a channel (ReActNet, 2020)."""
        return x if self.shift is None else x + self._by_channel(self.shift)

    def _by_channel(self, values: Tensor) -> Tensor:
        """`values`, one a channel, in a shape that broadcasts over inputs and outputs.

        A channel is followed by as many axes in them as in the weight [F, C, ...].
        """
        return values.view(-1, *[1] * (self._latent().dim() - 2))

    def _alpha_by_filter(self) -> Tensor:
        return self.filter_scale().view(-1, *[1] * (self._latent().dim() - 1))

    def _saturated(
        self, exact: Tensor, weight: Tensor, saturate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`exact`, sums with `weight`, with the values of 8-bit sums and the gradient of its own.

        The accumulator sees F(u, mu) without its scale, as the hard layer sees signs.
        """
        with torch.no_grad():
            alpha = self._alpha_by_filter().clamp(min=SMALLEST_DEVIATION)
            values = saturate(weight / alpha) * self._by_channel(alpha.flatten())
        return exact + (values - exact).detach()

    def _operator_of(self, signs: Callable, saturating: Callable, floats: Callable) -> Callable:
        """The hard operator of this mode: of signs, with exact sums or not, or of floats."""
        if not self.mode.binary_input:
            return floats
        return signs if self.mode.accumulator_bits is None else saturating

    def _hard_weight(self):
        return self.standardized if self.quantizer.standardize else self.weight

    def _hard_bias(self):
        return self.no_bias if self.bias is None else self.bias

    def _latent(self) -> Tensor:
        weight = self.weight
        assert isinstance(weight, Tensor)
        return weight


class BinaryConv2d(_Binary, nn.Conv2d):
    """nn.Conv2d with one-bit weights: x [N, C, H, W] -> [N, F, H', W'].

    Takes what nn.Conv2d takes, and `method` (a name or a Quantizer), `mode` (a row of
    `modes.MODES`), `scale` (a row of `SCALES`; None: the method's own), `pad_value`, what a padded
    tap reads (None: the mode's own, 1 for a binary input, 0 for another), and `learned_shift`: a
    number a channel that is added to the input. Padding is with a constant; another `padding_mode`
    raises BindeployError.
    """

    pad_value: float

    def __init__(
        self,
        *arguments,
        method: str | Quantizer = "bnn++",
        mode: str = "bwa",
        scale: str | None = None,
        pad_value: float | None = None,
        learned_shift: bool = False,
        **keywords,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.configure(method, mode, scale, pad_value, learned_shift)

    def configure(
        self,
        method: str | Quantizer,
        mode: str,
        scale: str | None = None,
        pad_value: float | None = None,
        learned_shift: bool = False,
    ) -> None:
        """Set method, mode, scale and padding; the layer is soft, at sharpness 1."""
        self._configure(method, mode, scale, self.in_channels, learned_shift)
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
        if not self.hard:
            return self._soft(x)
        geometry = list(self.stride), self.pads, list(self.dilation), self.groups, self.pad_value
        operator = self._operator_of(
            operators.binary_conv2d, operators.saturating_conv2d, operators.binary_weight_conv2d
        )
        weight, bias = self._hard_weight(), self._hard_bias()
        return operator(self.hard_input(x), weight, self.scale, bias, *geometry)

    def _soft(self, x: Tensor) -> Tensor:
        x, weight = self.soft_input(x), self.soft_weight()
        exact = self.mode.accumulator_bits is None
        bias, geometry = self.bias if exact else None, (self.stride, self.dilation, self.groups)
        y = padding.conv2d(x, weight, bias, self.pads, self.pad_value, *geometry)
        if exact:
            return y
        padded = operators.pad(x, self.pads, self.pad_value)
        y = self._saturated(y, weight, lambda unscaled: self._saturating(padded, unscaled))
        return y if self.bias is None else y + self._by_channel(self.bias)

    def _saturating(self, padded: Tensor, weight: Tensor) -> Tensor:
        return saturation.conv2d(padded, weight, self.stride, self.dilation, self.groups)

    def dot(self, x: Tensor) -> Tensor:
        """The integers of the hardened layer for its input `x`: int32 [N, F, H', W'].

        They are exact, or saturated where the mode has 8-bit accumulators.
        """
        signs, weight = sign(self._shifted(x)), sign(self.shipped_latent())
        if self.mode.accumulator_bits is not None:
            padded = operators.pad(signs, self.pads, self.pad_value)
            return self._saturating(padded, weight).round().to(torch.int32)
        geometry = list(self.stride), self.pads, list(self.dilation), self.groups, self.pad_value
        return operators.signed_conv2d(signs, weight, *geometry).round().to(torch.int32)


class BinaryLinear(_Binary, nn.Linear):
    """nn.Linear with one-bit weights: x [..., C] -> [..., F]. See `BinaryConv2d`."""

    def __init__(
        self,
        *arguments,
        method: str | Quantizer = "bnn++",
        mode: str = "bwa",
        scale: str | None = None,
        learned_shift: bool = False,
        **keywords,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.configure(method, mode, scale, learned_shift=learned_shift)

    def configure(
        self,
        method: str | Quantizer,
        mode: str,
        scale: str | None = None,
        learned_shift: bool = False,
    ) -> None:
        """Set method, mode and scale; the layer is soft, at sharpness 1."""
        self._configure(method, mode, scale, self.in_features, learned_shift)

    def forward(self, x: Tensor) -> Tensor:
        if not self.hard:
            return self._soft(x)
        operator = self._operator_of(
            operators.binary_linear, operators.saturating_linear, operators.binary_weight_linear
        )
        return operator(self.hard_input(x), self._hard_weight(), self.scale, self._hard_bias())

    def _soft(self, x: Tensor) -> Tensor:
        x, weight = self.soft_input(x), self.soft_weight()
        if self.mode.accumulator_bits is None:
            return functional.linear(x, weight, self.bias)
        y = functional.linear(x, weight)
        y = self._saturated(y, weight, lambda unscaled: saturation.linear(x, unscaled))
        return y if self.bias is None else y + self.bias

    def dot(self, x: Tensor) -> Tensor:
        """The integers of the hardened layer for its input `x`: int32 [..., F], as above."""
        signs, weight = sign(self._shifted(x)), sign(self.shipped_latent())
        exact = self.mode.accumulator_bits is None
        product = (functional.linear if exact else saturation.linear)(signs, weight)
        return product.round().to(torch.int32)


class BinarySign(nn.Module):
    """sign(x), any shape; the gradient passes where |x| <= 1 (convention)."""

    def __init__(self) -> None:
        super().__init__()
        self.hard = False

    def forward(self, x: Tensor) -> Tensor:
        if self.hard:
            return operators.binary_sign(x)
        return activations.signed(x, quantizers.clip_mask, 1.0)

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
