"""BatchNorm over the batches of all processes, so that many train as one would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn


@contextmanager
def synchronized(model: nn.Module, device: str) -> Iterator[nn.Module]:
    """Within, the nn.BatchNorm1d/2d layers of `model` train on the batches of all processes.

    The layers stay and change their class, so that names and tensors of the state do not change;
    afterwards they are what they were. `device` is the type of device that `model` trains on:
    torch's own layer serves all but "cpu", which it refuses. Subclasses of BatchNorm are left
    alone: they compute something else.
    """
    before = [(module, type(module)) for module in model.modules() if type(module) in ON_CPU]
    for module, kind in before:
        if device == "cpu":
            module.__class__ = ON_CPU[kind]
        else:
            module.__class__ = nn.SyncBatchNorm
            module.process_group = None  # type: ignore[assignment]  # all processes
    try:
        yield model
    finally:
        for module, kind in before:
            module.__class__ = kind


class _Normalize(torch.autograd.Function):
    """x float64 [N, C, ...] -> z, and over all processes the mean, variance and count of a channel.

    Forward, with n values of a channel in all processes together: `mean = sum(x) / n`, then
    `variance = sum((x - mean)^2) / n` and `z = (x - mean) / sqrt(variance + eps)`. Backward, with g
    the gradient of z: `(g - sum(g) / n - z sum(g z) / n) / sqrt(variance + eps)`: Ioffe and Szegedy
    (2015), section 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = x.new_tensor([x.numel() // x.shape[1]])
        sums = _over_processes(torch.cat([_over_values(x), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        z = x - _beside(x, mean)
        variance = _over_processes(_over_values(z.square())) / count
        scale = torch.rsqrt(variance + eps)
        z *= _beside(z, scale)
        ctx.save_for_backward(z, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return z, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        z, scale, count = ctx.saved_tensors
        sums = torch.cat([_over_values(gradient), _over_values(gradient * z)])
        mean, slope = (_over_processes(sums) / count).chunk(2)
        return (gradient - _beside(z, mean) - z * _beside(z, slope)) * _beside(z, scale), None


def _over_values(x: Tensor) -> Tensor:
    """The sum [C] of x [N, C, ...] over all but its channels."""
    return x.sum([axis for axis in range(x.dim()) if axis != 1])


def _over_processes(sums: Tensor) -> Tensor:
    distributed.all_reduce(sums)
    return sums


def _beside(x: Tensor, channels: Tensor) -> Tensor:
    """`channels` [C] in a shape that goes with x [N, C, ...]."""
    return channels.view(-1, *[1] * (x.dim() - 2))


class _Synchronized(nn.modules.batchnorm._BatchNorm):
    """nn.BatchNorm; as it trains, over all processes.

    It computes in float64, as torch sums on a CPU, so that the result does not show how many
    processes share the batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if alone or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, variance, count = _Normalize.apply(x.double(), self.eps)
        if count < 2:
            raise ValueError("BatchNorm trains on more than 1 value a channel")
        self._follow(mean, variance * count / (count - 1))
        if self.weight is not None:
            y = y * _beside(y, self.weight) + _beside(y, self.bias)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, if there are any, towards those of this batch."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.copy_((1 - share) * running + share * now)


class _BatchNorm1d(_Synchronized, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_Synchronized, nn.BatchNorm2d):
    pass


ON_CPU: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
}
"""Which layer takes the place of which on a CPU."""
