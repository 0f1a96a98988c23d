"""What is fuzzed: a file through every door from loading to the plan."""

from __future__ import annotations

from pathlib import Path

from bindeploy.convert import pipeline
from bindeploy.convert.load import load
from bindeploy.emit import onnx as portable
from bindeploy.emit.plan import lower
from bindeploy.errors import BindeployError


def through(content: bytes, folder: Path) -> str | None:
    """Load, convert, explain, save, load again, lower; the line that refused it, if one did.

    Any exception but BindeployError is a fault, and so is a converted file that does not load.
    """
    given, converted = folder / "given.onnx", folder / "converted.onnx"
    given.write_bytes(content)
    try:
        conversion = pipeline.run(load(given))
        portable.save(conversion.model, converted)
    except BindeployError as error:
        return _one_line(error)
    model = load(converted)
    try:
        lower(model).to_bytes()
    except BindeployError as error:
        return _one_line(error)
    return None


def _one_line(error: BindeployError) -> str:
    line = str(error)
    assert line and "\n" not in line
    return line
