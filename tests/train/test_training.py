"""Training on the digits: accuracy, resuming, and runs that are missing, foreign or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bindeploy.errors import BindeployError
from bindeploy.train import progress, quantizers, training
from bindeploy.train import run as runs
from bindeploy.train.data import load
from bindeploy.train.evaluate import accuracy
from bindeploy.train.layers import binary_layers
from bindeploy.train.loop import train
from bindeploy.train.quantizers import Quantizer
from bindeploy.train.to_onnx import from_run


def quick(out: Path, **arguments):
    """Three epochs of a few batches."""
    defaults = {"limit": 192, "epochs": 3, "progress": False}
    return train("digits", "tiny", out=out, **{**defaults, **arguments})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    quick(run)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / runs.MODEL)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupt_after(monkeypatch, epochs: int) -> None:
    """Press Ctrl-C in the batch that follows `epochs` epochs, counting those of the twin."""
    written = []
    write, step = training.Training._checkpoint, progress.Display.step

    def count(self, phase):
        write(self, phase)
        written.append(1)

    def press(self, done, loss):
        step(self, done, loss)
        if len(written) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_checkpoint", count)
    monkeypatch.setattr(progress.Display, "step", press)


def test_tiny_learns_the_digits_hard(tmp_path, capfd):
    result = train("digits", "tiny", out=tmp_path / "run", epochs=10)
    assert result["float_accuracy"] >= 0.97
    assert result["hard_accuracy"] >= 0.95
    assert (result["epochs"], result["method"], result["mode"]) == (10, "bnn++", "bwa")
    network, metadata = runs.load_run(tmp_path / "run")
    assert accuracy(network, load("digits")) == result["hard_accuracy"]
    assert all(layer.hard for _, layer in binary_layers(network))
    assert metadata["dataset"]["normalization"]["pixel_max"] == 16
    out, err = capfd.readouterr()
    assert out == ""
    assert "binary epoch 10/10" in err and "Lightning" not in err and "GPU" not in err


@pytest.mark.parametrize("method, mode", [("bc", "bw"), ("pc", "bwa"), ("bnn", "bw")])
def test_other_methods_and_modes_train(tmp_path, method, mode):
    result = quick(tmp_path / "run", method=method, mode=mode, float_twin=False, limit=None)
    assert result["float_accuracy"] is None
    assert result["hard_accuracy"] > 0.8


def test_hard_and_soft_are_one_where_the_forward_is_sign(tmp_path):
    result = quick(tmp_path / "run", method="bc", float_twin=False)
    assert result["hard_accuracy"] == result["soft_accuracy"]


def test_a_run_says_what_it_was(finished):
    description = runs.read_description(finished)
    assert description["finished"] is True
    assert description["arguments"]["limit"] == 192
    assert description["arguments"]["learning_rate"] == 2e-3
    assert {"bindeploy", "torch", "lightning", "python"} == description["versions"].keys()
    assert description["dataset"]["input_shape"] == [1, 8, 8]
    lines = [json.loads(line) for line in (finished / runs.METRICS).read_text().splitlines()]
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        *(("float", epoch) for epoch in (1, 2, 3)),
        *(("binary", epoch) for epoch in (1, 2, 3)),
    ]
    assert lines[-1]["hard_accuracy"] == description["hard_accuracy"]
    assert {"soft_accuracy", "frozen", "loss", "seconds"} <= lines[-1].keys()
    assert {"flip_ratio", "gap"} <= lines[-1].keys()
    assert {path.name for path in finished.iterdir()} == set(runs.FILES) - {runs.RESUME}


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path, finished):
    quick(tmp_path / "a", float_twin=False)
    assert same(weights(tmp_path / "a"), weights(finished))
    quick(tmp_path / "b", float_twin=False, seed=1)
    assert not same(weights(tmp_path / "b"), weights(finished))


@pytest.mark.parametrize("method", ["sr", "bc-stochastic"])
def test_methods_that_draw_at_random_resume_alike(tmp_path, monkeypatch, method):
    options = {"method": method, "float_twin": False, "epochs": 2}
    quick(tmp_path / "whole", **options)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            quick(tmp_path / "run", **options)
    torch.rand(7)  # whatever else draws between
    quick(tmp_path / "run", **options, resume=True)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("epochs", [0, 1, 3, 4])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    tmp_path, finished, monkeypatch, capfd, epochs
):
    """Within the first epoch, within the twin, at its end, and within the binary network."""
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_after(patched, epochs)
        with pytest.raises(KeyboardInterrupt):
            quick(run)
    assert f"interrupted: `{run}` keeps" in capfd.readouterr().err
    assert runs.read_description(run)["finished"] is False
    result = quick(run, resume=True)
    assert same(weights(run), weights(finished))
    expected = runs.read_description(finished)
    for key in ("float_accuracy", "soft_accuracy", "hard_accuracy", "epochs"):
        assert result[key] == expected[key]
    assert len((run / runs.METRICS).read_text().splitlines()) == 6


def test_an_interrupted_run_is_not_overwritten_and_not_resumed_with_other_arguments(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            quick(run)
    with pytest.raises(BindeployError, match="holds an unfinished run: --resume goes on"):
        quick(run)
    with pytest.raises(BindeployError, match="started with epochs `3`, not `4`"):
        quick(run, epochs=4, resume=True)
    with pytest.raises(BindeployError, match="model.safetensors` is missing"):
        runs.load_run(run)
    (run / runs.RESUME).write_bytes(b"damaged")
    with pytest.raises(BindeployError, match="resume.safetensors` is damaged"):
        quick(run, resume=True)


def test_a_finished_run_is_resumed_to_its_result_and_never_replaced(tmp_path):
    run = tmp_path / "run"
    first = quick(run, float_twin=False, epochs=1)
    assert quick(run, float_twin=False, epochs=1, resume=True) == first
    before = weights(run)
    with pytest.raises(BindeployError, match="holds a finished run: delete it, or choose another"):
        quick(run, float_twin=False, epochs=1, seed=1)
    assert same(weights(run), before)


def test_a_quantizer_of_ones_own_is_trained_and_loaded(tmp_path):
    own = Quantizer("own", quantizers.sign, quantizers.clip_mask)
    quick(tmp_path / "run", method=own, float_twin=False, epochs=1)
    _, metadata = runs.load_run(tmp_path / "run")
    assert metadata["arguments"]["method"] == "own"


def test_bfloat16_trains_and_is_evaluated_hard_in_float32(tmp_path):
    result = quick(tmp_path / "run", precision="bfloat16", float_twin=False)
    network, _ = runs.load_run(tmp_path / "run")
    assert accuracy(network, load("digits")) == result["hard_accuracy"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epochs": 0}, "epochs `0`"),
        ({"limit": 1}, "limit `1`"),
        ({"batch_size": 1}, "batch size `1`"),
        ({"learning_rate": 0.0}, "learning rate `0.0`"),
        ({"method": "x"}, "unknown method `x`"),
        ({"mode": "x"}, "unknown mode `x`"),
        ({"precision": "x"}, "unknown precision `x`: choose from auto, float32, bfloat16"),
        ({"resume": True}, "is no run"),
    ],
)
def test_misuse_is_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(BindeployError, match=message):
        quick(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BindeployError, match="unknown model `x`"):
        train("digits", "x", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(BindeployError, match="was not written by bindeploy"):
        quick(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is no run"),
        ("{", "run.json` is damaged"),
        ("[]", "was not written by bindeploy"),
        ('{"arguments": {}, "dataset": {}}', "run.json` is damaged"),
    ],
)
def test_a_folder_that_is_no_run_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / runs.DESCRIPTION).write_text(content)
    with pytest.raises(BindeployError, match=message) as caught:
        runs.load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_one_line(tmp_path, finished):
    (tmp_path / runs.DESCRIPTION).write_bytes((finished / runs.DESCRIPTION).read_bytes())
    for tensors in ({"x": torch.zeros(1)}, weights(finished) | {"fc.bias": torch.zeros(3)}):
        runs.write_tensors(tmp_path / runs.MODEL, tensors)
        with pytest.raises(BindeployError, match="does not fit its model") as caught:
            runs.load_run(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / runs.MODEL).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(BindeployError, match="model.safetensors` is damaged"):
        runs.load_run(tmp_path)


def test_full_precision_is_a_method_and_a_teacher_and_a_start(tmp_path):
    teacher = tmp_path / "teacher"
    result = quick(teacher, method="fp", limit=None)
    assert result["float_accuracy"] > 0.9
    assert result["soft_accuracy"] is result["hard_accuracy"] is None
    network, _ = runs.load_run(teacher)
    assert accuracy(network, load("digits")) == result["float_accuracy"]
    assert not list(binary_layers(network))
    with pytest.raises(BindeployError, match="is of full precision, with nothing to pack"):
        from_run(teacher)
    again, _ = runs.load_float(teacher)
    assert same(again.state_dict(), network.state_dict())

    alone = {"float_twin": False, "epochs": 1}
    plain = quick(tmp_path / "plain", **alone)
    taught = quick(tmp_path / "taught", **alone, teacher=str(teacher))
    tuned = quick(tmp_path / "tuned", **alone, init=str(teacher))
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "taught"))
    assert tuned["soft_accuracy"] > max(plain["soft_accuracy"], taught["soft_accuracy"])


def test_the_twin_of_the_same_run_can_start_and_teach_and_resumes_alike(tmp_path, monkeypatch):
    options = {"init": "twin", "teacher": "twin", "epochs": 2}
    quick(tmp_path / "whole", **options)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            quick(tmp_path / "run", **options)
    quick(tmp_path / "run", **options, resume=True)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert not same(weights(tmp_path / "run"), load_file(tmp_path / "run" / runs.FLOAT))


def test_what_is_shipped_has_the_statistics_that_were_measured_again(tmp_path):
    options = {"method": "ptb", "float_twin": False, "limit": None}
    as_trained = quick(tmp_path / "a", **options)
    measured = quick(tmp_path / "b", **options, recalibrate=5)
    assert measured["soft_accuracy"] == as_trained["soft_accuracy"]
    assert measured["hard_accuracy"] > as_trained["hard_accuracy"]
    network, _ = runs.load_run(tmp_path / "b")
    assert accuracy(network, load("digits")) == measured["hard_accuracy"]
    differing = {
        name
        for name, value in weights(tmp_path / "a").items()
        if not torch.equal(value, weights(tmp_path / "b")[name])
    }
    assert differing and all(name.startswith("bn") for name in differing)
    assert not {name for name in differing if name.endswith((".weight", ".bias"))}


def test_options_reach_the_network_and_are_loaded_with_the_run(tmp_path):
    run = tmp_path / "run"
    quick(
        run,
        method="ir-net",
        float_twin=False,
        epochs=1,
        skip=["first"],
        learned_shift=True,
        nonlinearity="prelu",
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=1e-4,
        warmup=0.5,
        label_smoothing=0.1,
        batch_size=32,
    )
    network, metadata = runs.load_run(run)
    assert metadata["quantizer"] == {"binary": True, "standardize": True}
    assert metadata["arguments"]["scale"] == "power-of-two"
    layers = dict(binary_layers(network))
    assert "fc" in layers and "conv0" not in layers
    assert all(
        layer.shift is not None and layer.scale_name == "power-of-two" for layer in layers.values()
    )
    assert accuracy(network, load("digits")) == metadata["hard_accuracy"]


def test_bop_flips_signs_and_keeps_weights_on_the_grid(tmp_path):
    result = quick(tmp_path / "run", method="bc", optimizer="bop", float_twin=False, limit=None)
    assert result["hard_accuracy"] == result["soft_accuracy"] > 0.5
    network, _ = runs.load_run(tmp_path / "run")
    for _, layer in binary_layers(network):
        assert set(layer.weight.unique().tolist()) == {-1, 1}


@pytest.mark.parametrize("mode", ["bw8", "bwaa"])
def test_modes_of_eight_bits_train_and_load(tmp_path, mode):
    result = quick(tmp_path / "run", mode=mode, float_twin=False, limit=None, epochs=6)
    assert result["hard_accuracy"] > 0.85
    network, _ = runs.load_run(tmp_path / "run")
    assert accuracy(network, load("digits")) == result["hard_accuracy"]


def test_metrics_count_flips_and_a_frozen_network_or_an_open_gap_is_said_in_words(tmp_path, capfd):
    sharp = Quantizer(
        "sharp", quantizers.sign, lambda u, mu: torch.zeros_like(u), schedule="constant"
    )
    quick(tmp_path / "frozen", method=sharp, float_twin=False)
    assert "have no gradient any more (|B| < 0.001)" in capfd.readouterr().err
    lines = [json.loads(x) for x in (tmp_path / "frozen" / runs.METRICS).read_text().splitlines()]
    assert [line["flip_ratio"] for line in lines] == [0, 0, 0]
    assert [line["frozen"] for line in lines] == [1, 1, 1]
    quick(tmp_path / "gap", method="ptb", float_twin=False, limit=None)
    err = capfd.readouterr().err
    assert "points below soft: what is shipped is not yet what is trained" in err
    lines = [json.loads(x) for x in (tmp_path / "gap" / runs.METRICS).read_text().splitlines()]
    assert lines[-1]["gap"] > 0.02 and lines[0]["flip_ratio"] > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": "nowhere"}, "`nowhere` is no run"),
        ({"init": "nowhere"}, "`nowhere`"),
        ({"skip": ["conv9"]}, "skip `conv9` fits no layer"),
        ({"method": "xnor", "scale": "none"}, "gradient of method `xnor` goes with scale `filter`"),
        ({"method": "fp", "recalibrate": 5}, "recalibrate `5`: method `fp` trains full precision"),
        ({"optimizer": "bop"}, "optimizer `bop` flips signs, which method `bnn\\+\\+` does not"),
        ({"image_size": 2}, "image size `2` is too small"),
    ],
)
def test_a_start_a_teacher_or_a_size_that_cannot_be_had_is_refused_at_once(
    tmp_path, options, message
):
    with pytest.raises(BindeployError, match=message):
        quick(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_twin_cannot_teach(tmp_path):
    quick(tmp_path / "run", float_twin=False, epochs=1)
    with pytest.raises(BindeployError, match="float.safetensors` is missing"):
        quick(tmp_path / "other", teacher=str(tmp_path / "run"))
