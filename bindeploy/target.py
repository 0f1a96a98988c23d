"""What a bundle is built for: a `Target` is a small TOML file, checked; `targets/` holds ours."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bindeploy.errors import BindeployError, unknown
from bindeploy.files import resource

FAMILIES = ("linux", "baremetal", "gpu", "wasm")
TOOLCHAINS = ("installed", "zig", "cc")
EMULATOR = "qemu-"
"""How every `run` begins: a bundle from elsewhere names its emulator, not any command."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of machine, and how to compile and emulate for it.

    The fields are the keys of its TOML file, except `name`, which is the file's own. A key with a
    default may be left out.
    """

    name: str
    title: str
    """What a person would call it: `64-bit ARM Linux`."""
    family: str
    """One of `FAMILIES`."""
    isa: str
    """The fastest kernels it runs (a word of `kernels.inc`), or `native`: whatever the CPU has."""
    toolchain: str
    """`zig`: the pip-installed cross compiler, else `cc`. `cc`: the compiler named there.
    `installed`: this machine, whose runtime came with the package."""
    triple: str = ""
    """What zig compiles for: `aarch64-linux-musl`."""
    cpu: str = ""
    """The processor zig may assume; without it, the oldest of the architecture."""
    cc: str = ""
    """A compiler that makes programs for it, by the name found on PATH."""
    cflags: tuple[str, ...] = ()
    """Flags for either compiler, after ours."""
    run: str = ""
    """A command that runs its programs here: an emulator, with arguments."""


def targets() -> tuple[Target, ...]:
    """Every target that comes with the package, in the order of their names: a file each."""
    return tuple(_read(path) for path in sorted(resource("targets").glob("*.toml")))


def load(name: str) -> Target:
    """The target called `name`, or the one a TOML file of yours describes, where `name` ends so.

    >>> load("arm").run
    'qemu-aarch64'

    Raises `BindeployError` for a name that is in no table and for a file that does not check.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    known = {target.name: target for target in targets()}
    if name not in known:
        raise unknown("target", name, [*known, "a path to a .toml file of yours"])
    return known[name]


def parse(table: Mapping[str, object], where: str) -> Target:
    """The `Target` of a table with the fields as keys; `where` is what an error calls the table."""
    fields = {field.name: field for field in dataclasses.fields(Target)}
    for key in table:
        if key not in fields:
            raise BindeployError(f"`{where}`: unknown key `{key}`: choose from {', '.join(fields)}")
    values: dict[str, object] = {}
    for key, field in fields.items():
        if key in table:
            values[key] = _checked(key, table[key], where)
        elif field.default is dataclasses.MISSING:
            raise BindeployError(f"`{where}`: key `{key}` is missing: every target needs it")
    target = Target(**values)  # type: ignore[arg-type]
    _check_words(target, where)
    return target


def _read(path: Path) -> Target:
    try:
        if path.exists() and not path.is_file():
            raise BindeployError(f"`{path}` is no file: give a TOML file")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise BindeployError(f"cannot read target `{path}`: {reason}") from error
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, a name that no file can have
        raise BindeployError(f"`{path}` is not TOML: {error}") from error
    if "name" in table:
        raise BindeployError(f"`{path}`: unknown key `name`: a target is named by its file")
    return parse({"name": path.stem, **table}, str(path))


def _checked(key: str, value: object, where: str) -> object:
    """`value` if it has the type of its field: a list of texts for `cflags`, else a text."""
    if key != "cflags":
        if isinstance(value, str) and (value.isprintable() or not value):
            return value
        raise BindeployError(f"`{where}`: key `{key}` must be a text, not {value!r}")
    if isinstance(value, (list, tuple)) and all(
        isinstance(flag, str) and flag.isprintable() for flag in value
    ):
        return tuple(value)
    raise BindeployError(f"`{where}`: key `{key}` must be a list of texts, not {value!r}")


def _is_emulator(command: str) -> bool:
    """Whether a command starts an emulator found on PATH, in words that a shell could read."""
    try:
        name = shlex.split(command)[0]
    except ValueError:
        return False
    return name.startswith(EMULATOR) and "/" not in name


def _check_words(target: Target, where: str) -> None:
    """Refuse words outside their tables, and a toolchain without the key it compiles by."""
    for key, choices in (("family", FAMILIES), ("toolchain", TOOLCHAINS)):
        value = getattr(target, key)
        if value not in choices:
            known = ", ".join(choices)
            raise BindeployError(f"`{where}`: unknown {key} `{value}`: choose from {known}")
    needed = {"zig": "triple", "cc": "cc"}.get(target.toolchain)
    if needed and not getattr(target, needed):
        raise BindeployError(
            f"`{where}`: key `{needed}` is missing: toolchain `{target.toolchain}` compiles by it"
        )
    if target.run and not _is_emulator(target.run):
        raise BindeployError(
            f"`{where}`: `run` is `{target.run}`: it names an emulator, as in qemu-aarch64"
        )
