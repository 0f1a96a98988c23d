"""Read an ONNX file that may come from anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from bindeploy.convert import message_checks, sparse_tensors
from bindeploy.errors import BindeployError

LARGEST_FILE = 2**31
"""Bytes of an ONNX file, as protobuf limits them."""

SMALL_TENSOR = 1000
"""Bytes of a tensor that is copied without a thought."""

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
logging.getLogger("onnxscript").addHandler(logging.NullHandler())  # to whoever asks, not to stderr

SOURCE = "bindeploy.source"
"""Key of `model.meta` (never written to a file) under which the file's name travels along."""


def source(model: ir.Model) -> str:
    """The name of the file the model was loaded from, else of its graph."""
    return str(model.meta.get(SOURCE, model.graph.name or "model"))


def load(path: Path | str) -> ir.Model:
    """Read the ONNX file at `path`, with the tensors it keeps in other files of its folder.

    Raises BindeployError for a file that is missing, truncated or no ONNX, keeps tensors elsewhere,
    breaks the ONNX rules, or uses a standard operator that there is not.
    """
    path = Path(path)
    proto = _parse(path)
    if not proto.ir_version or not (proto.graph.node or proto.graph.output):
        raise BindeployError(f"`{path}` is no ONNX model: give a file written by an ONNX exporter")
    model = checked(proto, f"`{path}`", path.parent)
    model.meta[SOURCE] = path.name
    return model


def checked(proto: onnx.ModelProto, label: str, folder: Path | None = None) -> ir.Model:
    """The model of a message that may come from anywhere; `label` is what an error calls it.

    `folder` is where its file lies. Raises BindeployError as `load` does.
    """
    messages = list(_messages(proto))
    if not all(isinstance(text, str) for message in messages for text in _texts(message)):
        raise BindeployError(f"{label} is no valid ONNX model (a name is no UTF-8): export it anew")
    message_checks.domains(messages, label)
    functions = {(function.domain, function.name) for function in proto.functions}
    outside = 0
    for message in messages:
        if isinstance(message, onnx.TensorProto):
            outside += message_checks.tensor(message, label, folder)
            if outside > LARGEST_FILE:
                raise BindeployError(
                    f"{label} keeps more than {LARGEST_FILE} bytes in other files, at tensor "
                    f"`{message.name}`: at most as many are taken"
                )
        elif isinstance(message, onnx.NodeProto):
            message_checks.node(message, label, functions)
    for part in (proto.graph, *proto.functions):
        function = (part.domain, part.name) if isinstance(part, onnx.FunctionProto) else None
        for message in _messages(part):
            if isinstance(message, onnx.NodeProto):
                message_checks.loop(message, function)
    sparse_tensors.make_dense(messages, label)
    try:
        onnx.checker.check_model(_without_weights(proto))
        return ir.from_proto(proto)
    except Exception as error:
        while isinstance(error.__cause__, Exception):
            error = error.__cause__
        line = " ".join(str(error).split())[:200]
        raise BindeployError(f"{label} is no valid ONNX model ({line}): export it anew") from None


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


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large initializers left empty: the checker would copy every byte twice."""
    light = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _hand_over(light, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _hand_over(light.graph, field.name, value)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > SMALL_TENSOR:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=[0])
        else:
            light.graph.initializer.append(tensor)
    return light


def _hand_over(message: Message, name: str, value: Any) -> None:
    if isinstance(value, str | bytes | int):
        setattr(message, name, value)
    elif isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)
