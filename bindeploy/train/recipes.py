"""Recipes: the options of a training in a TOML file, by name or by path.

A recipe says what it has of its own; the rest is in another one beside it, its `base`, and in that
one's base. A file whose name begins with an underscore is a base alone, and no recipe to train.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from bindeploy.errors import BindeployError, unknown
from bindeploy.files import resource
from bindeploy.train.settings import Settings

LARGEST = 2**16
"""Bytes of a recipe: a hundred times what one has."""

SUFFIX = ".toml"

BASE = "base"
"""The key of the name of another recipe, in the same folder, whose options count where a recipe
has none."""

NOTES = ("title", "source")
"""What a recipe says for people: what it trains, and which row of which paper it is."""


def names() -> list[str]:
    """The recipes that come with the project, in alphabetical order."""
    return [name for name in _beside(_folder()) if not name.startswith("_")]


def load(recipe: str) -> dict[str, Any]:
    """The options in a recipe and its bases, by the name of one of ours or the path of a TOML file.

    Anything else, a base that is not there or leads back, and what is no table of options, raise
    BindeployError. The values are checked by `settings.settings`.
    """
    path = Path(recipe)
    if not recipe.endswith(SUFFIX):
        if recipe not in names():
            raise unknown("recipe", recipe, [f"a path that ends in {SUFFIX}", *_nearest(recipe)])
        path = _folder() / f"{recipe}{SUFFIX}"
    options: dict[str, Any] = {}
    chain: list[str] = []
    while True:
        found = _read(path)
        chain.append(path.stem)
        base = found.pop(BASE, None)
        options = found | options
        if base is None:
            return options
        if base in chain:
            raise BindeployError(
                f"`{path}` has the base `{base}`, which is built on it: take one base out of"
                f" {', '.join(chain)}"
            )
        if base not in _beside(path.parent):
            raise BindeployError(
                f"`{path}` has the base `{base}`: give the name of a recipe in the same folder,"
                f" without {SUFFIX}"
            )
        path = path.with_name(f"{base}{SUFFIX}")


def _read(path: Path) -> dict[str, Any]:
    """The options in one file, and its base, if any."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError("it is no file")
        if size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it is nested too deeply"
        raise BindeployError(f"`{path}` is no recipe ({reason}): give a TOML file") from None
    options = {name.replace("-", "_"): found[name] for name in found if name not in NOTES}
    known = [BASE, *(each.name for each in fields(Settings))]
    for name in options:
        if name not in known:
            raise unknown(f"option in `{path}`,", name, known)
    return options


def _nearest(name: str) -> list[str]:
    """The recipes that come with the project, the ones most like `name` first."""
    start = name[:100]  # a longer one is like none
    return sorted(names(), key=lambda each: -SequenceMatcher(None, start, each).ratio())


def _beside(folder: Path) -> list[str]:
    """The names of the recipes and bases in a folder."""
    return sorted(path.stem for path in folder.glob(f"*{SUFFIX}"))


def _folder() -> Path:
    return resource("examples") / "recipes"
