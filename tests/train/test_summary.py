"""What `inspect` says of a network before it is trained, beside what it says of the file."""

from __future__ import annotations

import json
import time

import onnx_ir as ir
import pytest
import torch
from torch import nn

from bindeploy.bundle import inspect
from bindeploy.convert import convert
from bindeploy.convert.inspect import inspect as inspect_file
from bindeploy.errors import BindeployError
from bindeploy.train.layers import BinaryConv2d, BinaryLinear
from bindeploy.train.models import MODELS, build
from bindeploy.train.states import harden
from bindeploy.train.summary import summarize
from bindeploy.train.to_onnx import export

MIB = 2**20


def row(report: dict, name: str) -> dict:
    (found,) = [layer for layer in report["layers"] if layer["name"] == name]
    return found


def macs(report: dict) -> tuple[int, int]:
    return report["total"]["binary_macs"], report["total"]["float_macs"]


# larq-zoo states them beside each network in `sota/quicknet.py`; its MB are MiB.
@pytest.mark.parametrize(
    "name, parameters, memory",
    [
        ("quicknet-small", 12_655_688, "4.00"),
        ("quicknet", 13_234_088, "4.17"),
        ("quicknet-large", 23_342_248, "5.40"),
    ],
)
def test_quicknets_have_the_size_that_larq_zoo_publishes(name, parameters, memory):
    total = summarize(name)["total"]
    assert total["parameters"] == parameters
    assert f"{total['bytes'] / MIB:.2f}" == memory


@pytest.mark.parametrize(
    "name, binary, float_",
    [
        ("reactnet-a", 4_816_896_000, 11_862_016),
        # patches and head, and two products of 197 x 197 x 64 a head, three heads, twelve blocks
        ("deit-tiny", 1_045_757_952, 29_093_376 + 12 * 3 * 2 * 197 * 197 * 64),
        ("deit-base", 16_732_127_232, 116_373_504 + 12 * 12 * 2 * 197 * 197 * 64),
    ],
)
def test_products_of_layers_and_of_attention_are_counted(name, binary, float_):
    assert macs(summarize(name)) == (binary, float_)


def test_the_largest_model_is_counted_in_well_under_three_seconds():
    summarize("tiny")  # torch loads parts of itself at the first use of its meta device
    started = time.process_time()
    summarize("deit-base")
    assert time.process_time() - started < 1.5


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_summary_whose_rows_add_up(name):
    report = summarize(name)
    for key in ("binary_macs", "float_macs", "bytes"):
        assert report["total"][key] == sum(layer[key] for layer in report["layers"]) > 0
    names = [layer["name"] for layer in report["layers"]]
    assert len(names) == len(set(names))
    assert all(layer["output_shape"] for layer in report["layers"])


