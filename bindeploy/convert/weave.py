"""The phases of a transposed convolution, put together again.

Phase r of an axis with stride s holds outputs r, s + r, 2 * s + r, ...: with the phases side by
side along the channels, [N, phases * F, Q, ...], this is DepthToSpace, depth first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants
from bindeploy.convert.transposed_axes import Axis

END = np.iinfo(np.int64).max
"""The end of an axis, however long it is."""


def weave(
    graph: ir.Graph, name: str, axes: Sequence[Axis], phases: Sequence[ir.Value], filters: int
) -> list[ir.Node]:
    """[N, F, ...] from a value [N, F, ...] for each phase, that of the last axis changing first.

    Its nodes are named `<name>/concat` and so on; there are none for a single phase.
    """
    if len(phases) == 1:
        return []
    concat = ir.node("Concat", phases, attributes={"axis": 1}, name=f"{name}/concat")
    (joined,) = concat.outputs
    strides = [axis.stride for axis in axes]
    if len(strides) == 2 and strides[0] == strides[1]:
        block: dict[str, int | str] = {"blocksize": strides[0], "mode": "DCR"}
        return [
            concat,
            ir.node("DepthToSpace", [joined], attributes=block, name=f"{name}/depth_to_space"),
        ]
    count = len(axes)
    sizes = [-1 if axis.outputs is None else axis.outputs for axis in axes]
    split = _constant(graph, f"{name}.phases", [0, *strides, filters, *sizes])
    apart = ir.node("Reshape", [joined, split], name=f"{name}/apart")
    order = [0, count + 1]
    for number in range(count):
        order += [count + 2 + number, 1 + number]
    turned = ir.node(
        "Transpose", apart.outputs, attributes={"perm": order}, name=f"{name}/transpose"
    )
    woven = [max(-1, size * stride) for size, stride in zip(sizes, strides, strict=True)]
    shape = _constant(graph, f"{name}.woven", [0, filters, *woven])
    return [
        concat,
        apart,
        turned,
        ir.node("Reshape", [*turned.outputs, shape], name=f"{name}/woven"),
    ]


def cut(graph: ir.Graph, name: str, axes: Sequence[Axis], woven: ir.Value) -> list[ir.Node]:
    """The Slice `<name>/slice` to the size of the output; none where nothing is to be cut off."""
    surplus = [axis.surplus for axis in axes]
    if not any(map(any, surplus)):
        return []
    starts = _constant(graph, f"{name}.starts", [start for start, _ in surplus])
    ends = _constant(graph, f"{name}.ends", [-end if end else END for _, end in surplus])
    along = _constant(graph, f"{name}.axes", list(range(2, 2 + len(axes))))
    return [ir.node("Slice", [woven, starts, ends, along], name=f"{name}/slice")]


def _constant(graph: ir.Graph, name: str, numbers: Sequence[int]) -> ir.Value:
    array: NDArray[np.int64] = np.array(numbers, np.int64)
    return constants.initializer(graph, name, array)
