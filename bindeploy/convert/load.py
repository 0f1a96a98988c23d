"""Read an ONNX file that may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from bindeploy.convert import dialect
from bindeploy.errors import BindeployError

SOURCE = "bindeploy.source"
"""Key of `model.meta` (never written to a file) under which the file's name travels along."""


def source(model: ir.Model) -> str:
    """The name of the file the model was loaded from, else of its graph."""
    return str(model.meta.get(SOURCE, model.graph.name or "model"))


def load(path: Path | str) -> ir.Model:
    """Read the ONNX file at `path`.

    Raises BindeployError for a file that is missing, truncated or no ONNX, keeps tensors in other
    files, breaks the ONNX rules, or uses an operator that no engine here knows.
    """
    path = Path(path)
    proto = _parse(path)
    if not proto.ir_version or not proto.graph.node:
        raise BindeployError(f"`{path}` is no ONNX model: give a file written by an ONNX exporter")
    if not all(isinstance(text, str) for text in _texts(proto)):
        raise BindeployError(
            f"`{path}` is no valid ONNX model (a name is no UTF-8): export it anew"
        )
    _refuse_external_data(proto, path)
    _refuse_unknown_operators(proto)
    try:
        onnx.checker.check_model(proto)
        model = ir.from_proto(proto)
        _read_every_tensor(model)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise BindeployError(f"`{path}` is no valid ONNX model ({line}): export it anew") from None
    model.meta[SOURCE] = path.name
    return model


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every string of a message and of those inside it; protobuf gives bytes for broken UTF-8."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes | Message) else value
        if field.type == FieldDescriptor.TYPE_STRING:
            yield from values
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in values:
                yield from _texts(inner)


def _read_every_tensor(model: ir.Model) -> None:
    """Raise ValueError where a tensor has not the bytes its shape needs: they are read lazily."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value.numpy()


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise BindeployError(f"`{path}` is no file: give the path of an ONNX file")
    try:
        return onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise BindeployError(
            f"`{path}` is no ONNX model, or only a part of one: export or copy it again"
        ) from None


def _refuse_external_data(proto: onnx.ModelProto, path: Path) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BindeployError(
                f"`{path}` keeps tensor `{tensor.name}` in another file: save it as one file, "
                "onnx.save(model, path, save_as_external_data=False)"
            )


def _refuse_unknown_operators(proto: onnx.ModelProto) -> None:
    functions = {(function.domain, function.name) for function in proto.functions}
    for node in proto.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        known = (domain, node.op_type) in functions or (
            domain in ("", dialect.DOMAIN, dialect.LATENT)
            and onnx.defs.has(node.op_type, domain=domain)
        )
        if not known:
            raise BindeployError(
                f"node `{node.name or ', '.join(node.output)}` uses operator "
                f"`{domain or 'ai.onnx'}::{node.op_type}`, which no engine here knows: "
                f"use standard ONNX operators and those of `{dialect.LATENT}`"
            )
