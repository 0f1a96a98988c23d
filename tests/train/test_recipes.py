"""Recipes: every one is a training that can be started, and says of itself what it does."""

from __future__ import annotations

import json
import os
import tomllib

import pytest
from torch import nn

from bindeploy.errors import BindeployError
from bindeploy.train import models, recipes
from bindeploy.train.data import DATASETS
from bindeploy.train.layers import binary_layers
from bindeploy.train.methods import METHODS
from bindeploy.train.models import MODELS
from bindeploy.train.modes import MODES
from bindeploy.train.settings import Settings, settings

FOLDER = recipes._folder()
FILES = sorted(FOLDER.glob("*.toml"))
NAMES = recipes.names()
SHOWN = {"image-folder": "imagenet"}
"""How names of recipes call a dataset, where not by its own name."""

UNNAMED = {"digits": "bwa"}
"""The mode that a name leaves out: 1-bit weights but for the demonstration."""


def given(name: str) -> Settings:
    return settings(recipes.load(name))


def test_names_are_the_files_without_an_underscore():
    assert sorted(path.stem for path in FILES if not path.name.startswith("_")) == NAMES
    assert len(NAMES) > 200


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_training_and_its_name_says_which(name):
    options = given(name)
    assert options.data in DATASETS and options.model in MODELS and options.method in METHODS
    start = f"{SHOWN.get(options.data, options.data)}-{options.model}-{options.method}"
    assert name.startswith(start)
    tags = name.removeprefix(start).split("-")
    assert tags.pop(0) == ""
    mode = tags.pop(0) if tags and tags[0] in MODES else UNNAMED.get(options.data, "bw")
    assert options.mode == mode
    for tag in tags:
        if tag == "adam":
            assert options.optimizer == "adam"
        elif tag == "finetuned":
            assert options.init == "twin"
        else:
            assert tag == str(options.epochs)


def test_no_two_recipes_train_the_same():
    trained = {}
    for name in NAMES:
        assert trained.setdefault(given(name), name) == name


def test_a_file_has_a_title_and_a_source_and_repeats_nothing_of_its_base():
    for path in FILES:
        found = tomllib.loads(path.read_text())
        for note in recipes.NOTES:
            assert len(found.pop(note, "")) >= len("CIFAR-10"), path
        base = found.pop(recipes.BASE, None)
        inherited = recipes.load(str(path.with_name(f"{base}.toml"))) if base else {}
        repeated = [name for name in found if inherited.get(name, found) == found[name]]
        assert repeated == [], path


def test_every_base_serves():
    bases = {tomllib.loads(path.read_text()).get(recipes.BASE) for path in FILES}
    assert {path.stem for path in FILES if path.name.startswith("_")} <= bases


