"""Bad input is one line that says what, which, and what would work, with exit status 2."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bindeploy import Session
from bindeploy.bundle.formats import FORMATS
from bindeploy.errors import BindeployError
from bindeploy.train.data import DATASETS
from bindeploy.train.methods import METHODS
from bindeploy.train.models import MODELS


@pytest.fixture
def foreign(tmp_path):
    """A folder of files that are not ours."""
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    onnx.save(one_node("Relu"), tmp_path / "float.onnx")
    onnx.save(before_a_binary_layer("Warp", "my.domain"), tmp_path / "odd.onnx")
    return tmp_path


def one_node(op: str) -> onnx.ModelProto:
    """A model of one standard node."""
    return model(helper.make_node(op, ["x"], ["y"]))


def before_a_binary_layer(op: str, domain: str) -> onnx.ModelProto:
    """A model of a node of another domain, named `odd`, and a dense layer of +-1 weights."""
    odd = helper.make_node(op, ["x"], ["h"], "odd", domain=domain)
    signs = numpy_helper.from_array(np.where(np.eye(8) > 0, 1, -1).astype(np.float32), "signs")
    return model(odd, helper.make_node("MatMul", ["h", "signs"], ["y"]), constants=[signs])


def model(*nodes: onnx.NodeProto, constants=()) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, 1, ["N", 1, 8, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


FOR_HOST = ("--target", "host", "--out", "{foreign}/o")
TRAIN = ("train", "--data", "digits", "--model", "tiny", "--out", "{foreign}/run")

MISUSE = {
    "dataset": (("train", "--data", "cats", *TRAIN[3:]), "digits"),
    "model": ((*TRAIN[:4], "huge", *TRAIN[5:]), "resnet20"),
    "method": ((*TRAIN, "--method", "magic"), "bnn++"),
    "mode": ((*TRAIN, "--mode", "bwx"), "bwa"),
    "epochs": ((*TRAIN, "--epochs", "0"), "epochs"),
    "missing data": (("train", "--data", "cifar10", *TRAIN[3:]), "--data-dir"),
    "resume nothing": ((*TRAIN, "--resume"), "run.json"),
    "missing run": (("export", "{foreign}/none", *FOR_HOST), "none"),
    "foreign run": (("export", "{foreign}/folder", *FOR_HOST), "folder"),
    "foreign model": (("export", "{foreign}/text.onnx", *FOR_HOST), "text.onnx"),
    "no binary layer": (("export", "{foreign}/float.onnx", *FOR_HOST), "no binary layer"),
    "unknown operator": (("export", "{foreign}/odd.onnx", *FOR_HOST), "node `odd`"),
    "target": (("export", "{run}", "--target", "toaster", "--out", "{foreign}/o"), "arm"),
    "format": (("export", "{run}", *FOR_HOST, "--format", "word"), "runtime"),
    "bundle": (("verify", "{foreign}/folder"), "manifest.json"),
    "bench what": (("bench",), "--kernels"),
    "shape": (("bench", "--kernels", "--shape", "14x14"), "HxWxCxF"),
    "isa": (("bench", "--kernels", "--isa", "mmx"), "scalar"),
    "comparison": (("bench", "{bundle}", "--compare", "abacus"), "onnxruntime"),
    "transport": (("verify", "{bundle}", "--on", "mars"), "qemu"),
    "inspect": (("inspect", "{foreign}/text.onnx"), "text.onnx"),
    "convert": (("convert", "{foreign}/text.onnx", "{foreign}/out.onnx"), "text.onnx"),
    "option": (("bench", "--speed"), "--speed"),
    "command": (("fly",), "fly"),
}


@pytest.mark.parametrize(("arguments", "word"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_one_line_exit_2_and_nothing_written(
    arguments, word, foreign, digits_run, digits_bundle, command
):
    places = {"foreign": foreign, "run": digits_run, "bundle": digits_bundle}
    before = sorted(foreign.rglob("*"))
    result = command(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert word in result.stderr.splitlines()[-1]
    assert [line for line in result.stderr.splitlines() if line.startswith("bindeploy:")] == (
        result.stderr.splitlines()[-1:]
    )
    assert sorted(foreign.rglob("*")) == before


def test_an_existing_folder_of_the_user_is_never_replaced(foreign, digits_run, command):
    result = command("export", digits_run, "--target", "host", "--out", foreign / "folder")
    assert result.exit_code == 2
    assert (foreign / "folder" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("listing", ["targets", "methods"])
def test_listings_are_one_json_object_a_line(listing, command):
    rows = [json.loads(line) for line in command(listing, "--json").stdout.splitlines()]
    assert len(rows) >= 5
    table = command(listing).stdout
    assert all(row["name"] in table for row in rows)


def test_bench_writes_a_page(digits_bundle, tmp_path, command):
    result = command("bench", digits_bundle, "--runs", 1, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "<html" in (tmp_path / "page.html").read_text()


def test_a_truncated_plan_is_one_line(digits_bundle, tmp_path, command):
    cut = shutil.copytree(digits_bundle, tmp_path / "cut")
    plan = (cut / "model.bd").read_bytes()
    (cut / "model.bd").write_bytes(plan[: len(plan) // 2])
    result = command("bench", cut)
    assert result.exit_code == 2
    assert "model.bd" in result.stderr.splitlines()[-1]
    assert command("verify", cut).exit_code == 1


def test_a_wrong_input_is_named_with_what_the_model_takes(digits_bundle):
    with Session(digits_bundle) as session, pytest.raises(BindeployError, match=r"\[N, 1, 8, 8\]"):
        session.run(None, {"input": np.zeros((1, 3, 32, 32), np.float32)})


@pytest.mark.parametrize("arguments", [TRAIN, ("export", "{run}", *FOR_HOST)])
def test_a_library_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    arguments, foreign, digits_run, command, monkeypatch
):
    for name in [*sys.modules]:
        if name.startswith("bindeploy.train.") and "methods" not in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    places = {"foreign": foreign, "run": digits_run}
    result = command(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert "`torch` is not installed: pip install 'bindeploy[train]'" in result.stderr


@pytest.mark.parametrize(
    ("name", "table"),
    [("train", METHODS), ("train", MODELS), ("train", DATASETS), ("export", FORMATS)],
)
def test_help_lists_the_names_of_each_table(name, table, command):
    help_text = "".join(command(name, "--help").stdout.split())  # a name may be broken at a hyphen
    assert f"{','.join(table)}." in help_text
