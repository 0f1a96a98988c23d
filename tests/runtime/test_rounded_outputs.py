"""A layer that rounds what it makes gives, bit for bit, what the next one's rounding would."""

from __future__ import annotations

import numpy as np
import pytest
from float_layers import HEIGHT, LAYERS, PADDED, WIDTH, Open, layer_inputs, numbers
from loaded_model import LoadFailure
from numpy.typing import NDArray
from one_op import ISAS, finish, nhwc_plan, run
from plan_builder import F32, I8

READERS = ("int8_conv", "binary_weight_int8_conv")
STEP = np.array([0.05], np.float32)
"""Scales of the readers' inputs: many floats are beyond 127 of them."""


def plan_of(
    x: NDArray, layer: str, reader: str, rounds: bool, group: int = 1, rectifies: bool = False
) -> bytes:
    """A layer of 20 filters, which rounds or not, and a layer of integers that reads it."""
    normal, filters = numbers(), 20
    plan, tensor = nhwc_plan(x)
    inputs: list[int | None] = [*layer_inputs(plan, layer, tensor, filters, x.shape[2], normal)]
    rectifier = plan.constant("rectifier", normal(3 * filters)) if rectifies else None
    step = plan.constant("step", STEP)
    shape = (1, HEIGHT, WIDTH, filters)
    made = plan.activation("made", shape, I8 if rounds else F32)
    op = layer.partition(", ")[0]
    ends = [None, rectifier, *([step] if rounds else [])]
    plan.node(op, (*inputs, *ends), made, group=1, **PADDED)
    _, weights, _, *maps = layer_inputs(plan, reader, made, filters, filters // group, normal)
    read = plan.activation("read", shape)
    plan.node(reader, (made, weights, step, *maps), read, group=group, **PADDED)
    return finish(plan, read)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("channels", "group", "rectifies"), [(3, 1, False), (65, 4, True)])
def test_a_layer_rounds_as_its_reader_does(
    open_plan: Open,
    layer: str,
    reader: str,
    isa: str | None,
    channels: int,
    group: int,
    rectifies: bool,
) -> None:
    x = np.random.default_rng(1).standard_normal((HEIGHT, WIDTH, channels), np.float32)
    apart, joined = (
        run(open_plan(plan_of(x, layer, reader, rounds, group, rectifies), isa), x)
        for rounds in (False, True)
    )
    np.testing.assert_array_equal(joined, apart)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_rounds_writes_integers_and_adds_no_residual(
    open_plan: Open, layer: str
) -> None:
    normal = numbers()
    x = normal(HEIGHT, WIDTH, 20)
    for type, residual, words in (
        (F32, False, "output `y` is f32, and .* writes i8"),
        (I8, True, "no layer with a residual"),
    ):
        plan, tensor = nhwc_plan(x)
        inputs = layer_inputs(plan, layer, tensor, 20, 20, normal)
        ends = (tensor if residual else None, None, plan.constant("step", STEP))
        y = plan.activation("y", (1, HEIGHT, WIDTH, 20), type)
        plan.node(layer.partition(", ")[0], (*inputs, *ends), y, group=1, **PADDED)
        floats = plan.activation("floats", (1, HEIGHT, WIDTH, 20))
        plan.node("to_nhwc", (plan.input,), floats)
        with pytest.raises(LoadFailure, match=words):
            open_plan(finish(plan, floats))
