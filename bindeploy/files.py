"""Whole or nothing: files and folders appear under their name only when they are complete.

And JSON, read from files that may come from anywhere and written so that any reader takes it.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from bindeploy.errors import BindeployError

PACKAGE = Path(__file__).resolve().parent

LARGEST_JSON = 2**24
"""Bytes of a JSON file of ours: a thousand times what one has."""


def resource(name: str) -> Path:
    """Folder `runtime` or `targets`: beside the package in a checkout, inside it when installed."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").exists() else PACKAGE / name


def installed(name: str) -> Path | None:
    """What was compiled at installation, as `lib/libbindeploy.a`: None where there is none.

    It lies in the package, or where an editable installation put it.
    """
    try:
        files = importlib.metadata.files("bindeploy") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    elsewhere = [Path(str(file.locate())) for file in files if file.as_posix().endswith(name)]
    return next((path for path in (PACKAGE / name, *elsewhere) if path.is_file()), None)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block succeeds.

    A file there is replaced; anything else (a folder, a device) raises BindeployError, and so does
    a place that cannot be written.
    """
    path = Path(path)
    with failing_in_words(path):
        if path.exists() and not path.is_file():
            raise BindeployError(f"`{path}` exists and is no file: give another name to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder; move it to `path` when the block succeeds.

    A folder that already stands at `path` is replaced only if it holds the file `marker` (it is one
    of ours) or is empty; anything else is left alone with an error.
    """
    path = Path(path)
    with failing_in_words(path):
        if path.exists():
            ours = path.is_dir() and ((path / marker).exists() or not any(path.iterdir()))
            if not ours:
                raise BindeployError(
                    f"`{path}` exists and was not written by bindeploy: choose another --out"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                _swap(temporary, path)
            else:
                temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put folder `new` in the place of `path`; where that fails or is interrupted, `path` stays."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.old.", dir=path.parent))
    try:
        path.replace(old / "folder")
        new.replace(path)
    finally:
        if not path.exists():
            (old / "folder").replace(path)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def failing_in_words(path: Path) -> Iterator[None]:
    """A disk that is full, a folder that is read-only, a name that no file can have: one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BindeployError(
            f"cannot write `{path}` ({reason}): choose a place that has room and may be written"
        ) from error
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise BindeployError(f"cannot write `{path}` ({error}): choose another name") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file that may come from anywhere.

    Raises OSError where it cannot be read, and ValueError for anything but JSON of a sane size:
    text of another encoding, NaN and Infinity, nesting that Python cannot follow.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise ValueError(f"it is larger than {LARGEST_JSON} bytes")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as strict JSON: what is not finite is null, and what JSON does not know, a text."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