def trained_tiny(mode: str) -> nn.Module:
    """With BatchNorm statistics that no pass can drop as those of an identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("tiny", 1, 10, 8, "bnn++", mode).train()
        model(torch.randn(16, 1, 8, 8))
    return model.eval()


@pytest.fixture(scope="module", params=["bw", "bwa"])
def both(request) -> tuple[str, dict, ir.Model]:
    """A mode, the summary of a network in it, and its converted file."""
    model = trained_tiny(request.param)
    packed = convert(export(model, torch.zeros(2, 1, 8, 8)))
    return request.param, summarize(model, shape=(1, 8, 8)), packed


def test_the_summary_agrees_with_the_file_of_the_exported_network(both):
    mode, before, packed = both
    after = inspect_file(packed)
    assert before.keys() == after.keys()
    assert before["total"].keys() == after["total"].keys()
    assert macs(before) == macs(after)
    for name in ("conv0", "conv1", "conv2", "fc0", "fc"):
        ours, file = row(before, name), row(after, name)
        assert ours.keys() == file.keys()
        for key in ("output_shape", "binary_macs", "float_macs", "binary_parameters"):
            assert ours[key] == file[key], (name, key)
    # The first BatchNorm leaves its shift as a bias (32) and merges its scale (32). A pool between
    # signs stores a direction a channel (64); a BatchNorm that stays behind a float pool stores
    # mean and variance (2 x 64) beside scale and shift, and the layer before it a scale and a bias
    # of its own (2 x 64).
    more = {"bwa": 64 - 32, "bw": 128 + 128 - 32}[mode]
    assert after["total"]["parameters"] - before["total"]["parameters"] == more


def test_bits_take_the_bytes_that_they_take_in_files(both):
    _, report, packed = both
    bits = {
        name.removesuffix(".bits"): value.const_value.nbytes
        for name, value in packed.graph.initializers.items()
        if name.endswith(".bits")
    }
    assert bits == {name: row(report, name)["bytes"] for name in ("conv1", "conv2", "fc0")}


def test_rows_of_filters_are_padded_to_words_and_the_rest_is_float32():
    model = nn.Sequential(BinaryConv2d(5, 3, 3, padding=1), nn.PReLU(3), nn.BatchNorm2d(3))
    report = summarize(model, shape=(5, 4, 6))
    convolution, activation, norm = report["layers"]
    assert convolution == {
        "name": "0",
        "op": "BinaryConv2d",
        "input_shape": [5, 4, 6],
        "output_shape": [3, 4, 6],
        "binary_macs": 4 * 6 * 3 * 5 * 9,
        "float_macs": 0,
        "binary_parameters": 3 * 5 * 9,
        "float_parameters": 3,
        "bytes": 3 * 9 * 4 + 3 * 4,
    }
    assert (activation["float_parameters"], norm["float_parameters"]) == (3, 6)
    assert report["total"] == {
        "binary_macs": 3240,
        "float_macs": 0,
        "parameters": 147,
        "bytes": 120 + 12 + 24,
        "float_bytes": 588,
    }


@pytest.mark.parametrize("mode", ["bw", "bw8", "bwa", "bwaa"])
def test_only_two_signs_make_a_binary_multiply_accumulate(mode):
    products = 901_120 if mode in ("bwa", "bwaa") else 0
    report = summarize("tiny", mode=mode)
    assert macs(report) == (products, 19_072 + 901_120 - products)
    assert report["total"]["parameters"] == 45_354


def test_the_float_twin_has_no_bits():
    total = summarize("tiny", method=None)["total"]
    assert total["binary_macs"] == 0 and total["bytes"] == total["float_bytes"] == 4 * 45_354


@pytest.mark.parametrize("mode", ["bwa", "bwaa"])
def test_hard_layers_count_as_soft_ones_and_the_module_is_left_alone(mode):
    model = trained_tiny(mode)
    soft = summarize(model, shape=(1, 8, 8))
    assert summarize(harden(model), shape=(1, 8, 8)) == soft
    assert all(layer.hard for layer in (model.conv1, model.fc0))
    assert not model.conv1._forward_hooks and "forward" not in vars(model.conv1)
    assert model(torch.zeros(1, 1, 8, 8)).device.type == "cpu"


class Odd(nn.Module):
    """A layer called twice, one weight under two names, one layer never called, a bare product."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = BinaryLinear(4, 4, bias=False)
        self.other = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.other.weight
        self.idle = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tied(self.other(self.twice(self.twice(x))))
        return x @ x.transpose(1, 2)


def test_every_call_counts_and_every_parameter_counts_once():
    report = summarize(Odd(), shape=(3, 4))
    assert row(report, "twice")["binary_macs"] == 2 * 3 * 4 * 4
    assert row(report, "tied")["float_macs"] == 3 * 4 * 4
    assert row(report, "tied")["float_parameters"] == 0
    assert row(report, "idle")["output_shape"] == [] and row(report, "idle")["bytes"] == 24
    assert row(report, "Odd")["float_macs"] == 3 * 3 * 4
    assert report["total"]["parameters"] == 16 + 16 + 6


def test_a_model_of_the_zoo_is_counted_for_other_images():
    report = summarize("tiny", shape=(3, 8, 8))
    assert row(report, "conv0")["float_macs"] == 3 * row(summarize("tiny"), "conv0")["float_macs"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("tinny",), "unknown model `tinny`: choose from tiny, "),
        (("tiny", "bnn++", "bwa", (1, 8, 9)), r"shape `\(1, 8, 9\)` is not of a square image"),
        (("tiny", "bnn++", "bwa", (64,)), r"shape `\(64,\)` is not of a square image"),
        ((nn.Linear(4, 2),), "`shape` is missing"),
        ((nn.Linear(4, 2), None, "bwa", (5,)), r"`Linear` does not run on .* \[5\] \("),
    ],
)
def test_what_cannot_be_counted_is_one_line(arguments, message):
    with pytest.raises(BindeployError, match=message) as caught:
        summarize(*arguments)
    assert "\n" not in str(caught.value)


def test_inspect_takes_the_name_of_a_model(command):
    shown = command("inspect", "tiny")
    assert shown.exit_code == 0 and "BinaryLinear" in shown.stdout
    assert "901,120 binary" in shown.stdout
    assert json.loads(command("inspect", "tiny", "--json").stdout) == summarize("tiny")


def test_a_file_goes_before_a_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("no model")
    with pytest.raises(BindeployError, match="`tiny`"):
        inspect("tiny")


def test_a_name_that_is_neither_file_nor_model_lists_the_models(command):
    result = command("inspect", "tinny")
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert "`tinny` is not there: give an ONNX file, a bundle, a run, or a model: tiny, " in line
    assert all(name in line for name in MODELS)
