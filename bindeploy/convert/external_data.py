"""Tensors that an ONNX file keeps in other files of its folder.

A file that may come from anywhere names them, so a name may only lead to a file inside that folder:
no absolute path, no `..`, no link that leads out of it, no device; and it may only claim bytes that
the file has and the tensor's shape needs.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

import onnx_ir as ir
from onnx import TensorProto

from bindeploy.errors import BindeployError


def bring_in(tensor: TensorProto, folder: Path, label: str) -> int:
    """Read the tensor's bytes from its file in `folder` into the tensor; how many they are.

    Raises BindeployError, naming tensor and file, for a place outside `folder`, and where there are
    not exactly the bytes that type and shape need.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")

    def refuse(why: str) -> NoReturn:
        raise BindeployError(
            f"{label} keeps tensor `{tensor.name}` in another file, `{location}`, {why}: "
            "save it as one file, onnx.save(model, path, save_as_external_data=False)"
        )

    path = _inside(folder, location)
    if path is None:
        refuse("which leads out of its folder")
    if not path.is_file():
        refuse("which is no file of its folder")
    needed = _bytes_needed(tensor)
    size = path.stat().st_size
    offset = _count(entries.get("offset", "0"))
    length = _count(entries["length"]) if "length" in entries else size - (offset or 0)
    if offset is None or length is None or offset + length > size:
        refuse(f"beyond its {size} bytes")
    if needed != length:
        refuse(f"where {length} bytes are, and its shape {list(tensor.dims)} needs {needed}")
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    return length


def _inside(folder: Path, location: str) -> Path | None:
    """The file of that name in `folder`, links followed; None where it leads out of it."""
    parts = PurePosixPath(location).parts
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive != ""
    if not parts or absolute or ".." in parts or not location.isprintable():
        return None
    try:
        path = (folder / location).resolve()
        return path if path.is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError):  # a circle of links
        return None


def _bytes_needed(tensor: TensorProto) -> int | None:
    """None for a type whose numbers have no fixed size, or that there is not."""
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        return None
    return -(-math.prod(tensor.dims) * bits // 8)


def _count(written: str) -> int | None:
    return int(written) if written.isascii() and written.isdecimal() and len(written) < 20 else None
