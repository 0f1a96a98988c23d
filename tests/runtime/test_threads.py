"""Threads divide each step of a plan: together they compute what one does, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from every_op import every_op_plan
from loaded_model import LoadFailure, Model
from plan_builder import BITS, Plan

from bindeploy import bits

Open = Callable[..., Model]

SIDE = 60
"""So large that every step of the plan of all ops is worth dividing."""


def layer_plan(side: int, channels: int, filters: int) -> bytes:
    """A 3x3 binary convolution to bits, then a dense layer: few pixels, many filters."""
    random = np.random.default_rng(side)
    plan = Plan()
    shape = (1, side, side, channels)
    plan.input = plan.activation("input", shape)
    signs = plan.node("binarize", (plan.input,), plan.activation("signs", shape, type=BITS))
    weights = plan.constant("bits", bits.pack(random.standard_normal((filters, 3, 3, channels))))
    thresholds = plan.constant("thresholds", random.integers(-30, 30, filters, np.int32))
    directions = plan.constant("directions", random.choice(np.array([-1, 1], np.int8), filters))
    layer = (signs, weights, thresholds, directions)
    wide = plan.activation("wide", (1, side, side, filters), type=BITS)
    padded = {"kernel": (3, 3), "pads": (1, 1, 1, 1), "pad_value": 0}
    wide = plan.node("binary_conv_threshold", layer, wide, **padded)
    dense = plan.constant("dense", bits.pack(random.standard_normal((999, side, side, filters))))
    scale = plan.constant("scale", random.standard_normal(999, np.float32))
    output = plan.activation("output", (1, 1, 1, 999))
    plan.output = plan.node(
        "binary_conv", (wide, dense, scale, scale), output, kernel=(side, side), pad_value=1
    )
    return plan.to_bytes()


def image(model: Model) -> np.ndarray:
    shape = tuple(model.describe().input_shape)
    return np.random.default_rng(3).standard_normal(shape, np.float32)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_every_op_gives_the_same_bits_for_any_number_of_threads(
    open_plan: Open, threads: int
) -> None:
    plan = every_op_plan(SIDE)
    alone, together = open_plan(plan), open_plan(plan, threads=threads)
    expected = alone.run(image(alone))
    for _ in range(5):
        np.testing.assert_array_equal(together.run(image(alone)), expected)


@pytest.mark.parametrize("filters", [64, 200, 517])
@pytest.mark.parametrize("side", [1, 5, 7])
def test_few_pixels_are_divided_by_filters(open_plan: Open, side: int, filters: int) -> None:
    plan = layer_plan(side, 512, filters)
    alone, together = open_plan(plan), open_plan(plan, threads=3)
    np.testing.assert_array_equal(together.run(image(alone)), alone.run(image(alone)))


def test_an_observer_sees_every_integer_of_a_model_with_threads(open_plan: Open) -> None:
    plan = layer_plan(7, 512, 200)
    alone, together = open_plan(plan), open_plan(plan, threads=3)
    expected = alone.integers(image(alone), 1)
    np.testing.assert_array_equal(together.integers(image(alone), 1), expected)


@pytest.mark.parametrize("threads", [-1, 257])
def test_a_number_of_threads_that_cannot_be_is_one_line(open_plan: Open, threads: int) -> None:
    with pytest.raises(LoadFailure, match=f"^{threads} threads: 1 to 256 are possible$"):
        open_plan(every_op_plan(), threads=threads)


def test_threads_of_a_model_end_with_it(open_plan: Open) -> None:
    def running() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))

    before = running()
    model = open_plan(every_op_plan(), threads=4)
    assert running() == before + 3
    model.close()
    assert running() == before
