"""A target is a checked TOML file; what is wrong with one is said in a line."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bindeploy.errors import BindeployError
from bindeploy.target import Target, load, parse, targets

MINE = """
title = "my board"
family = "linux"
isa = "neon"
toolchain = "cc"
cc = "my-gcc"
cflags = ["-mcpu=cortex-a53"]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "board.toml"
    path.write_text(text)
    return str(path)


def test_every_target_of_ours_checks_and_is_loaded_by_its_name():
    names = {"host", "arm", "armv7", "riscv64", "wasm", "x86-64-v3", "x86-64-v4"}
    assert names <= {target.name for target in targets()}
    assert all(load(target.name) == target for target in targets())


def test_a_file_of_the_user_is_a_target_named_by_the_file(tmp_path):
    target = load(written(tmp_path, MINE))
    assert target == Target(
        name="board",
        title="my board",
        family="linux",
        isa="neon",
        toolchain="cc",
        cc="my-gcc",
        cflags=("-mcpu=cortex-a53",),
    )


def test_what_tvm_is_told_is_a_table_of_the_file(tmp_path):
    table = '[tvm]\nkind = "llvm"\nmattr = ["+neon"]\nmfloat-abi = "hard"\nlanes = 4\n'
    target = load(written(tmp_path, f"{MINE}\n{table}"))
    assert target.tvm == {"kind": "llvm", "mattr": ["+neon"], "mfloat-abi": "hard", "lanes": 4}
    assert load(written(tmp_path, MINE)).tvm == {}


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(BindeployError, match=r"unknown target `toaster`: choose from arm, armv7, "):
        load("toaster")


WRONG = {
    "unknown key": ('speed = "fast"', "unknown key `speed`"),
    "a name of its own": ('name = "other"', "unknown key `name`"),
    "number for a text": ("run = 3", "`run` must be a text, not 3"),
    "text for a list": ('cflags = "-O2"', "`cflags` must be a list of texts"),
    "list of numbers": ("cflags = [3]", "`cflags` must be a list of texts"),
    "tvm that is no table": ('tvm = "llvm"', "`tvm` must be a table"),
    "unknown key of tvm": ('tvm = {kind = "llvm", speed = 3}', "unknown key `tvm.speed`"),
    "tvm without its kind": ("tvm = {lanes = 4}", "`tvm.kind` is missing"),
    "text for a list of tvm": ('tvm = {mattr = "+neon"}', "`tvm.mattr` must be a list of texts"),
    "text for a number of tvm": ('tvm = {lanes = "4"}', "`tvm.lanes` must be a number from 1"),
    "no lanes": ("tvm = {lanes = 0}", "`tvm.lanes` must be a number from 1"),
    "unknown family": ('family = "toaster"', "unknown family `toaster`: choose from linux"),
    "run that is no emulator": ('run = "sh -c"', "names an emulator"),
    "unknown toolchain": ('toolchain = "make"', "unknown toolchain `make`: choose from"),
    "toolchain without its key": ('toolchain = "zig"', "`triple` is missing"),
    "not TOML": ("title", "is not TOML"),
}


@pytest.mark.parametrize(("line", "complaint"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_file_is_one_line_with_file_and_key(line, complaint, tmp_path):
    key = line.partition(" ")[0]
    others = [old for old in MINE.splitlines() if not old.startswith(f"{key} =")]
    path = written(tmp_path, "\n".join([*others, line]))
    with pytest.raises(BindeployError) as caught:
        load(path)
    assert complaint in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["title", "family", "isa", "toolchain"])
def test_a_missing_key_is_named(key, tmp_path):
    lines = [line for line in MINE.splitlines() if not line.startswith(key)]
    with pytest.raises(BindeployError, match=f"key `{key}` is missing"):
        load(written(tmp_path, "\n".join(lines)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BindeployError, match="none.toml`: No such file"):
        load(str(tmp_path / "none.toml"))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "board.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BindeployError, match="board.toml` is not TOML"):
        load(str(tmp_path / "board.toml"))


def test_a_table_read_back_from_json_gives_the_same_target():
    target = load("arm")
    table = json.loads(json.dumps(asdict(target)))
    assert parse(table, "manifest.json") == target
