"""What a binary layer's input becomes before it is multiplied: signs, or 8-bit integers."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.train import operators
from bindeploy.train.quantizers import Function, clip_mask, sign

LARGEST_INTEGER = 127
UNSEEN = -1.0
"""The running maximum before the first batch."""

MOMENTUM = 0.1
"""How much of a new batch enters the running maximum: BatchNorm's own default."""


class _Signed(torch.autograd.Function):
    """Forward sign(x); backward `B(x) * gradient`."""

    @staticmethod
    def forward(ctx, x: Tensor, backward: Function, mu: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.B, ctx.mu = backward, mu
        return sign(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        if ctx.B is clip_mask:  # the same numbers in one pass
            return torch.ops.aten.hardtanh_backward(gradient, x, *_beyond_one(x.dtype)), None, None
        return ctx.B(x, ctx.mu) * gradient, None, None


@cache
def _beyond_one(dtype: torch.dtype) -> tuple[float, float]:
    """The numbers next to -1 and 1 on the far side: what lies strictly between is |x| <= 1."""
    beyond = 1 + torch.finfo(dtype).eps
    return -beyond, beyond


def signed(x: Tensor, backward: Function, mu: float) -> Tensor:
    """sign(x), any shape; the gradient is multiplied by `backward(x, mu)`."""
    return _Signed.apply(x, backward, mu)


def step_of(maximum: Tensor) -> Tensor:
    """The float that one integer step stands for: maximum / 127, up to the next power of two.

    So integers times the step, and their sums, are exact in float32 in whatever order an engine
    adds them, and no engine lands on the other side of a half step for that.
    """
    smallest = torch.finfo(maximum.dtype).tiny
    mantissa, exponent = torch.frexp((maximum / LARGEST_INTEGER).clamp(min=smallest))
    return torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).int())


class _Clipped(torch.autograd.Function):
    """Forward clip(x, -1, 1); backward the gradient where -1 < x < 1, in the memory format of x."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.hardtanh(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        return torch.ops.aten.hardtanh_backward(gradient, x, -1.0, 1.0)


class Hardtanh(nn.Hardtanh):
    """nn.Hardtanh, clip(x, -1, 1), whose gradient keeps the memory format of x.

    torch's own takes that of the gradient it gets, an average pool hands on another one than the
    convolutions', and BatchNorm's gradient between two formats takes five times as long.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return _Clipped.apply(x) if x.requires_grad else super().forward(x)


class _Integers(torch.autograd.Function):
    """Forward q * step; backward the gradient where x is not clipped."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(x, step)
        return operators.quantize_int8(x, step)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, step = ctx.saved_tensors
        return gradient * (x.abs() <= LARGEST_INTEGER * step), None


def integers(x: Tensor, maximum: Tensor) -> Tensor:
    """s q with q = round(x / s) in -128..127 and s = `step_of(maximum)`, halves to the even one.

    The gradient passes where |x| is at most 127 s (straight-through).
    """
    return _Integers.apply(x, step_of(maximum).to(x.dtype))


@torch.no_grad()
def follow_maximum(running: Tensor, x: Tensor) -> None:
    """Move the running maximum of |x| by the batch `x`; the first batch sets it.

    Processes that train together take the largest of all their batches.
    """
    largest = x.abs().amax().to(running.dtype)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    moved = torch.lerp(running, largest, MOMENTUM)
    running.copy_(torch.where(running < 0, largest, moved))
