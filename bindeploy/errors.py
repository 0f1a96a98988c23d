"""The one error a user meets: a single line that says what, which, and what would work."""

from __future__ import annotations

import re

EXTRAS = {
    "torch": "train",
    "lightning": "train",
    "safetensors": "train",
    "sklearn": "train",
    "PIL": "train",
    "matplotlib": "plot",
    "tvm": "tvm",
}
"""Which extra of this package brings an optional library."""

LONGEST = 1000
"""Characters of a message; a name out of a hostile file can be as long as the file."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class BindeployError(Exception):
    """Bad input, in one line: what is wrong, which thing (in backticks), and what would work.

    The command line prints it and exits with 2; nothing has been written when it is raised.
    Whatever a message quotes, it is one line that a terminal prints as it is.
    """

    def __init__(self, message: str) -> None:
        line = _CONTROL.sub(" ", message)
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST]}...")


def unknown(what: str, name: str, known: object) -> BindeployError:
    """Error for a name that is in no table: ``unknown target `x`: choose from a, b``."""
    choices = ", ".join(str(choice) for choice in known)  # type: ignore[attr-defined]
    return BindeployError(f"unknown {what} `{name}`: choose from {choices}")


def not_installed(error: ModuleNotFoundError) -> BindeployError | None:
    """Error for an optional library that is absent; None if it is none of ours."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        return None
    return BindeployError(
        f"`{library}` is not installed: pip install 'bindeploy[{EXTRAS[library]}]'"
    )
