"""The one error a user meets: a single line that says what, which, and what would work."""

from __future__ import annotations


class BindeployError(Exception):
    """Bad input, in one line: what is wrong, which thing (in backticks), and what would work.

    The command line prints it and exits with 2; nothing has been written when it is raised.
    """


def unknown(what: str, name: str, known: object) -> BindeployError:
    """Error for a name that is in no table: ``unknown target `x`: choose from a, b``."""
    choices = ", ".join(str(choice) for choice in known)  # type: ignore[attr-defined]
    return BindeployError(f"unknown {what} `{name}`: choose from {choices}")
