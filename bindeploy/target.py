"""What a bundle is built for: a `Target` is a small TOML file, checked; `targets/` holds ours."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bindeploy.errors import BindeployError, unknown
from bindeploy.files import resource

FAMILIES = ("linux", "baremetal", "gpu", "wasm")
TOOLCHAINS = ("installed", "zig", "cc")
EMULATOR = "qemu-"
"""How every `run` begins: a bundle from elsewhere names its emulator, not any command."""
TVM_KEYS = {
    "kind": str,
    "arch": str,
    "mtriple": str,
    "mcpu": str,
    "mattr": list,
    "mfloat-abi": str,
    "mabi": str,
    "lanes": int,
    "sums": int,
    "burst": bool,
}
"""Keys of the table `tvm`, and the type of each; a list is of texts."""
LARGEST_COUNT = 64
"""Of lanes and of sums: twice what any processor has."""


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
    tvm: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What TVM is told of the processor, with the keys `TVM_KEYS`; empty where TVM compiles nothing
    for it."""


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
    fields = {known.name: known for known in dataclasses.fields(Target)}
    for key in table:
        if key not in fields:
            raise BindeployError(f"`{where}`: unknown key `{key}`: choose from {', '.join(fields)}")
    values: dict[str, object] = {}
    for key, known in fields.items():
        if key in table:
            values[key] = _checked(key, table[key], where)
        elif known.default is known.default_factory is dataclasses.MISSING:
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
    """`value` if it has the type of its field: texts, but for `cflags` and `tvm`."""
    if key == "tvm":
        return _checked_tvm(value, where)
    if key == "cflags":
        return tuple(_texts(key, value, where))
    return _text(key, value, where)


def _checked_tvm(table: object, where: str) -> dict[str, object]:
    if not isinstance(table, Mapping):
        raise BindeployError(f"`{where}`: key `tvm` must be a table, not {table!r}")
    values: dict[str, object] = {}
    for key, value in table.items():
        if key not in TVM_KEYS:
            known = ", ".join(TVM_KEYS)
            raise BindeployError(f"`{where}`: unknown key `tvm.{key}`: choose from {known}")
        check = {str: _text, list: _texts, int: _count, bool: _yes_or_no}[TVM_KEYS[key]]
        values[key] = check(f"tvm.{key}", value, where)
    if values and "kind" not in values:
        raise BindeployError(f"`{where}`: key `tvm.kind` is missing: `llvm` is that of processors")
    return values


def _text(key: str, value: object, where: str) -> str:
    if isinstance(value, str) and (value.isprintable() or not value):
        return value
    raise BindeployError(f"`{where}`: key `{key}` must be a text, not {value!r}")


def _texts(key: str, value: object, where: str) -> list[str]:
    if isinstance(value, (list, tuple)) and all(
        isinstance(text, str) and text.isprintable() for text in value
    ):
        return list(value)
    raise BindeployError(f"`{where}`: key `{key}` must be a list of texts, not {value!r}")


def _count(key: str, value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_COUNT:
        return value
    raise BindeployError(
        f"`{where}`: key `{key}` must be a number from 1 to {LARGEST_COUNT}, not {value!r}"
    )


def _yes_or_no(key: str, value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise BindeployError(f"`{where}`: key `{key}` must be true or false, not {value!r}")


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
