"""Whole or nothing: files and folders appear under their name only when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bindeploy.errors import BindeployError

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """Folder `runtime` or `targets`: beside the package in a checkout, inside it when installed."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").exists() else PACKAGE / name


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
    if path.exists():
        ours = path.is_dir() and ((path / marker).exists() or not any(path.iterdir()))
        if not ours:
            raise BindeployError(
                f"`{path}` exists and was not written by bindeploy: choose another --out"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
