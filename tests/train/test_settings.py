"""The options of a training: typed, in range, and one line where they are not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bindeploy.errors import BindeployError
from bindeploy.train.settings import Settings, settings

LEAST = {"data": "digits", "model": "tiny"}


def test_data_and_model_are_enough():
    given = settings(LEAST)
    assert given == Settings(data="digits", model="tiny")
    assert (given.method, given.mode, given.epochs, given.skip) == (
        *("bnn++", "bwa"),
        *(20, ("first", "last")),
    )


def test_lists_of_a_recipe_become_tuples():
    given = settings({**LEAST, "skip": ["first"], "milestones": [3, 5]})
    assert (given.skip, given.milestones) == (("first",), (3, 5))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"data": None}, "no data is given: choose one with --data"),
        ({"epoch": 3}, "unknown option `epoch`: choose from data"),
        ({"data": "x"}, "unknown data `x`: choose from digits"),
        ({"model": "x"}, "unknown model `x`: choose from tiny"),
        ({"mode": "x"}, "unknown mode `x`: choose from bw, bw8, bwa, bwaa"),
        ({"scale": "x"}, "unknown scale `x`"),
        ({"nonlinearity": "x"}, "unknown nonlinearity `x`"),
        ({"augmentation": "x"}, "unknown augmentation `x`"),
        ({"optimizer": "x"}, "unknown optimizer `x`"),
        ({"precision": "x"}, "unknown precision `x`: choose from auto, float32, bfloat16"),
        ({"epochs": 0}, "epochs `0`: give a whole number, 1 or more"),
        ({"epochs": 1.5}, "epochs `1.5`: give a whole number"),
        ({"epochs": True}, "epochs `True`"),
        ({"limit": 1}, "limit `1`"),
        ({"batch_size": 1}, "batch size `1`"),
        ({"seed": -1}, "seed `-1`"),
        ({"seed": 2**63}, "seed `9223372036854775808`: .* at most 9223372036854775807"),
        ({"learning_rate": 0.0}, "learning rate `0.0`: give more than 0"),
        ({"learning_rate": float("nan")}, "learning rate `nan`"),
        ({"learning_rate": "fast"}, "learning rate `fast`"),
        ({"label_smoothing": 1.5}, "label smoothing `1.5`: give 0 or more, at most 1"),
        ({"milestones": [0]}, "milestones `0`"),
        ({"milestones": [2], "warmup": 3}, "warmup `3` reaches beyond the first .* `2`"),
        ({"milestones": [9, 2], "warmup": 3}, "warmup `3` reaches beyond the first .* `2`"),
        ({"learned_shift": "yes"}, "learned_shift `yes`: give true or false"),
        ({"model": 3}, "model `3`: give a text"),
        ({"skip": [3]}, "skip `3`: give a text"),
        ({"skip": [["a"]]}, r"skip `\['a'\]`: give a text"),
        ({"init": "twin", "float_twin": False}, "init `twin` without a twin"),
        ({"teacher": "twin", "float_twin": False}, "teacher `twin` without a twin"),
    ],
)
def test_a_wrong_option_is_one_line(options, message):
    with pytest.raises(BindeployError, match=message):
        settings({**LEAST, **options})


def test_options_are_checked_without_torch():
    program = (
        "import sys; from bindeploy.train.settings import settings;"
        "settings({'data': 'digits', 'model': 'tiny', 'scale': 'none', 'nonlinearity': 'relu',"
        " 'optimizer': 'sgd', 'augmentation': 'none'});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
