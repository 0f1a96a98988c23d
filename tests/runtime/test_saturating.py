"""Sums of 8 bits that saturate: each row of kernels gives those of numpy, word by word."""

from __future__ import annotations

import numpy as np
import pytest
from grouped import GROUPS, convolved, layer
from numpy.typing import NDArray
from one_op import CHANNELS, HEIGHT, ISAS, WIDTH, WINDOWS, Open, Window, finish, run

from bindeploy import bits

WORD, LOWEST, HIGHEST = 32, -128, 127


def saturated(seen: NDArray, weights: NDArray, group: int = 1) -> NDArray[np.int32]:
    """[H', W', F] of what pixels see [H', W', KH, KW, C] with weights [F, KH, KW, C / group]."""
    split = seen.reshape(*seen.shape[:4], group, -1).astype(np.int32)
    filters = weights.reshape(group, -1, *weights.shape[1:]).astype(np.int32)
    sums = np.zeros((*seen.shape[:2], *filters.shape[:2]), np.int32)
    for row, column in np.ndindex(weights.shape[1:3]):
        for first in range(0, weights.shape[3], WORD):
            words = slice(first, first + WORD)
            one = split[:, :, row, column, :, words], filters[:, :, row, column, words]
            sums = np.clip(sums + np.einsum("hwgc,gfc->hwgf", *one), LOWEST, HIGHEST)
    return sums.reshape(*sums.shape[:2], -1)


