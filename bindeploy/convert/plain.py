"""The same network in standard operators alone, for engines that know no model-local functions.

The dialect's function bodies are inlined and what depends on constants is computed, so every packed
weight becomes a float tensor of +-1: 32 times the bytes, the same integers.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants

from bindeploy.convert.fold_constants import NO_LIMIT


def plain(model: ir.Model) -> ir.Model:
    """A copy of `model` without functions, and without any node that constants alone decide."""
    copy = model.clone()
    common.InlinePass()(copy)
    fold_constants(
        copy, onnx_shape_inference=False, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT
    )
    for step in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(copy)
    return copy
