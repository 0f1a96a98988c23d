"""Processes that train together, and runs that are killed: the same weights in the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bindeploy.train import batches, devices, loop
from bindeploy.train import run as runs

FILE = Path(__file__)
COMMAND = (sys.executable, "-m", "bindeploy.cli")
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--nproc-per-node", "2", "-m", "bindeploy.cli"),
)
EPOCHS = 6
SMALL = {"data": "digits", "model": "tiny", "epochs": EPOCHS, "limit": 192, "accelerator": "cpu"}
ONE, TWO = {"batch_size": 64}, {"batch_size": 32, "devices": 2, "strategy": "ddp"}
PATIENCE = 120
"""Seconds within which processes start; those that have lost another one end much sooner."""


def in_float64(out: Path, **options: object) -> dict:
    """Train in float64, where rounding is too small to turn any sign on the way."""
    narrow, convert = torch.get_default_dtype(), batches.to_tensor
    torch.set_default_dtype(torch.float64)
    batches.to_tensor = lambda images, normalization: convert(images, normalization).double()
    try:
        return loop.train(out=out, progress=False, **{**SMALL, **options})
    finally:
        torch.set_default_dtype(narrow)
        batches.to_tensor = convert


def program(folder: Path) -> None:
    """What both processes do when Lightning starts them: two trainings, one after the other."""
    result = in_float64(folder / "float64", **TWO)
    loop.train(out=folder / "uninterrupted", progress=False, **SMALL, **TWO)
    shares = devices.total(1), devices.from_main(lambda: devices.rank())
    if devices.is_main():
        print(json.dumps({"result": result, "shares": shares}))


def arguments(out: Path, given: dict, *more: str) -> list[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL, **given}.items()]
    return ["train", *options, f"--out={out}", *more]


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen]:
    """A program in a session of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finished(*command: str) -> str:
    """What a program that succeeds prints."""
    with started(*command) as process:
        out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    return out


def ended_by(number: signal.Signals, whole: bool, run: Path, lines: range, *command: str) -> str:
    """Send a signal in the middle of a training, at a moment drawn for it; what stderr says.

    `lines` are those of the metrics that the training may have written by then. A process that
    stays behind holds the pipes open, and this fails.
    """
    draw = random.Random(lines.start)
    enough, delay = draw.choice(lines), draw.uniform(0, 0.1)
    metrics, deadline = run / runs.METRICS, time.monotonic() + PATIENCE
    with started(*command) as process:
        while not metrics.exists() or len(metrics.read_text().splitlines()) < enough:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
        (os.killpg if whole else os.kill)(process.pid, number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == (-number if number == signal.SIGKILL else 130), error
    assert runs.read_description(run)["finished"] is False
    return error


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """The binary network of a run, and its twin."""
    files = (runs.MODEL, runs.FLOAT)
    return {f"{file} {name}": t for file in files for name, t in load_file(run / file).items()}


def lines(run: Path) -> list[dict]:
    """Every epoch, without the seconds it took."""
    read = [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in read]


def assert_same(run: Path, other: Path) -> None:
    found, expected = tensors(run), tensors(other)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert lines(run) == lines(other)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, dict]:
    """The folder of the two trainings of `program`, and what it printed."""
    folder = tmp_path_factory.mktemp("together")
    return folder, json.loads(finished(sys.executable, str(FILE), str(folder)))


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path, together):
    folder, printed = together
    result = in_float64(tmp_path / "one", **ONE)
    found, expected = tensors(folder / "float64"), tensors(tmp_path / "one")
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    for kind in ("float", "soft", "hard"):
        assert printed["result"][f"{kind}_accuracy"] == result[f"{kind}_accuracy"]
    for line, like in zip(lines(folder / "float64"), lines(tmp_path / "one"), strict=True):
        assert line == pytest.approx(like, abs=1e-5)


def test_the_processes_of_one_training_meet_again_in_the_next(together):
    folder, printed = together
    assert printed["shares"] == [2, 0]
    assert runs.read_description(folder / "uninterrupted")["finished"] is True


def test_two_processes_ended_at_any_moment_go_on_to_the_same_weights(tmp_path, together):
    """By Ctrl-C in the twin, by SIGKILL of the main process in the binary network."""
    run = tmp_path / "run"
    command = (*COMMAND, *arguments(run, TWO))
    said = ended_by(signal.SIGINT, True, run, range(1, EPOCHS - 1), *command)
    assert f"interrupted: `{run}` keeps" in said and "Traceback" not in said
    assert said.count("bindeploy: interrupted") == 1
    later = range(EPOCHS, 2 * EPOCHS - 2)
    ended_by(signal.SIGKILL, False, run, later, *command, "--resume")
    printed = finished(*TORCHRUN, *arguments(run, TWO, "--resume", "--json"))
    assert json.loads(printed)["epochs"] == EPOCHS, "one process prints, and one object"
    assert_same(run, together[0] / "uninterrupted")
    assert {path.name for path in run.iterdir()} <= {*runs.FILES} - {runs.RESUME}


def test_a_killed_process_goes_on_to_the_same_weights(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = (*COMMAND, *arguments(run, ONE))
    ended_by(signal.SIGKILL, False, run, range(2, 2 * EPOCHS - 2), *command)
    for out, resume in ((whole, False), (run, True)):
        loop.train(out=out, resume=resume, progress=False, **SMALL, **ONE)
    assert_same(run, whole)


if __name__ == "__main__":
    program(Path(sys.argv[1]))
