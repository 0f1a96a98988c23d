"""Convolutions of 1-bit weights with inputs rounded to 8 bits: exact integers on every path.

q   = clamp(round(x / step), -128, 127)
dot = sum over taps and channels of q * weight, a padded tap reading 0
y   = clamp(scale * dot + bias)
"""

from __future__ import annotations

import numpy as np
import pytest
from loaded_model import LoadFailure
from numpy.typing import NDArray
from one_op import (
    CHANNELS,
    HEIGHT,
    ISAS,
    WIDTH,
    WINDOWS,
    Open,
    Window,
    finish,
    nhwc_plan,
    run,
    signs,
)

from bindeploy import bits

STEP = np.float32(0.03)


def floats(random: np.random.Generator, channels: int) -> NDArray[np.float32]:
    """Values whose integers use the whole range and go beyond it."""
    return (random.standard_normal((HEIGHT, WIDTH, channels)) * 60 * STEP).astype(np.float32)


def integers(x: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.clip(np.rint(x / STEP), -128, 127).astype(np.int64)


def rounded_plan(
    x: NDArray,
    weights: NDArray,
    window: Window,
    group: int = 1,
    step: float = STEP,
    **settings: object,
) -> tuple[bytes, NDArray, NDArray]:
    """A plan with the op alone, and its scale and bias."""
    random = np.random.default_rng(5)
    filters = len(weights)
    scale, bias = random.standard_normal((2, filters), np.float32)
    plan, tensor = nhwc_plan(x)
    inputs = (
        tensor,
        plan.constant("weights", bits.pack(weights)),
        plan.constant("step", np.array([step], np.float32)),
        plan.constant("scale", scale),
        plan.constant("bias", bias),
    )
    y = plan.activation("y", (1, window.over(x.shape[0], 0), window.over(x.shape[1], 1), filters))
    options = window.settings() | {"group": group} | settings
    return finish(plan, plan.node("binary_weight_int8_conv", inputs, y, **options)), scale, bias


def dots_of(x: NDArray, weights: NDArray, window: Window, group: int) -> NDArray[np.int64]:
    seen, parts = window.patches(integers(x), 0), []
    for part, block in zip(np.split(seen, group, axis=4), np.split(weights, group), strict=True):
        parts.append(np.einsum("hwklc,fklc->hwf", part, block.astype(np.int64)))
    return np.concatenate(parts, axis=2)


def check(
    open_plan: Open, x: NDArray, weights: NDArray, window: Window, group: int, isa: str | None
) -> None:
    plan, scale, bias = rounded_plan(x, weights, window, group, minimum=-900.0, maximum=700.0)
    dots = dots_of(x, weights, window, group).astype(np.float32)
    model = open_plan(plan, isa)
    np.testing.assert_array_equal(run(model, x), np.clip(scale * dots + bias, -900, 700))
    model.close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_every_path_sums_the_same_integers(
    open_plan: Open, window: Window, channels: int, isa: str | None
) -> None:
    random = np.random.default_rng(channels)
    filters = CHANNELS[-1 - CHANNELS.index(channels)]
    weights = signs(random, filters, *window.kernel, channels)
    check(open_plan, floats(random, channels), weights, window, 1, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("channels", "group", "filters"), [(66, 3, 9), (64, 2, 96), (33, 33, 33)])
def test_groups_and_depthwise_layers(
    open_plan: Open, channels: int, group: int, filters: int, isa: str | None
) -> None:
    random = np.random.default_rng(group)
    weights = signs(random, filters, 3, 3, channels // group)
    window = WINDOWS["stride 2x3, asymmetric pads"]
    check(open_plan, floats(random, channels), weights, window, group, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_sums_are_exact(open_plan: Open, isa: str | None) -> None:
    """All products are 128, of more inputs than 16 bits can sum."""
    x = np.full((HEIGHT, WIDTH, 700), -200 * STEP, np.float32)
    check(open_plan, x, np.full((65, 3, 3, 700), -1, np.float32), Window(), 1, isa)


REFUSALS = {
    "no step": ({"step": 0.0}, "input scale is 0: finite numbers above 0 are possible"),
    "infinite step": ({"step": np.inf}, "input scale is inf"),
    "an empty clamp": ({"minimum": 1.0, "maximum": 0.0}, "which is empty"),
    "groups": ({"group": 2}, "group is 2, which does not divide 3 channels"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_plan_that_does_not_fit_is_refused(open_plan: Open, case: str) -> None:
    settings, message = REFUSALS[case]
    x, weights = np.zeros((2, 2, 3), np.float32), np.ones((4, 1, 1, 3), np.float32)
    plan, *_ = rounded_plan(x, weights, WINDOWS["1x1"], **settings)
    with pytest.raises(LoadFailure, match=message):
        open_plan(plan)


def test_more_inputs_than_floats_can_sum_exactly_are_refused(open_plan: Open) -> None:
    x, weights = np.zeros((8, 8, 2049), np.float32), np.ones((1, 8, 8, 2049), np.float32)
    plan, *_ = rounded_plan(x, weights, Window((8, 8), pads=(0, 0, 0, 0)))
    with pytest.raises(LoadFailure, match="sums over 131136 inputs: 131072 are possible"):
        open_plan(plan)
