"""What training refuses: each in one line, with whatever was there before left as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train import data, quantizers, training
from bindeploy.train import run as runs
from bindeploy.train.binarization import binarize
from bindeploy.train.checkpoints import initialize
from bindeploy.train.consistency import check_pair
from bindeploy.train.loop import train
from bindeploy.train.module import Phase
from bindeploy.train.progress import Display
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.settings import settings


def quick(out: Path, **arguments):
    defaults = {"limit": 128, "epochs": 2, "float_twin": False, "progress": False}
    return train("digits", "tiny", out=out, **{**defaults, **arguments})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    quick(run, epochs=1, float_twin=True)
    return run


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    """Interrupted in the second epoch."""
    run = tmp_path_factory.mktemp("runs") / "unfinished"
    step = Display.step

    def press(self, done, loss):
        step(self, done, loss)
        if (run / runs.RESUME).exists():
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Display, "step", press)
        quick(run)
    return run


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize(
    "option",
    [
        {"learning_rate": 1e300},
        {"learning_rate": 10**400},
        {"weight_decay": 1e300},
        {"temperature": 1e300},
        {"warmup": 10**400},
        {"epochs": 10**400},
        {"recalibrate": 10**26},
    ],
)
def test_a_number_that_no_computer_takes_is_one_line(option):
    with pytest.raises(BindeployError, match="give .*, at most (1000000000.0|9223372036854775807)"):
        settings({"data": "digits", "model": "tiny", **option})


@pytest.mark.parametrize("option", ["init", "teacher"])
@pytest.mark.parametrize("file", ["", runs.FLOAT])
def test_a_run_is_not_replaced_by_the_one_that_needs_it(tmp_path, finished, option, file):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    with pytest.raises(BindeployError, match=f"{option} .* is in --out .*: choose another --out"):
        quick(run, **{option: str(tmp_path / "x" / ".." / "run" / file)})
    assert contents(run) == before


@pytest.mark.parametrize("phase, twin", [("binary", False), ("float", True)])
def test_a_training_that_diverges_ends_with_its_last_whole_epoch(
    tmp_path, monkeypatch, phase, twin
):
    run, step = tmp_path / "run", Display.step

    def overflow(self, done, loss):
        step(self, done, loss)
        if done == 3:  # the first of the second epoch
            next(phases[-1].network.parameters()).data.fill_(float("inf"))

    phases = []
    start = Phase.on_train_epoch_start
    monkeypatch.setattr(
        Phase, "on_train_epoch_start", lambda self: (phases.append(self), start(self))
    )
    monkeypatch.setattr(Display, "step", overflow)
    with pytest.raises(BindeployError, match=f"diverged in epoch 2 of the {phase} network"):
        quick(run, float_twin=twin)
    description = runs.read_description(run)
    assert not description["finished"]
    weights = load_file(run / (runs.FLOAT if twin else runs.MODEL))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    monkeypatch.undo()
    assert quick(run, float_twin=twin, resume=True)["epochs"] == 2


def test_memory_that_cannot_be_had_is_one_line(tmp_path):
    with pytest.raises(BindeployError, match="out of memory: give a smaller"):
        quick(tmp_path / "run", image_size=2**14)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("finished"), "KeyError 'finished'"),
        (lambda d: d.update(finished="no"), "finished is 'no'"),
        (lambda d: d.pop("hard_accuracy"), "KeyError 'hard_accuracy'"),
        (lambda d: d.update(hard_accuracy="x"), "hard_accuracy is 'x'"),
        (lambda d: d.update(seconds=10**400), "seconds is 1000"),
        (lambda d: d["dataset"]["normalization"].update(pixel_max=10**400), "pixel_max or a std"),
        (lambda d: d["dataset"]["normalization"].update(std=[1e-320]), "pixel_max or a std"),
        (lambda d: d["dataset"]["normalization"].update(mean=[1e308]), "a mean is no number"),
    ],
)
def test_a_description_with_wrong_values_is_damaged(tmp_path, finished, change, message):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    description = json.loads((run / runs.DESCRIPTION).read_text())
    change(description)
    (run / runs.DESCRIPTION).write_text(json.dumps(description))
    for read in (runs.load_run, lambda run: quick(run, epochs=1, float_twin=True, resume=True)):
        with pytest.raises(BindeployError, match=f"is damaged \\({message}"):
            read(run)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("optimizer.0.exp_avg", None, "`0.exp_avg` is missing"),
        ("optimizer.0.exp_avg", lambda t: t.sum(), r"`0.exp_avg` is torch.float32 \[\]"),
        ("optimizer.0.exp_avg", lambda t: t.long(), "`0.exp_avg` is torch.int64"),
        ("optimizer.0.step", lambda t: -t.sign(), "`0.step` counts -1 steps"),
        ("optimizer.0.step", lambda t: t.expand(3), r"`0.step` is torch.float32 \[3\]"),
    ],
)
def test_moments_that_the_optimizer_cannot_have_are_refused(
    tmp_path, unfinished, name, change, message
):
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    tensors, strings = runs.read_tensors(run / runs.RESUME)
    tensor = tensors.pop(name)
    tensors |= {} if change is None else {name: change(tensor).contiguous()}
    save_file(tensors, run / runs.RESUME, strings)
    before = contents(run)
    with pytest.raises(BindeployError, match=message):
        quick(run, resume=True)
    assert contents(run) == before


@pytest.mark.parametrize(
    "entry",
    [
        {"seconds": 10**400},
        {"seconds": -1.0},
        {"float_accuracy": 7.0},
        {"metrics": ["x"]},
        {"metrics": [{"loss": [[]]}]},
    ],
)
def test_a_state_that_no_training_can_be_in_is_damaged(tmp_path, unfinished, entry):
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    with safe_open(run / runs.RESUME, "pt") as file:
        state = json.loads(file.metadata()["state"])
    changed = {"state": json.dumps(state | entry)}
    save_file(load_file(run / runs.RESUME), run / runs.RESUME, changed)
    with pytest.raises(BindeployError, match=f"`.*{runs.RESUME}` is damaged: train again"):
        quick(run, resume=True)


def test_an_unfinished_run_that_is_whole_goes_on(tmp_path, unfinished):
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    assert quick(run, resume=True)["epochs"] == 2


@pytest.mark.parametrize(
    "functions, message",
    [
        ({"F": lambda u, mu: u * float("nan")}, "F of `mine` is not finite"),
        ({"F": lambda u, mu: u[:1]}, r"F of `mine` gives torch.float32 \[1, 3, 3, 3\]"),
        ({"F": lambda u, mu: u.double()}, "F of `mine` gives torch.float64"),
        ({"F": torch.sign}, "F of `mine` fails .*: give a function of a tensor u and a number mu"),
        ({"B": lambda u, mu: torch.ones(3)}, r"B of `mine` gives torch.float32 \[3\]"),
        ({"B": lambda u, mu: 1.0}, "B of `mine` gives float"),
        ({"activation_B": lambda u, mu: u / 0}, "activation_B of `mine` is not finite"),
    ],
)
def test_a_quantizer_of_ones_own_that_cannot_train_is_told_before(tmp_path, functions, message):
    own = Quantizer(**{"name": "mine", "F": quantizers.sign, "B": quantizers.one, **functions})
    with pytest.raises(BindeployError, match=message):
        quick(tmp_path / "run", method=own)
    assert not (tmp_path / "run").exists()


def test_looking_at_a_quantizer_draws_no_numbers():
    own = Quantizer(name="mine", F=quantizers.stochastic_sign, B=quantizers.one)
    before = torch.get_rng_state()
    quantizers.check(own)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pair_that_does_not_keep_the_shape_is_one_line():
    with pytest.raises(BindeployError, match=r"B gives \[3\] for u of"):
        check_pair(quantizers.sign, lambda u, mu: torch.ones(3))


@pytest.mark.parametrize(
    "skip, message",
    [
        (3, "skip `3`: give a list of names, or a function"),
        ([3], "skip `3`: give a name or a pattern"),
        (["[" * 100_000], "give a name or a pattern of at most"),
    ],
)
def test_a_skip_that_is_none_is_one_line(skip, message):
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(BindeployError, match=message):
        binarize(layers, skip=skip)


def test_a_home_that_is_nobodys_is_one_line():
    with pytest.raises(BindeployError, match="no cifar10 in `~nobody-of-this-name/x`"):
        data.load("cifar10", Path("~nobody-of-this-name/x"))


def test_a_file_of_anything_says_what_it_is_not(tmp_path):
    (tmp_path / "a.pth").write_text("hi")
    with pytest.raises(BindeployError, match=r"is damaged or no checkpoint \(\w*[a-z]\w*"):
        initialize(nn.Linear(2, 2), tmp_path / "a.pth")


@pytest.mark.parametrize("recalibrate", [0, 1])
def test_a_warning_follows_its_epoch_and_advises_what_is_not_done_yet(
    tmp_path, monkeypatch, capfd, recalibrate
):
    monkeypatch.setattr(training, "WIDE_GAP", -1)  # any gap is
    quick(tmp_path / "run", recalibrate=recalibrate, progress=True)
    lines = capfd.readouterr().err.splitlines()
    number = next(number for number, line in enumerate(lines) if "below soft" in line)
    assert lines[number - 1].startswith("binary epoch 2/2")
    assert ("--recalibrate" in lines[number]) == (not recalibrate)
