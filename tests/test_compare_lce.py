"""Whole networks beside LCE: ratios, shares, and the pipe that engines answer through."""

import runpy
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parent.parent / "examples" / "results"

SERVED = """
import sys
sys.path.insert(0, sys.argv[1])
from engine import serve, timed
ran = []
serve({"runs": lambda: len(ran), "time": lambda: timed(lambda: ran.append(0))})
"""


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    return runpy.run_path(str(RESULTS / "compare_lce.py"))


@pytest.fixture
def served(compare, tmp_path):
    program = tmp_path / "served.py"
    program.write_text(SERVED)
    with compare["Engine"](sys.executable, program, RESULTS / "compare_lce") as engine:
        yield engine


def test_ratios_are_within_each_round_to_the_fastest_setting_and_to_the_default(compare):
    """The second half of the rounds has a machine of half the speed."""
    times = {
        "default": [90.0, 80.0, 180.0, 160.0],
        "indirect": [20.0, 16.0, 36.0, 32.0],
        "indirect + XNNPACK": [15.0, 15.0, 30.0, 30.0],
        "bindeploy": [3.0, 3.0, 6.0, 6.0],
    }
    name, *cells = compare["time_row"]("quicknet", times)
    assert name == "quicknet"
    assert cells[2] == "22.50 (15.00 to 30.00)"
    assert cells[4:] == ["5.00 (5.00 to 5.00)", "28.33 (26.67 to 30.00)"]


def test_shares_of_the_kinds_are_of_their_sum(compare):
    kinds = {"binary layers": [2.0, 2.0], "float layers": [1.5, 1.5], "glue": [0.4, 0.6]}
    cells = ["2.00 (50.0 %)", "1.50 (37.5 %)", "0.50 (12.5 %)"]
    assert compare["split_row"]("quicknet", kinds) == ["quicknet", *cells]


def test_networks_of_different_work_are_not_compared(compare):
    compare["agree"]("quicknet", {"binary": 5, "float": 1}, {"binary": 5, "float": 1})
    with pytest.raises(SystemExit, match="quicknet: .*two networks"):
        compare["agree"]("quicknet", {"binary": 5, "float": 1}, {"binary": 5, "float": 2})


def test_every_round_asks_every_contestant_in_turn(compare):
    asked = []

    class Recorder:
        def __init__(self, answer):
            self.answer = answer

        def ask(self, question):
            asked.append(question)
            return self.answer if question.endswith("split") else 2_000_000

    kinds = {"binary layers": 1_000_000, "float layers": 0, "glue": 500_000}
    times, split = compare["rounds"]("net", Recorder(kinds), Recorder(None), 2)
    settings = [f"net {setting}" for setting in ("default", "indirect", "indirect + XNNPACK")]
    assert asked == 2 * [*settings, "net run", "net split"]
    assert set(map(tuple, times.values())) == {(2.0, 2.0)}
    assert split == {"binary layers": [1.0, 1.0], "float layers": [0.0, 0.0], "glue": [0.5, 0.5]}


def test_an_engine_runs_once_for_its_caches_and_once_timed(served):
    assert served.ask("runs") == 0
    assert served.ask("time") > 0
    assert served.ask("runs") == 2


def test_an_engine_that_ends_is_named(compare, tmp_path):
    program = tmp_path / "ends.py"
    program.write_text("input()")
    with (
        compare["Engine"](sys.executable, program) as engine,
        pytest.raises(SystemExit, match=r"ends\.py` ended before it answered `time`"),
    ):
        engine.ask("time")


def test_our_networks_pad_as_those_of_larq_zoo(compare):
    pytest.importorskip("torch")
    from bindeploy.train.layers import binary_layers

    ours = runpy.run_path(str(RESULTS / "compare_lce" / "our_networks.py"))
    for name, value in (("quicknet-small", 1.0), ("bi-real-18", 0.0)):
        assert name in compare["NETWORKS"]
        assert {layer.pad_value for _, layer in binary_layers(ours["network"](name))} == {value}
