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

LARGEST_FILE = 2**31
"""Bytes of an ONNX file, as protobuf limits them."""

LONGEST_NAME = 1000
"""Characters of a node's name."""

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
    model = checked(proto, f"`{path}`")
    model.meta[SOURCE] = path.name
    return model


def checked(proto: onnx.ModelProto, label: str) -> ir.Model:
    """The model of a message that may come from anywhere; `label` is what an error calls it.

    Raises BindeployError as `load` does.
    """
    messages = list(_messages(proto))
    if not all(isinstance(text, str) for message in messages for text in _texts(message)):
        raise BindeployError(f"{label} is no valid ONNX model (a name is no UTF-8): export it anew")
    for message in messages:
        if isinstance(message, onnx.TensorProto):
            _refuse_external_data(message, label)
        elif isinstance(message, onnx.NodeProto):
            _refuse_name_and_loop(message, label)
    _refuse_unknown_operators(proto)
    try:
        onnx.checker.check_model(proto)
        model = ir.from_proto(proto)
        _read_every_tensor(model)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise BindeployError(f"{label} is no valid ONNX model ({line}): export it anew") from None
    return model


def _messages(message: Message) -> Iterator[Message]:
    """A message and every one inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _messages(inner)


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every string of a message itself; protobuf gives bytes for broken UTF-8."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value


def _read_every_tensor(model: ir.Model) -> None:
    """Raise ValueError where a tensor has not the bytes its shape needs: they are read lazily."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value.numpy()


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise BindeployError(f"`{path}` is no file: give the path of an ONNX file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DecodeError
        return onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise BindeployError(
            f"`{path}` is no ONNX model, or only a part of one: export or copy it again"
        ) from None


def _refuse_external_data(tensor: onnx.TensorProto, label: str) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise BindeployError(
            f"{label} keeps tensor `{tensor.name}` in another file: save it as one file, "
            "onnx.save(model, path, save_as_external_data=False)"
        )


def _refuse_name_and_loop(node: onnx.NodeProto, label: str) -> None:
    """Names go into files and tables; a loop may never end."""
    if len(node.name) > LONGEST_NAME or not node.name.isprintable():
        raise BindeployError(
            f"{label} has a node named `{node.name[:40]}`: give printable names of at most "
            f"{LONGEST_NAME} characters"
        )
    if node.op_type in ("Loop", "Scan") and node.domain in ("", "ai.onnx"):
        raise BindeployError(
            f"node `{node.name}` is a {node.op_type}, which no engine here runs: unroll it"
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
