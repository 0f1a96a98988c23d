"""A converted model as a plan, and the plan as a file: `model.bd`."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from bindeploy.emit.plan_format import Plan
from bindeploy.emit.plan_lower import lower
from bindeploy.files import whole_file

__all__ = ["Plan", "lower", "write_plan"]


def write_plan(model: ir.Model, path: Path) -> None:
    """Lower a converted model and write its plan to `path`, whole or not at all.

    Raises BindeployError for a model that the runtime cannot run.
    """
    plan = lower(model).to_bytes()
    with whole_file(path) as temporary:
        temporary.write_bytes(plan)
