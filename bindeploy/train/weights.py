"""The weight that a soft layer multiplies, and the gradient that its latent weight gets."""

from __future__ import annotations

import torch
from torch import Tensor

from bindeploy.train.quantizers import Quantizer


class _Used(torch.autograd.Function):
    """Forward `alpha F(u, mu)`; backward `B(u, mu) * gradient`, or the method's own transform."""

    @staticmethod
    def forward(ctx, u: Tensor, alpha: Tensor, quantizer: Quantizer, mu: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.quantizer, ctx.mu = quantizer, mu
        return alpha * quantizer.F(u, mu)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (u,) = ctx.saved_tensors
        quantizer, mu = ctx.quantizer, ctx.mu
        if quantizer.gradient is not None:
            return quantizer.gradient(u, gradient.to(u.dtype), mu), None, None, None
        return quantizer.B(u, mu).to(gradient.dtype) * gradient, None, None, None


def used(u: Tensor, alpha: Tensor, quantizer: Quantizer, mu: float) -> Tensor:
    """`alpha F(u, mu)`, alpha broadcasting over u; u gets `B(u, mu)` times the gradient."""
    return _Used.apply(u, alpha, quantizer, mu)
