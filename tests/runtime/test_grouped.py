"""Convolutions in groups, channel by channel, and with a residual: each equals numpy's, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from grouped import GROUPS, convolved, layer
from loaded_model import LoadFailure
from one_op import (
    HEIGHT,
    ISAS,
    WIDTH,
    WINDOWS,
    Open,
    Window,
    finish,
    run,
    signs,
    small_integers,
)
from plan_builder import NONE

from bindeploy import bits

SOME_WINDOWS = {name: WINDOWS[name] for name in list(WINDOWS)[1:]}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("group", "channels", "filters"), GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("window", SOME_WINDOWS.values(), ids=SOME_WINDOWS)
def test_binary_convolutions_in_groups(
    open_plan: Open, window: Window, group: int, channels: int, filters: int, isa: str | None
) -> None:
    random = np.random.default_rng(group + channels)
    x = random.standard_normal((HEIGHT, WIDTH, group * channels), np.float32)
    weights = signs(random, group * filters, *window.kernel, channels)
    scale, bias = random.standard_normal((2, group * filters), np.float32)
    threshold = random.integers(-9, 10, group * filters, np.int32)
    direction = random.choice(np.array([-1, 1], np.int8), group * filters)
    for pad_value in (0, 1):
        settings = {"group": group, "pad_value": pad_value}
        seen = window.patches(bits.sign(x), pad_value)
        dots = convolved(seen, weights, group, np.int32)
        vectors = (bits.pack(weights), scale, bias)
        model = open_plan(finish(*layer("binary_conv", x, vectors, window, **settings)), isa)
        np.testing.assert_array_equal(run(model, x), scale * dots.astype(np.float32) + bias)
        np.testing.assert_array_equal(model.integers(x.transpose(2, 0, 1), 2), dots)
        assert model.node(2).macs == dots.size * channels * window.kernel[0] * window.kernel[1]
        model.close()
        vectors = (bits.pack(weights), threshold, direction)
        plan = finish(*layer("binary_conv_threshold", x, vectors, window, **settings))
        model = open_plan(plan, isa)
        positive = np.where(direction > 0, dots >= threshold, dots < threshold)
        np.testing.assert_array_equal(run(model, x), np.where(positive, 1.0, -1.0))
        np.testing.assert_array_equal(model.integers(x.transpose(2, 0, 1), 2), dots)
        model.close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("group", "channels", "filters"), GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("window", SOME_WINDOWS.values(), ids=SOME_WINDOWS)
def test_float_convolutions_in_groups(
    open_plan: Open, window: Window, group: int, channels: int, filters: int, isa: str | None
) -> None:
    random = np.random.default_rng(group + channels)
    x = small_integers(random, HEIGHT, WIDTH, group * channels)
    scale, bias = random.standard_normal((2, group * filters), np.float32)
    weights = small_integers(random, group * filters, *window.kernel, channels)
    of_signs = signs(random, *weights.shape)
    clamp = {"minimum": -20.0, "maximum": 30.0}
    cases = {
        "conv": ((weights, bias), convolved(window.patches(x, 0), weights, group, np.float32)),
        "binary_weight_conv": (
            (bits.pack(of_signs), scale, bias),
            scale * convolved(window.patches(x, 0), of_signs, group, np.float32),
        ),
    }
    for op, (constants, sums) in cases.items():
        plan = finish(*layer(op, x, constants, window, group=group, **clamp))
        model = open_plan(plan, isa)
        np.testing.assert_array_equal(run(model, x), np.clip(sums + bias, -20, 30), err_msg=op)
        model.close()


@pytest.mark.parametrize("isa", ISAS)
def test_more_grouped_pixels_than_one_chunk_of_row_pointers(
    open_plan: Open, isa: str | None
) -> None:
    random = np.random.default_rng(1)
    window = Window()
    x = random.standard_normal((41, 37, 15), np.float32)
    weights = signs(random, 21, 3, 3, 5)
    vectors = (bits.pack(weights), np.ones(21, np.float32), np.zeros(21, np.float32))
    plan = finish(*layer("binary_conv", x, vectors, window, group=3, pad_value=0))
    expected = convolved(window.patches(bits.sign(x), 0), weights, 3, np.int32)
    np.testing.assert_array_equal(run(open_plan(plan, isa), x), expected)


@pytest.mark.parametrize("taps", [7, 8, 16, 25, 255, 256, 700])
def test_counts_of_a_depthwise_layer_reach_every_tap(open_plan: Open, taps: int) -> None:
    window = Window((1, taps), pads=(0, 0, 0, 0))
    x = np.full((1, taps, 70), -1.0, np.float32)
    weights = np.ones((70, 1, taps, 1), np.float32)
    weights[1::2] = -1
    vectors = (bits.pack(weights), np.ones(70, np.float32), np.zeros(70, np.float32))
    plan = finish(*layer("binary_conv", x, vectors, window, group=70))
    expected = np.where(np.arange(70) % 2, taps, -taps).reshape(1, 1, 70)
    np.testing.assert_array_equal(run(open_plan(plan), x), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("group", [1, 3, 33])
@pytest.mark.parametrize("op", ["binary_conv", "binary_weight_conv", "conv"])
def test_a_residual_is_added_after_the_bias_and_before_the_clamp(
    open_plan: Open, op: str, group: int, isa: str | None
) -> None:
    """Each sum is rounded, as by an add of its own; awkward numbers, so the order matters."""
    random = np.random.default_rng(group)
    window = Window(strides=(2, 1))
    x = random.standard_normal((HEIGHT, WIDTH, 33), np.float32)
    x = np.rint(4 * x) if op != "binary_conv" else x
    weights = signs(random, 66 if group == 3 else 33, *window.kernel, 33 // group)
    scale, bias = random.standard_normal((2, len(weights)), np.float32)
    scale *= np.float32(1.1)
    constants = (weights, bias) if op == "conv" else (bits.pack(weights), scale, bias)
    limits = {"minimum": -2.5, "maximum": 40.0}
    plan, y = layer(op, x, constants, window, residual=True, group=group, **limits)
    plan.nodes[-2].settings["strides"] = (2, 1)
    got = run(open_plan(finish(plan, y), isa), x)
    seen = window.patches(bits.sign(x) if op == "binary_conv" else x, op == "binary_conv")
    sums = convolved(seen, weights, group, np.float32)
    residual = np.zeros_like(got)
    residual[..., 1:34] = x[::2, :, : residual.shape[2] - 1]
    affine = (sums if op == "conv" else scale * sums) + bias
    np.testing.assert_array_equal(got, np.clip(affine + residual, -2.5, 40))


def test_a_residual_of_another_shape_is_refused(open_plan: Open) -> None:
    x = np.zeros((HEIGHT, WIDTH, 4), np.float32)
    vectors = (bits.pack(np.ones((4, 3, 3, 4))), np.ones(4, np.float32), np.ones(4, np.float32))
    plan, y = layer("binary_conv", x, vectors, Window(), residual=True, name="conv1")
    open_plan(finish(plan, y))
    plan, y = layer("binary_conv", x, vectors, Window(), residual=True, name="conv1")
    shortcut = plan.nodes[-1].inputs[4]
    assert shortcut not in (None, NONE)
    plan.tensors[shortcut].shape = (1, WIDTH, HEIGHT, 4)
    with pytest.raises(LoadFailure, match="node `conv1`: input `shortcut` is .1,5,7,4., its out"):
        open_plan(finish(plan, y))
