"""How an ONNX value writes down a picture: which axes it has, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from numpy.typing import NDArray

Picture = tuple[int, int, int]
"""(C, H, W)"""


class Layout(Enum):
    """The axes after N; in brackets those that are one.

    A value without H is a line: a picture of height 1.
    """

    CHW = "CHW"
    HWC = "HWC"
    CW = "CW"
    WC = "WC"
    FLAT = "(CHW)"
    FLAT_LAST = "(HWC)"

    @property
    def is_flat(self) -> bool:
        return self.value.startswith("(")

    @property
    def axes(self) -> str:
        """Its axes, and those within brackets, in order."""
        return self.value.strip("()")

    def of(self, picture: Picture) -> tuple[int, ...]:
        """The ONNX shape after N.

        >>> Layout.WC.of((3, 1, 7)), Layout.FLAT.of((3, 2, 7))
        ((7, 3), (42,))
        """
        sizes = dict(zip("CHW", picture, strict=True))
        if self.is_flat:
            return (picture[0] * picture[1] * picture[2],)
        return tuple(sizes[axis] for axis in self.axes)

    def fits(self, picture: Picture) -> bool:
        """Whether a picture can be written so: a line has height 1."""
        return "H" in self.axes or picture[1] == 1

    def flattened(self, picture: Picture) -> Layout:
        """The same order as one axis. That of one pixel, or of one channel, is that of (CHW)."""
        channels, height, width = picture
        same = self.axes.startswith("C") or channels == 1 or height * width == 1
        return Layout.FLAT if same else Layout.FLAT_LAST

    def permuted(self, axes: Sequence[int]) -> Layout | None:
        """The layout after a Transpose by `axes`, N included; None for one that has no name.

        >>> Layout.HWC.permuted([0, 3, 1, 2]), Layout.CHW.permuted([0, 1, 3, 2])
        (<Layout.CHW: 'CHW'>, None)
        """
        order = [*map(int, axes)]
        if self.is_flat or sorted(order) != [*range(len(self.axes) + 1)] or order[0] != 0:
            return None
        wanted = "".join(self.axes[axis - 1] for axis in order[1:])
        return next((layout for layout in Layout if layout.value == wanted), None)

    def channels_last(self, array: NDArray, picture: Picture) -> NDArray:
        """[H, W, C] of an array of the shape `of(picture)`; leading axes stay as they are."""
        channels, height, width = picture
        lead = array.shape[: array.ndim - len(self.of(picture))]
        if self.axes.endswith("C"):
            return array.reshape(*lead, height, width, channels)
        split = array.reshape(*lead, channels, height * width).swapaxes(-1, -2)
        return split.reshape(*lead, height, width, channels)
