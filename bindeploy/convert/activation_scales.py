"""Which step an 8-bit integer of each activation should stand for, measured on data.

    q(x) = s clamp(round(x / s), -127, 127),   s = c / 127

The clip point c minimizes the mean squared error of q over a histogram of |x|, out of a grid that
ends at the largest |x| (M. Nagel et al., A White Paper on Neural Network Quantization, 2021,
section 3.1): rare large values are clipped where that makes the common ones finer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import dialect
from bindeploy.convert.engines import onnxruntime_run
from bindeploy.errors import BindeployError

BATCH = 32
"""Images that onnxruntime takes at once where the model leaves it open."""

BINS = 2048
"""At least 1024 of them are in use, eight for each of the 127 steps."""

GRID = np.arange(20, 101) / 100
"""Clip points that are tried, as shares of the largest |x|."""


class Magnitudes:
    """How often each |x| > 0 was seen, in bins of [0, limit), the limit a power of two.

    Where larger values come, neighbouring bins are added up until the limit is above them, so that
    one look at the data suffices and the memory stays what it is. Zeros are exact in any step.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = self.largest = 0.0

    def add(self, x: NDArray[np.float32]) -> None:
        """Count every |x| of an array of finite floats."""
        magnitudes = np.abs(x[x != 0]).astype(np.float64)
        if magnitudes.size:
            self._widen(float(magnitudes.max()))
            bins = (magnitudes * (BINS / self.limit)).astype(np.intp)
            self.counts += np.bincount(bins, minlength=BINS)

    def _widen(self, largest: float) -> None:
        """Let the limit be above `largest`."""
        self.largest = max(self.largest, largest)
        limit = 2.0 ** math.frexp(self.largest)[1]
        if 0 < self.limit < limit:
            joined = int(min(limit / self.limit, BINS))
            self.counts[: BINS // joined] = self.counts.reshape(-1, joined).sum(axis=1)
            self.counts[BINS // joined :] = 0
        self.limit = limit

    def scale(self) -> np.float32:
        """The step s: a finite float32 above 0; 1 where nothing but zeros was seen."""
        if not self.largest:
            return np.float32(1)
        centres = (np.arange(BINS) + 0.5) * (self.limit / BINS)
        steps = GRID[:, None] * (self.largest / 127)
        errors = centres - steps * np.minimum(np.round(centres / steps), 127)
        best = GRID[np.argmin((errors**2) @ self.counts)]
        smallest = np.finfo(np.float32).tiny
        return np.maximum(np.float32(best * self.largest / 127), smallest)


def scales(
    model: ir.Model, images: NDArray[np.float32], names: Sequence[str]
) -> dict[str, np.float32]:
    """The step of each activation that `names` names, from a run of `images` [N, ...].

    Raises BindeployError where an activation is not finite, or the model does not run.
    """
    seen = {name: Magnitudes() for name in names}
    for batch in _activations(model, images, list(seen)):
        for name, array in batch.items():
            if not np.isfinite(array).all():
                raise BindeployError(
                    f"`{name}` is not finite for one of the images: calibrate with images that "
                    "the model was trained on"
                )
            seen[name].add(array)
    return {name: magnitudes.scale() for name, magnitudes in seen.items()}


def _activations(
    model: ir.Model, images: NDArray[np.float32], names: Sequence[str]
) -> Iterator[dict[str, NDArray]]:
    """The values called `names`, batch after batch, with onnxruntime; `model` is left as it is."""
    clone = model.clone()
    graph = clone.graph
    source = _source(graph, images)
    made = {value.name: value for node in graph for value in node.outputs}
    computed = [name for name in names if name != source.name]
    graph.outputs.clear()
    graph.outputs.extend(made[name] for name in computed)
    for value in graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    dialect.attach_functions(clone)
    run = onnxruntime_run(ir.to_proto(clone)) if computed else lambda batch: []
    fixed = source.shape[0] if source.shape is not None else None
    size = fixed if isinstance(fixed, int) else BATCH
    for first in range(0, len(images), size):
        # A batch of a fixed size begins again with the first images where no more are left.
        rows = np.arange(first, first + size) % len(images)
        batch = images[rows] if isinstance(fixed, int) else images[first : first + size]
        found = dict(zip(computed, run(batch), strict=True))
        yield found | ({str(source.name): batch} if source.name in names else {})


def _source(graph: ir.Graph, images: NDArray[np.float32]) -> ir.Value:
    """The one input of the graph, which the images fit."""
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    if len(inputs) != 1:
        raise BindeployError(
            f"`{graph.name}` has {len(inputs)} inputs: calibration takes models of one"
        )
    (source,) = inputs
    written = source.shape
    sizes = [size if isinstance(size, int) else None for size in written or []]
    fits = images.ndim == len(sizes) and all(
        size in (None, given) for size, given in zip(sizes[1:], images.shape[1:], strict=True)
    )
    if written is not None and not fits:
        raise BindeployError(
            f"the images are {list(images.shape)}, and input `{source.name}` takes "
            f"[{', '.join('N' if size is None else str(size) for size in sizes)}]: give such images"
        )
    if not len(images):
        raise BindeployError("there are no images to calibrate with: give at least one")
    return source
