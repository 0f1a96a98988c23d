"""An ONNX value that is part of a picture, or a picture in an order that no layout names.

Transpose, Reshape, Split, Slice and Gather of such a value move nothing: they change the steps at
which its elements are found. An operator that takes steps (matmul) reads it in place; for any other
it is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bindeploy.emit.plan_layout import Layout, Picture
from bindeploy.emit.plan_views import Activation, View


class Run(NamedTuple):
    """`size` elements, each `step` floats after the one before."""

    size: int
    step: int


BATCH = Run(1, -1)
"""The images: a plan holds one, and nothing has its step."""

Axis = tuple[Run, ...]
"""One axis of an ONNX value; of several runs, the last one moves fastest."""


@dataclass(frozen=True)
class Strided:
    """`factor` times the elements of an activation that its axes, N among them, say."""

    activation: Activation
    axes: tuple[Axis, ...]
    first: int = 0
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The ONNX shape, with 1 for N."""
        return tuple(math.prod(run.size for run in axis) for axis in self.axes)

    @property
    def runs(self) -> Axis:
        """All its elements as one axis."""
        return joined(sum(self.axes, ()))

    def transposed(self, axes: Sequence[int]) -> Strided:
        """The axes in another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in axes))

    def without(self, axis: int) -> Strided:
        """Without an axis of size 1."""
        return replace(self, axes=self.axes[:axis] + self.axes[axis + 1 :])

    def with_one(self, axis: int) -> Strided:
        """With a new axis of size 1 at `axis`."""
        return replace(self, axes=(*self.axes[:axis], (), *self.axes[axis:]))

    def taken(self, axis: int, indices: range) -> Strided | None:
        """Elements `indices` along an axis; None where it is no single run."""
        runs = joined(self.axes[axis])
        if BATCH in runs or len(runs) > 1:
            return None
        step = runs[0].step if runs else 0
        part = (Run(len(indices), step * indices.step),)
        axes = (*self.axes[:axis], part, *self.axes[axis + 1 :])
        return replace(self, axes=axes, first=self.first + indices.start * step)

    def reshaped(self, sizes: Sequence[int], unnamed: Sequence[bool]) -> Strided | None:
        """In the same order with axes of `sizes`, of which those `unnamed` can be N's.

        None where a run would have to be broken in no whole parts.
        """
        left = [*self.runs]
        axes = []
        for index, size in enumerate(sizes):
            axis: list[Run] = []
            if left and left[0] == BATCH and _begins_with_batch(sizes, unnamed, index):
                axis.append(left.pop(0))
            while size > 1:
                run = left.pop(0)
                if run.size > size and run.size % size == 0:
                    left.insert(0, Run(run.size // size, run.step))
                    run = Run(size, run.step * (run.size // size))
                if size % run.size:
                    return None
                axis.append(run)
                size //= run.size
            if left and left[0] == BATCH and unnamed[index]:
                axis.append(left.pop(0))
            axes.append(tuple(axis))
        axes[-1] += tuple(left)
        return replace(self, axes=tuple(axes))

    def view(self) -> View | None:
        """The same as a picture in one of the layouts; None where it is none."""
        if self.first or self.factor != 1:
            return None
        axes = [joined(axis) for axis in self.axes]
        for layout in Layout:
            if layout.fits(self.activation.shape):
                known = of_view(View(self.activation, layout))
                if [joined(axis) for axis in known.axes] == axes:
                    return View(self.activation, layout)
        return None

    def picture(self) -> Picture:
        """(C, H, W) of its elements when they stand in order: the last axis is C."""
        sizes = self.shape[1:] if self.axes[0] == (BATCH,) else self.shape
        if len(sizes) in (2, 3):
            return sizes[-1], math.prod(sizes[:-2]), sizes[-2]
        return (sizes[-1], 1, math.prod(sizes[:-1])) if sizes else (1, 1, 1)

    def in_order(self, activation: Activation) -> Strided:
        """The same axes, of a new activation that holds the elements in order."""
        step = math.prod(self.shape)
        axes: list[Axis] = []
        for axis in self.axes:
            runs = []
            for run in axis:
                step //= run.size
                runs.append(run if run == BATCH else Run(run.size, step))
            axes.append(tuple(runs))
        return Strided(activation, tuple(axes))


def _begins_with_batch(sizes: Sequence[int], unnamed: Sequence[bool], index: int) -> bool:
    """Whether N belongs to axis `index`: of several axes of size 1 in a row, to one that nobody
    called 1."""
    if unnamed[index] or sizes[index] != 1:
        return True
    for size, free in zip(sizes[index + 1 :], unnamed[index + 1 :], strict=True):
        if size != 1 or free:
            return not (free and size == 1)
    return True


def joined(axis: Axis) -> Axis:
    """The same elements in as few runs as possible."""
    runs: list[Run] = []
    for run in axis:
        if runs and BATCH not in (run, runs[-1]) and runs[-1].step == run.size * run.step:
            runs[-1] = Run(runs[-1].size * run.size, run.step)
        elif run.size > 1 or run == BATCH:
            runs.append(run)
    return tuple(runs)


def of_view(view: View) -> Strided:
    """A picture in a layout, as steps."""
    channels, height, width = view.activation.shape
    runs = {
        "C": Run(channels, 1),
        "H": Run(height, width * channels),
        "W": Run(width, channels),
    }
    axes = [runs[axis] for axis in view.layout.axes]
    within = (tuple(axes),) if view.flat else tuple((run,) for run in axes)
    return Strided(view.activation, ((BATCH,), *within))
