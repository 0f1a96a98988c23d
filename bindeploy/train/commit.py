"""Which code a training ran from: the commit of the checkout it was started in."""

from __future__ import annotations

import subprocess

DIRTY = "+changes"
"""Follows the commit where tracked files differ from it."""


def commit() -> str | None:
    """The commit checked out in the current folder; None outside a checkout, or without git."""
    found = _git("rev-parse", "HEAD")
    if found is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return found + DIRTY if changed else found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
