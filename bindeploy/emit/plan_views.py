"""What an ONNX value is in the plan: a picture, seen with some axes, held by tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bindeploy.emit.plan_format import Shape
from bindeploy.emit.plan_layout import Layout, Picture


@dataclass
class Activation:
    """One picture of `shape` (C, H, W) in the plan, and the tensors that hold it.

    `floats` is exact, `signs` tells floats >= 0; at least one is there. `readers` counts the node
    inputs and graph outputs that read it in the ONNX graph.
    """

    name: str
    shape: Picture
    readers: int
    floats: int | None = None
    signs: int | None = None

    @property
    def features(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class View:
    """An ONNX value: an activation, written with the axes of `layout`."""

    activation: Activation
    layout: Layout = Layout.CHW

    @property
    def flat(self) -> bool:
        return self.layout.is_flat

    @property
    def shape(self) -> tuple[int, ...]:
        """The ONNX shape after N."""
        return self.layout.of(self.activation.shape)


def nhwc(picture: Picture) -> Shape:
    """[1, H, W, C] of (C, H, W)."""
    channels, height, width = picture
    return (1, height, width, channels)


def written(view: View) -> str:
    """The ONNX shape of a view, for an error: [N, 3, 8, 8]."""
    return f"[N, {', '.join(map(str, view.shape))}]"