SCHEDULES = {
    "cifar10-resnet56-bc-adam": {
        **{"optimizer": "adam", "learning_rate": 0.01, "milestones": (82, 122)},
        **{"batch_size": 128, "weight_decay": 0.0, "mode": "bw", "scale": None},
    },
    "cifar100-resnet56-sr-adam": {"optimizer": "adam", "milestones": (82, 122), "skip": ("last",)},
    "cifar10-resnet20-bwn": {
        **{"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 2e-4, "epochs": 200},
        **{"milestones": (80, 120, 150), "batch_size": 128},
    },
    "cifar10-resnet56-fp": {"optimizer": "sgd", "milestones": (100, 150), "epochs": 200},
    "cifar10-resnet20-bnn++": {"epochs": 200, "optimizer": "adam", "milestones": (), "mode": "bw"},
    "cifar10-resnet20-bnn++-30": {
        **{"epochs": 30, "optimizer": "adam", "learning_rate": 2e-3, "milestones": ()},
        **{"batch_size": 128, "weight_decay": 0.0, "scale": "filter", "float_twin": False},
    },
    "cifar10-resnet20-bc-30": {"epochs": 30, "scale": "filter", "float_twin": True},
    "cifar10-resnet20-ir-net-bwa": {
        **{"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "epochs": 400},
        **{"milestones": (), "batch_size": 128},
    },
    "imagenet-resnet50-pc": {
        **{"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "epochs": 90},
        **{"milestones": (30, 60), "batch_size": 256},
    },
    "imagenet-deit-small-bwn": {
        **{"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "epochs": 300},
        **{"warmup": 5.0, "batch_size": 1024, "label_smoothing": 0.1, "augmentation": "deit"},
    },
    "imagenet-deit-tiny-bnn++": {"learning_rate": 2e-3, "epochs": 300},
    "imagenet-resnet18-bnn+-bwaa-finetuned": {"epochs": 100, "init": "twin", "float_twin": True},
    "imagenet-resnet50-bnn++-bwa-300": {"epochs": 300, "init": None},
    "imagenet-alexnet-xnor-bwa": {"epochs": 55, "batch_size": 800, "learning_rate": 1e-3},
    "imagenet-bi-real-18-bi-real-bwa": {"epochs": 256, "batch_size": 512, "label_smoothing": 0.1},
    "imagenet-reactnet-a-bi-real-bwa": {"epochs": 128, "teacher": "twin", "distillation": 1.0},
    "imagenet-quicknet-large-bnn-bwa": {"epochs": 600, "batch_size": 2048, "warmup": 5.0},
    "fashion-mnist-tiny-ptb-bwa": {"epochs": 3, "recalibrate": 100, "float_twin": False},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_published_ones(name):
    options = given(name)
    assert {key: getattr(options, key) for key in SCHEDULES[name]} == SCHEDULES[name]


@pytest.mark.parametrize("model", ["vgg-binaryconnect", "resnet56", "wrn56-2"])
def test_training_quantized_nets_binarizes_convolutions_and_nothing_else(model):
    options = given(f"cifar10-{model}-bc-adam")
    network = models.build(model, 3, 10, 32, "bc", "bw", skip=options.skip)
    layers = dict(binary_layers(network))
    convolutions = [n for n, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert list(layers) == convolutions


@pytest.fixture
def write(tmp_path):
    """Writes a recipe and returns its path."""

    def write(name: str, text: str | bytes) -> str:
        path = tmp_path / f"{name}.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_a_recipe_wins_over_its_base_and_that_over_its_own(write):
    write("_far", 'title = "far"\ndata = "digits"\nmode = "bw"\nbatch_size = 8\nepochs = 1\n')
    write("near", 'base = "_far"\nmodel = "tiny"\nepochs = 2\nmode = "bwa"\n')
    path = write("row", 'base = "near"\nbatch-size = 16\nepochs = 3\n')
    assert recipes.load(path) == {
        **{"data": "digits", "model": "tiny", "mode": "bwa", "batch_size": 16, "epochs": 3},
    }


def refused(path: str) -> str:
    with pytest.raises(BindeployError) as caught:
        recipes.load(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1100
    return message


def test_bases_that_lead_in_a_circle_are_named(write):
    write("a", 'base = "b"')
    write("b", 'base = "a"')
    assert "take one base out of c, b, a" in refused(write("c", 'base = "b"'))
    assert "take one base out of self" in refused(write("self", 'base = "self"'))


@pytest.mark.parametrize(
    "base", ['"none"', '"../outside/x"', '"row.toml"', '""', "3", "true", "[1]", "{a = 1}"]
)
def test_a_base_that_is_no_recipe_of_the_same_folder_is_refused(base, tmp_path, write):
    (tmp_path.parent / "outside").mkdir(exist_ok=True)
    (tmp_path.parent / "outside" / "x.toml").write_text('data = "digits"')
    message = refused(write("row", f"base = {base}"))
    assert "row.toml` has the base `" in message
    assert "recipe in the same folder" in message


HOSTILE = {
    "no TOML": ("data = ", "is no recipe (Invalid value"),
    "no text": (b"\xff\xfe\x00", "is no recipe ('utf-8' codec"),
    "too large": ("#" * (recipes.LARGEST + 1), "is no recipe (it is larger than 65536 bytes)"),
    "nested": ("a = " + "[" * 20000 + "]" * 20000, ""),
    "an option twice": ("epochs = 1\nepochs = 2", "is no recipe (Cannot overwrite"),
    "unknown option": ("epoch = 3", ", `epoch`: choose from base, data, data_dir"),
    "option of the loop": ('out = "elsewhere"', ", `out`: choose from"),
    "control characters": ('"a\\u001b[2J\\nb" = 1', "unknown option"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_line(case, write):
    text, said = HOSTILE[case]
    message = refused(write("x", text))
    assert said in message and "\x1b" not in message


def test_what_is_no_file_is_one_line(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    assert "it is no file" in refused(str(tmp_path / "folder.toml"))
    assert "it is no file" in refused(str(tmp_path / "pipe.toml"))
    assert "No such file" in refused(str(tmp_path / "none.toml"))
    assert "is no recipe" in refused("nu\0ll.toml")
    assert refused("x" * 5000 + ".toml").startswith("`xxx")


OUTSIDE = "../recipes/digits-tiny-bnn++"


@pytest.mark.parametrize("name", ["none", "", "_imagenet", OUTSIDE, "x" * 9999])
def test_an_unknown_name_is_told_what_there_is(name):
    assert refused(name).startswith(f"unknown recipe `{name[:900]}")


def test_the_recipe_most_like_a_wrong_name_is_named_first(command, tmp_path):
    result = command("train", "--recipe", "digit-tiny-bnn++", "--out", tmp_path / "run")
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "choose from a path that ends in .toml, digits-tiny-bnn++, " in line
    assert not (tmp_path / "run").exists()


def test_a_recipe_trains_and_the_command_line_wins(command, tmp_path):
    result = command(
        *("train", "--recipe", "digits-tiny-bnn++", "--limit", 64, "--epochs", 1, "--json"),
        *("--out", tmp_path / "run"),
    )
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["data"], shown["model"], shown["method"], shown["mode"]) == (
        *("digits", "tiny"),
        *("bnn++", "bwa"),
    )
    assert shown["epochs"] == 1 and 0 <= shown["hard_accuracy"] <= 1
    arguments = json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]
    assert (arguments["limit"], arguments["epochs"]) == (64, 1)


def test_a_recipe_of_ones_own_trains_with_its_base(command, tmp_path, write):
    write("_digits", 'data = "digits"\nmodel = "tiny"\nepochs = 1\nlimit = 64\n')
    path = write("mine", 'base = "_digits"\nmethod = "fp"\nmode = "bw"\n')
    result = command("train", "--recipe", path, "--json", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["method"] == "fp"
