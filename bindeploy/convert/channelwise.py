"""Functions of one channel: y[c] = f(x[c]), with constant parameters.

A function is evaluated as engines evaluate it: in float32, one rounding an operation. Batch
normalization is the exception: engines do not agree on how they round it, so float64 takes no side.
Nor do they agree on tanh and its like: of those only the sign is known, and `exact` is False.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy import bits
from bindeploy.convert import constants


@dataclass(frozen=True)
class Layout:
    """Where the channels of a value lie: along `axis`, counted back from the last (-1).

    `rank` is None where it is unknown, `axis` where the channels have none of their own. Along the
    axis lie `size` channels; filter f of the layer we come from is number `channel[f]` of them.
    `shared` says whether a channel may hold values of other filters too, or of other layers.
    """

    rank: int | None
    axis: int | None
    size: int
    channel: NDArray[np.intp]
    shared: bool = False

    @classmethod
    def fresh(cls, rank: int | None, axis: int, size: int) -> Layout:
        """The layout of a layer's own output: filter f is channel f."""
        return cls(rank, axis, size, np.arange(size))

    def parameter(self, value: ir.Value | None) -> NDArray[np.float32] | None:
        """[F, 1] or [1, 1] of a finite constant, one number or one a channel, that broadcasts
        against a value of this layout and leaves its shape as it is; None for any other.
        """
        array = constants.read(value)
        if array is None or array.dtype.kind != "f" or not np.isfinite(array).all():
            return None
        if array.ndim > (1 if self.rank is None else self.rank):
            return None
        if array.size == 1:
            return array.astype(np.float32).reshape(1, 1)
        axis = -1 if self.axis is None else array.ndim + self.axis
        if axis < 0 or not array.shape[axis] == array.size == self.size:
            return None
        return array.astype(np.float32).reshape(-1)[self.channel, None]


@dataclass(frozen=True)
class Function:
    """What `node` does to `x`: formula(x, *parameters), parameters [F, 1] or [1, 1].

    `slope` (float64, of a parameter's shape) is that of an affine function, else None.
    `keeps_sign`: f(x) >= 0 iff x >= 0, but for a product that underflows to -0. `never_negative`:
    f(x) >= 0 for all x. `monotone`: in each channel rising or falling over all floats. `exact`:
    every engine gives these floats, not their signs alone.
    """

    node: ir.Node
    x: ir.Value
    formula: Callable[..., NDArray]
    parameters: tuple[NDArray, ...] = ()
    slope: NDArray[np.float64] | None = None
    keeps_sign: bool = False
    never_negative: bool = False
    monotone: bool = True
    exact: bool = True

    def __call__(self, x: NDArray, filters: slice = slice(None)) -> NDArray:
        """f of x [F, n] in the precision of the parameters; x may be the rows `filters` alone."""
        given = [array if len(array) == 1 else array[filters] for array in self.parameters]
        return self.formula(x.astype(np.result_type(np.float32, *given), copy=False), *given)

    def in_double(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """f of x [F, n] in float64, whatever engines do: for constants, which are rounded later."""
        return self.formula(x, *self.parameters)

    @property
    def changes_nothing(self) -> bool:
        return self.exact and self.formula is same

    @property
    def binarizes(self) -> bool:
        return self.formula is bits.sign


def same(x: NDArray) -> NDArray:
    """x itself: what Identity computes, and what stands for tanh, whose sign is x's."""
    return x


def bypass(function: Function) -> None:
    """Take the node away: who read its output reads `x`, which takes the name of an output.

    Of the functions of a chain the last one goes first, as each names the `x` it was read with.
    """
    node, x, output = function.node, function.x, function.node.outputs[0]
    assert node.graph is not None, "a pass bypasses nodes of a graph"
    given_out = output.is_graph_output()
    ir.convenience.replace_all_uses_with(output, x, replace_graph_outputs=True)
    if given_out:
        name, output.name = output.name, None
        x.name, x.type, x.shape = name, output.type, output.shape
    node.graph.remove(node, safe=True)
