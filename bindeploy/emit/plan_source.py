"""A plan from whatever holds one: its own file, a bundle, or an ONNX model lowered in memory.

A plan's own bytes are taken as they are, without importing anything of ONNX.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bindeploy.emit.plan_format import HEADER, MAGIC
from bindeploy.errors import BindeployError

if TYPE_CHECKING:
    import onnx_ir


class PlanSource(NamedTuple):
    """A plan, what to call it in an error, and the ranks of its ends if it says so."""

    plan: bytes
    label: str
    input_rank: int | None = None
    output_rank: int | None = None


def read(model: str | os.PathLike[str] | bytes | onnx_ir.Model) -> PlanSource:
    """The plan in a `.bd` file, a bundle's folder or bytes, or of an ONNX file or model."""
    if isinstance(model, bytes | bytearray | memoryview):
        return _from_bytes(bytes(model))
    if not isinstance(model, str | os.PathLike):
        return _from_model(model, "the model")
    path = Path(model)
    if path.is_dir():
        path = path / "model.bd"
    if not path.is_file():
        raise BindeployError(
            f"`{path}` is no file: give a .bd or .onnx file, or a bundle that holds model.bd"
        )
    label = f"`{path}`"
    if path.suffix == ".onnx":
        from bindeploy.convert.load import load

        return _from_model(load(path), label)
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        content = start if start != MAGIC else start + file.read()
    return _from_plan(content, label)


def _from_plan(content: bytes, label: str) -> PlanSource:
    """A plan as it is; what is no whole header, the runtime refuses."""
    if len(content) < HEADER.itemsize:
        return PlanSource(content, label)
    header = np.frombuffer(content, HEADER, 1)[0]
    ranks = (int(header[name]) or None for name in ("input_rank", "output_rank"))
    return PlanSource(content, label, *ranks)


def _from_bytes(content: bytes) -> PlanSource:
    if content.startswith(MAGIC):
        return _from_plan(content, "the plan")
    return _from_model(_parsed(content, "the model"), "the model")


def _parsed(origin: bytes, label: str) -> onnx_ir.Model:
    """An ONNX model from the bytes of a file that may come from anywhere."""
    import onnx
    from google.protobuf.message import DecodeError

    from bindeploy.convert.load import checked

    try:
        proto = onnx.ModelProto.FromString(origin)
    except DecodeError as error:
        raise BindeployError(f"{label} is no ONNX model: give a .bd or .onnx file") from error
    return checked(proto, label)


def _from_model(model: Any, label: str) -> PlanSource:
    """The plan of an ONNX model, which is converted first if it holds latent weights."""
    import onnx_ir

    from bindeploy.convert.dialect import LATENT
    from bindeploy.emit.plan_lower import LOWERINGS, lower

    if not isinstance(model, onnx_ir.Model):
        raise BindeployError(
            f"`{type(model).__name__}` is no model: give a path, bytes or an onnx_ir.Model"
        )
    keys = {(node.domain, node.op_type) for node in model.graph}
    if any(domain == LATENT for domain, _ in keys - set(LOWERINGS)):
        from bindeploy.convert.pipeline import convert

        model = convert(model)
    return _from_plan(lower(model).to_bytes(), label)
