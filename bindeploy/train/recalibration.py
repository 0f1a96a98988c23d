"""BatchNorm statistics measured again on the hard network.

While it trains, BatchNorm follows the sums of the soft layers, and of weights that flip from step
to step; what is shipped are other sums. Normalizing them by their own mean and variance costs a few
batches and no training.

Sources: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization"
(2018), who first ran the training data once more for the statistics of other weights; Wu and
Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3, for statistics of the whole population
instead of a moving average; Nagel et al., "Overcoming Oscillations in Quantization-Aware Training"
(2022), who found moving averages wrong where quantized weights oscillate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bindeploy.errors import BindeployError


@contextmanager
def recalibrated(
    network: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]], count: int
) -> Iterator[None]:
    """Within the block, BatchNorm of `network` has the statistics of `count` training batches.

    A batch is a tensor of images [N, C, H, W], N at least 2, or a tuple that starts with one; where
    `batches` ends early, those that came count. The network runs on them as it is (harden it
    first), without gradients and in evaluation mode but for BatchNorm, which normalizes each batch
    by its own mean and variance. The statistics are the mean and unbiased variance of all that a
    layer has seen, over all batches and all processes that train together.

    After the block, and after an error, everything is bit for bit what it was: statistics, counts
    of batches, training mode. What is to be kept is written inside, as
    `with recalibrated(...): save(network.state_dict())`. No batch, and numbers that are not finite,
    raise BindeployError.
    """
    if count < 1:
        raise BindeployError(f"{count} batches to measure BatchNorm on: give 1 or more")
    kept = [(buffer, buffer.clone()) for layer in _layers(network) for buffer in layer.buffers()]
    try:
        _measure(network, batches, count)
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


class _Moments:
    """Mean and squared deviations [C] of the values that a layer has seen, in float64.

    Two sets of n_a and n_b values, d = mean_b - mean_a, n = n_a + n_b, have together the mean
    mean_a + d n_b / n and the squared deviations s_a + s_b + d^2 n_a n_b / n (Chan, Golub and
    LeVeque, 1979): no large sums cancel, and the order of batches matters by rounding alone.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0.0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.deviations = torch.zeros(channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Take in the batch `x` [N, C, ...]."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        exact = x.double() if x.device.type == "cpu" else x.float()  # not every device has float64
        variance, mean = torch.var_mean(exact, axes, correction=0)
        count = x.numel() / x.shape[1]
        self.join(count, mean.cpu().double(), variance.cpu().double() * count)

    def join(self, count: float, mean: Tensor, deviations: Tensor) -> None:
        """Take in the moments of other values."""
        total = self.count + count
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.deviations = (
            self.deviations + deviations + difference**2 * (self.count * count / total)
        )
        self.count = total

    def over_processes(self, device: torch.device) -> _Moments:
        """The moments of what all processes that train together have seen."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        own = torch.stack([torch.full_like(self.mean, self.count), self.mean, self.deviations])
        rows = [
            torch.empty_like(own, device=device) for _ in range(torch.distributed.get_world_size())
        ]
        torch.distributed.all_gather(rows, own.to(device))
        together = _Moments(len(self.mean))
        for row in rows:
            count, mean, deviations = row.cpu()
            if float(count[0]):
                together.join(float(count[0]), mean, deviations)
        return together


def _measure(network: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]], count: int) -> None:
    """Overwrite the statistics of every BatchNorm layer that the batches reach."""
    moments = {layer: _Moments(layer.num_features) for layer in _layers(network)}
    _run(network, batches, count, moments)
    names = {module: name for name, module in network.named_modules()}
    for layer, own in moments.items():
        assert layer.running_mean is not None and layer.running_var is not None
        seen = own.over_processes(layer.running_mean.device)
        if seen.count < 2:
            continue
        variance = seen.deviations / (seen.count - 1)
        if not (seen.mean.isfinite().all() and variance.isfinite().all()):
            raise BindeployError(
                f"BatchNorm `{names[layer]}` gets numbers that are not finite:"
                " train with a smaller learning rate"
            )
        layer.running_mean.copy_(seen.mean)
        layer.running_var.copy_(variance)


@torch.no_grad()
def _run(
    network: nn.Module,
    batches: Iterable[Tensor | Sequence[Tensor]],
    count: int,
    moments: Mapping[_BatchNorm, _Moments],
) -> None:
    """Send `count` batches through, each layer of `moments` taking in what it gets."""

    def take_in(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        moments[layer].add(inputs[0])

    training = [(module, module.training) for module in network.modules()]
    handles = [layer.register_forward_pre_hook(take_in) for layer in moments]
    network.eval()
    for layer in moments:
        layer.train()
    device = next((parameter.device for parameter in network.parameters()), None)
    ran = 0
    try:
        for batch in islice(batches, count):
            images = batch if isinstance(batch, Tensor) else batch[0]
            network(images.to(device))
            ran += 1
    finally:
        for handle in handles:
            handle.remove()
        for module, was in training:
            module.training = was
    if not ran:
        raise BindeployError("no batch to measure BatchNorm on: give at least one")


def _layers(network: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers that keep statistics; others use those of each batch in any case."""
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
