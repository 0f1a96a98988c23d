"""What is reported of a time, and of which work; never whether it is fast."""

import math
from pathlib import Path

import pytest

from bindeploy.bench import bench_bundle, bench_layers, bench_on, interleaved, machine, summary
from bindeploy.bench.plots import plot_layers
from bindeploy.bundle import Bundle
from bindeploy.errors import BindeployError
from bindeploy.session import Session


def test_a_summary_is_median_and_spread_in_microseconds():
    assert summary([1000 * k for k in range(1, 12)]) == {
        "median_us": 6.0,
        "p10_us": 2.0,
        "p90_us": 10.0,
    }


def test_contestants_run_in_turn_and_their_second_time_counts():
    calls = []

    def contestant(name):
        return lambda: calls.append(name) or len(calls)

    samples = interleaved({"a": contestant("a"), "b": contestant("b")}, runs=2)
    assert calls == ["a", "a", "b", "b"] * 4, "two rounds warm up"
    assert samples == {"a": [10, 14], "b": [12, 16]}
    with pytest.raises(BindeployError, match="`--runs 0` measures nothing"):
        interleaved({}, runs=0)


def test_a_layer_row_counts_the_work_of_its_shape_and_names_its_isa():
    (row,) = bench_layers(("5x6x7x8:3x3:2",), ("scalar",), "onnxruntime", runs=2)
    assert row["macs"] == 3 * 3 * 8 * 7 * 9
    assert row["isa"] == "scalar" and row["kernel"].endswith("__scalar")
    assert row["gmacs"] == pytest.approx(row["macs"] / row["median_us"] / 1e3)
    assert row["share"] == pytest.approx(row["gmacs"] / row["peak_gmacs"])
    for other in ("float32", "int8"):
        assert row[f"ratio_{other}"] == pytest.approx(row[f"{other}_us"] / row["median_us"])
    assert row["ratio_whole"] > 0 and row["whole_p10_us"] <= row["whole_us"] <= row["whole_p90_us"]
    assert "speedup" not in row


def test_more_threads_are_measured_beside_one():
    (row,) = bench_layers(("5x6x7x8:3x3",), ("scalar",), runs=2, threads=2)
    assert row["threads"] == 2
    assert row["speedup"] == pytest.approx(row["one_thread_us"] / row["median_us"])


def test_layers_are_drawn_beneath_their_roof(tmp_path):
    rows = list(bench_layers(("4x4x8x8:3x3", "4x4x16x8:3x3"), ("scalar",), runs=1))
    figure = tmp_path / "layers.svg"
    plot_layers(rows, machine(), figure)
    text = figure.read_text()
    assert text.startswith("<?xml") and text.count("<path") > 10
    with pytest.raises(BindeployError, match=r"`layers.txt` is no figure's name: end it with .png"):
        plot_layers(rows, machine(), Path("layers.txt"))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--plot", "a.txt", "`a.txt` is no figure's name: end it with .png"),
        ("--plot", "none/a.svg", "there is no folder"),
        ("--set", "even", "unknown set of shapes `even`: choose from standard, odd, channels"),
    ],
)
def test_what_cannot_be_drawn_or_measured_is_said_first(option, value, words, command, monkeypatch):
    monkeypatch.setattr("bindeploy.bench.bench_layers", lambda *_: pytest.fail("measured"))
    found = command("bench", "--kernels", option, value)
    assert found.exit_code == 2 and words in found.stderr


def test_a_report_has_every_node_and_where_it_was_measured(digits_bundle):
    bundle = Bundle.open(digits_bundle)
    report = bench_bundle(bundle, runs=2, isa="scalar")
    with Session(digits_bundle) as session:
        assert [layer["name"] for layer in report["layers"]] == [n.name for n in session.nodes]
    assert report["machine"]["isa"] == "scalar" and report["machine"]["threads"] == 1
    assert "compare" not in report
    assert all(math.isfinite(layer["median_us"]) for layer in report["layers"])
    spent = sum(layer["median_us"] for layer in report["layers"])
    assert sum(report["split_us"].values()) == pytest.approx(spent)
    assert report["split_us"]["binary layers"] > 0


def test_the_bundles_own_program_reports_the_same_layers(digits_bundle):
    bundle = Bundle.open(digits_bundle)
    here, own = bench_bundle(bundle, runs=1), bench_on(bundle, "local", runs=2)
    for layer, other in zip(here["layers"], own["layers"], strict=True):
        assert all(layer[key] == other[key] for key in ("name", "op", "kernel", "macs"))
    assert own["memory"] == here["memory"]


def test_an_emulator_is_never_timed(digits_bundle):
    with pytest.raises(BindeployError, match="an emulator gives no times"):
        bench_on(Bundle.open(digits_bundle), "qemu", runs=1)
