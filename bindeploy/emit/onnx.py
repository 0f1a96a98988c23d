"""The portable ONNX file: one that the oldest supported onnxruntime accepts."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from bindeploy.errors import BindeployError
from bindeploy.files import whole_file

IR_VERSION = 10
OPSET = 20


def save(model: ir.Model, path: Path) -> None:
    """Write a model of opset 20 to `path` with IR version 10, whole or not at all.

    Raises BindeployError if the model has another opset or the ONNX checker finds a fault.
    """
    opset = model.opset_imports.get("")
    if opset != OPSET:
        raise BindeployError(
            f"the model has ONNX opset {opset}; bindeploy writes opset {OPSET}: convert it first"
        )
    proto = ir.to_proto(model)
    proto.ir_version = IR_VERSION
    content = proto.SerializeToString(deterministic=True)
    del proto  # a large model is in memory often enough: here as bytes, and once in the checker
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError as fault:
        first_line = str(fault).strip().splitlines()[0]
        raise BindeployError(f"`{path}` would be no valid ONNX file: {first_line}") from fault
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
