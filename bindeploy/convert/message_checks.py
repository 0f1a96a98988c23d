"""What the parts of an ONNX message that may come from anywhere must keep, before all else.

Each check raises BindeployError, naming the part; `label` is what an error calls the model.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import Message
from onnx import FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto

from bindeploy.convert import dialect, external_data
from bindeploy.errors import BindeployError

LONGEST_NAME = 1000
"""Characters of a node's name."""

LARGEST_TENSOR = 2**28
"""Numbers of one tensor of one image, or of one constant."""


def domains(messages: Collection[Message], label: str) -> None:
    """The standard domain goes by one name, and a domain is imported in one version."""
    for message in messages:
        if isinstance(message, NodeProto | OperatorSetIdProto | FunctionProto):
            message.domain = "" if message.domain == "ai.onnx" else message.domain
    for message in messages:
        versions: dict[str, int] = {}
        for entry in (
            message.opset_import if isinstance(message, ModelProto | FunctionProto) else []
        ):
            if versions.setdefault(entry.domain, entry.version) != entry.version:
                raise BindeployError(
                    f"{label} imports versions {versions[entry.domain]} and {entry.version} of "
                    f"domain `{entry.domain or 'ai.onnx'}`: export it with one of them"
                )


def tensor(proto: TensorProto, label: str, folder: Path | None) -> int:
    """Every number is there, in memory; how many bytes of them came from another file."""
    if math.prod(max(size, 1) for size in proto.dims) > LARGEST_TENSOR or any(
        size < 0 for size in proto.dims
    ):
        raise BindeployError(
            f"{label} has a tensor `{proto.name}` of {list(proto.dims)[:8]}: at most "
            f"{LARGEST_TENSOR} numbers (1 GiB) are taken"
        )
    outside = 0
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        if folder is None:
            raise BindeployError(
                f"{label} keeps tensor `{proto.name}` in another file: save it as one file, "
                "onnx.save(model, path, save_as_external_data=False)"
            )
        outside = external_data.bring_in(proto, folder, label)
    try:
        ir.serde.deserialize_tensor(proto).numpy()
    except Exception as error:
        line = " ".join(str(error.__cause__ or error).split())[:200]
        raise BindeployError(
            f"{label} is no valid ONNX model (tensor `{proto.name}`: {line}): export it anew"
        ) from None
    return outside


def loop(proto: NodeProto, function: tuple[str, str] | None) -> None:
    """A loop may never end. Scan ends: it stands in the bodies of our own operators, `function`
    being the one whose body the node is of, and nowhere else.
    """
    refused = ("Loop",) if function in dialect.OPS else ("Loop", "Scan")
    if proto.op_type in refused and proto.domain == "":
        name = proto.name or ", ".join(proto.output)
        raise BindeployError(
            f"node `{name}` is a {proto.op_type}, which no engine here runs: unroll it"
        )


def node(proto: NodeProto, label: str, functions: AbstractSet[tuple[str, str]]) -> None:
    """Names go into files and tables; of our domains we know every operator.

    An operator of another domain may mean anything, and its node stays as it is.
    """
    if len(proto.name) > LONGEST_NAME or not proto.name.isprintable():
        raise BindeployError(
            f"{label} has a node named `{proto.name[:40]}`: give printable names of at most "
            f"{LONGEST_NAME} characters"
        )
    name = proto.name or ", ".join(proto.output)
    if not any(proto.output):
        raise BindeployError(
            f"node `{name}` ({proto.op_type}) has no output: export the model anew"
        )
    if proto.op_type == "Constant" and proto.domain == "" and len(proto.attribute) != 1:
        raise BindeployError(
            f"node `{name}` is a Constant of {len(proto.attribute)} values: give it one"
        )
    parts = [given.i for given in proto.attribute if given.name == "num_outputs"]
    if proto.op_type == "Split" and proto.domain == "" and parts and parts[0] != len(proto.output):
        raise BindeployError(
            f"node `{name}` splits into {parts[0]} parts and names {len(proto.output)}: export the "
            "model anew"
        )
    ours = proto.domain in ("", dialect.DOMAIN, dialect.LATENT)
    if ours and not (
        (proto.domain, proto.op_type) in functions
        or onnx.defs.has(proto.op_type, domain=proto.domain)
    ):
        raise BindeployError(
            f"node `{name}` uses operator `{proto.domain or 'ai.onnx'}::{proto.op_type}`, which no "
            f"engine here knows: use standard ONNX operators and those of `{dialect.LATENT}`"
        )