def leaning(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """+-1, mostly alike within each of the first axis, or after the middle of it mostly opposite:
    sums of them reach both ends and turn there."""
    turns = np.where(np.arange(shape[1]) < (shape[1] + 1) // 2, 1, -1)
    start = np.where(np.arange(shape[0]) % 2, 1, -1)[:, None] * turns
    values = random.standard_normal(shape) + 0.8 * start.reshape(*shape[:2], *[1] * len(shape[2:]))
    return bits.sign(values)


def image(random: np.random.Generator, channels: int) -> NDArray[np.float32]:
    return random.standard_normal((HEIGHT, WIDTH, channels)).astype(np.float32) + np.float32(0.8)


def layers(
    x: NDArray, weights: NDArray, window: Window, random: np.random.Generator, **settings: object
) -> dict[str, tuple[bytes, NDArray]]:
    """A plan of each op and its output, after the integers."""
    filters = len(weights)
    scale, bias = random.standard_normal((2, filters), np.float32)
    threshold = random.choice([-128, -127, -5, 0, 3, 126, 127, 128], filters).astype(np.int32)
    direction = random.choice(np.array([-1, 1], np.int8), filters)
    seen = window.patches(bits.sign(x), int(str(settings.get("pad_value", 1))))
    sums = saturated(seen, weights, int(str(settings.get("group", 1))))
    packed = bits.pack(weights)
    plans = {
        op: finish(*layer(op, x, (packed, *vectors), window, **settings))
        for op, vectors in {
            "saturating_conv": (scale, bias),
            "saturating_conv_threshold": (threshold, direction),
        }.items()
    }
    positive = (sums >= threshold) == (direction > 0)
    outputs = (scale * sums.astype(np.float32) + bias, np.where(positive, 1.0, -1.0))
    return {"integers": (b"", sums)} | dict(
        zip(plans, zip(plans.values(), outputs, strict=True), strict=True)
    )


def check(open_plan: Open, found: dict, x: NDArray, isa: str | None) -> None:
    _, sums = found.pop("integers")
    for plan, expected in found.values():
        model = open_plan(plan, isa)
        np.testing.assert_array_equal(run(model, x), expected)
        np.testing.assert_array_equal(model.integers(x.transpose(2, 0, 1), 2), sums)
        model.close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [*CHANNELS, 100])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_sums_saturate_word_by_word(
    open_plan: Open, window: Window, channels: int, isa: str | None
) -> None:
    random = np.random.default_rng(channels)
    x = image(random, channels)
    weights = leaning(random, 71 if channels > 60 else 19, *window.kernel, channels)
    for pad_value in (0, 1):
        found = layers(x, weights, window, random, pad_value=pad_value)
        if channels > 60 and min(window.kernel) > 2:
            exact = convolved(window.patches(bits.sign(x), pad_value), weights, 1, np.int32)
            assert (found["integers"][1] != np.clip(exact, LOWEST, HIGHEST)).any()
        check(open_plan, found, x, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("group", "channels", "filters"), GROUPS.values(), ids=GROUPS)
def test_groups_begin_at_words_of_their_own(
    open_plan: Open, group: int, channels: int, filters: int, isa: str | None
) -> None:
    random = np.random.default_rng(group + channels)
    x = image(random, group * channels)
    for window in (Window((5, 5), (2, 1), (2, 2, 2, 2)), WINDOWS["stride 2x3, asymmetric pads"]):
        weights = leaning(random, group * filters, *window.kernel, channels)
        for pad_value in (0, 1):
            found = layers(x, weights, window, random, group=group, pad_value=pad_value)
            check(open_plan, found, x, isa)


def test_channel_by_channel_too(open_plan: Open) -> None:
    """700 taps of one channel: 127 of the first ones count, then all that turn it back."""
    window = Window((1, 700), pads=(0, 0, 0, 0))
    x = np.ones((1, 700, 70), np.float32)
    x[:, 600:] = -1
    weights = np.ones((70, 1, 700, 1), np.float32)
    vectors = (bits.pack(weights), np.ones(70, np.float32), np.zeros(70, np.float32))
    plan = finish(*layer("saturating_conv", x, vectors, window, group=70))
    np.testing.assert_array_equal(run(open_plan(plan), x), np.full((1, 1, 70), 27.0))


def test_zeros_around_a_picture_add_nothing_before_a_sum_turns(open_plan: Open) -> None:
    """What a padded row adds after saturation does not come off by itself: it must not be added."""
    x = np.ones((3, 3, 160), np.float32)
    weights = np.ones((1, 3, 3, 160), np.float32)
    weights[:, 2] = -1
    vectors = (bits.pack(weights), np.ones(1, np.float32), np.zeros(1, np.float32))
    for pad_value, first in ((0, -128.0), (1, -128.0)):
        plan = finish(*layer("saturating_conv", x, vectors, Window(), pad_value=pad_value))
        y = run(open_plan(plan), x)[..., 0]
        assert y[0, 1] == first and y[2, 1] == (127.0 if pad_value == 0 else -128.0)


@pytest.mark.parametrize("isa", ISAS)
def test_what_follows_the_sums_is_that_of_a_binary_convolution(
    open_plan: Open, isa: str | None
) -> None:
    random = np.random.default_rng(5)
    x = image(random, 96)
    weights = leaning(random, 96, 3, 3, 96)
    sums = saturated(Window().patches(bits.sign(x), 1), weights).astype(np.float32)
    scales, biases = random.standard_normal((2, 2 * 96), np.float32)
    limits = {"minimum": -2.5, "maximum": 40.0}
    packed = bits.pack(weights)
    for twice in (False, True):
        vectors = (scales, biases) if twice else (scales[:96], biases[:96])
        plan, y = layer("saturating_conv", x, (packed, *vectors), Window(), residual=True, **limits)
        got = run(open_plan(finish(plan, y), isa), x)
        residual = np.zeros_like(x)
        residual[..., 1:] = x[..., :-1]
        once = scales[:96] * sums + biases[:96]
        expected = np.clip(once + residual, -2.5, 40)
        if twice:
            expected = scales[96:] * np.clip(once, -2.5, 40) + biases[96:] + residual
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same(open_plan: Open, threads: int) -> None:
    random = np.random.default_rng(threads)
    x = random.standard_normal((23, 19, 130)).astype(np.float32) + np.float32(1)
    weights = leaning(random, 150, 3, 3, 65)
    found = layers(x, weights, Window(), random, group=2, pad_value=0)
    del found["integers"]
    for plan, expected in found.values():
        np.testing.assert_array_equal(run(open_plan(plan, threads=threads), x), expected)
