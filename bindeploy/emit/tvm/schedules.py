"""TVM's own operators made fit for a CPU: their loops run over vectors, and without detours.

TVM writes an operator as blocks in plain loops, and fused operators as one block after the other
with a whole tensor between them. A block that is read once, number by number, moves into its
reader; then the innermost loop becomes vectors. What has no such form stays as it is.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import ScheduleError

PARALLEL = 200_000
"""Numbers from which a block is divided among threads."""


def over_vectors(lanes: int) -> Any:
    """The pass over every function of blocks; kernels of ours have none."""

    def transform(module: tvm.IRModule, context: Any) -> tvm.IRModule:
        for variable, function in list(module.functions.items()):
            if isinstance(function, tirx.PrimFunc):
                module.update_func(variable, _fit(function, lanes))
        return module

    return tvm.transform.module_pass(transform, opt_level=0, name="over_vectors")


def _fit(function: Any, lanes: int) -> Any:
    plan = s_tir.Schedule(tvm.IRModule({"main": function}))
    for block in plan.get_child_blocks(plan.get_sblock("root")):
        if _inlines(plan, block):
            _tried(lambda: plan.compute_inline(block))  # noqa: B023
    for block in plan.get_child_blocks(plan.get_sblock("root")):
        _tried(lambda: _vectorize(plan, block, lanes))  # noqa: B023
    return plan.mod["main"]


def _tried(step: Any) -> None:
    with contextlib.suppress(ScheduleError):
        step()


def _sizes(plan: Any, block: Any) -> list[int]:
    return [int(plan.get(loop).extent) for loop in plan.get_loops(block)]


def _pointwise(plan: Any, block: Any) -> bool:
    """Whether a block computes each number by itself."""
    return all(variable.iter_type == tirx.IterVar.DataPar for variable in plan.get(block).iter_vars)


def _inlines(plan: Any, block: Any) -> bool:
    """Whether a block is read by one other, as often as it computes numbers."""
    readers = plan.get_consumers(block)
    if len(readers) != 1 or not _pointwise(plan, block) or not _pointwise(plan, readers[0]):
        return False
    return math.prod(_sizes(plan, block)) == math.prod(_sizes(plan, readers[0]))


def _vectorize(plan: Any, block: Any, lanes: int) -> None:
    if lanes == 1 or not _pointwise(plan, block):
        return
    size = math.prod(_sizes(plan, block))
    loops = plan.get_loops(block)
    if _same_places(plan, block):
        loops = [plan.fuse(*loops)]
    inner = loops[-1]
    if plan.get(inner).extent % lanes == 0:
        _, vector = plan.split(inner, [None, lanes])
        plan.vectorize(vector)
    if size >= PARALLEL:
        plan.parallel(plan.get_loops(block)[0])


def _same_places(plan: Any, block: Any) -> bool:
    """Whether a block reads and writes tensors of one shape, or single numbers."""
    statement = plan.get(block)
    shapes = [
        tuple(map(int, region.source.ty.shape)) for region in (*statement.reads, *statement.writes)
    ]
    return len({shape for shape in shapes if math.prod(shape) > 1}) <= 1
