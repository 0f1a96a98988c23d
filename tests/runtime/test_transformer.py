"""Ops of transformers on plans packed by hand: numpy's numbers in every order, and bounds kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from loaded_model import LoadFailure
from numpy.typing import NDArray
from one_op import CHANNELS, HEIGHT, ISAS, WIDTH, Open, finish, nhwc_plan, one_op, run

TOLERANCE = 1e-6


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def number(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)


def agree(got: NDArray, expected: NDArray) -> None:
    """Within the tolerance of the largest number."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("channels", CHANNELS)
def test_layer_norm_normalizes_each_pixel(open_plan: Open, channels: int) -> None:
    x, scale, bias = (
        normal(0, HEIGHT, WIDTH, channels) + 3,
        normal(1, channels),
        normal(2, channels),
    )
    got = one_op(open_plan, "layer_norm", x, x.shape, scale, bias, number(1e-3))
    wide = x.astype(np.float64)
    variance = wide.var(axis=2, keepdims=True)
    agree(got, (wide - wide.mean(2, keepdims=True)) / np.sqrt(variance + 1e-3) * scale + bias)


@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("channels", CHANNELS[1:])
def test_softmax_is_over_the_channels_of_each_pixel(
    open_plan: Open, channels: int, flags: int
) -> None:
    x = 30 * normal(0, HEIGHT, WIDTH, channels)
    got = one_op(open_plan, "softmax", x, x.shape, number(0.5), flags=flags)
    shifted = 0.5 * x.astype(np.float64)
    shifted -= shifted.max(axis=2, keepdims=True)
    logarithm = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    agree(got, logarithm if flags else np.exp(logarithm))


FUNCTIONS = {
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf),
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_a_function_is_that_of_each_number(open_plan: Open, op: str) -> None:
    x = 4 * normal(0, HEIGHT, WIDTH, 13)
    agree(one_op(open_plan, op, x, x.shape), FUNCTIONS[op](x.astype(np.float64)))


def attention(x: NDArray, heads: int, width: int) -> tuple[list[int], list[int]]:
    """Steps of queries by keys, and of their product by values, all of them in x [T, 3, h, d]."""
    tokens, row = x.shape[1], x.shape[2]
    keys = [heads, tokens, width, tokens, 0, width, row, heads * width, width, 1, row]
    values = [heads, tokens, tokens, width, 0, tokens * tokens, tokens]
    values += [2 * heads * width, width, row, 1]
    return [*keys, tokens * tokens, tokens], [*values, width, heads * width]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("tokens", "heads", "width"), [(1, 1, 1), (7, 3, 5), (17, 2, 64), (50, 1, 33), (197, 3, 16)]
)
def test_heads_are_multiplied_where_they_stand(
    open_plan: Open, tokens: int, heads: int, width: int, threads: int, isa: str | None
) -> None:
    x = normal(0, 1, tokens, 3 * heads * width)
    plan, tensor = nhwc_plan(x)
    keys, values = (np.array(steps, np.int32) for steps in attention(x, heads, width))
    factor = plan.constant("factor", number(0.3))
    scores = plan.activation("scores", (1, heads, tokens, tokens))
    plan.node("matmul", (tensor, tensor, plan.constant("keys", keys), factor), scores)
    y = plan.activation("y", (1, 1, tokens, heads * width))
    plan.node("matmul", (scores, tensor, plan.constant("values", values), factor), y)
    got = run(open_plan(finish(plan, y), isa, threads), x)
    q, k, v = x.astype(np.float64).reshape(tokens, 3, heads, width).transpose(1, 2, 0, 3)
    expected = 0.3 * (0.3 * q @ k.transpose(0, 2, 1)) @ v
    agree(got[0], expected.transpose(1, 0, 2).reshape(tokens, heads * width))


def test_steps_of_six_axes_put_a_picture_in_any_order(open_plan: Open) -> None:
    x = normal(0, 6, 4, 30)
    split = x.reshape(2, 3, 2, 2, 5, 6)
    strides = [size // 4 for size in split.strides]
    axes = (4, 2, 0, 5, 1, 3)
    steps = [*(split.shape[axis] for axis in axes), *(strides[axis] for axis in axes), 0]
    shape = (6, 4, 30)
    got = one_op(open_plan, "rearrange", x, shape, np.array(steps, np.int32), number(1))
    np.testing.assert_array_equal(got, split.transpose(axes).reshape(shape))


def test_a_part_of_a_picture_is_taken_and_multiplied(open_plan: Open) -> None:
    x = normal(0, 6, 4, 30)
    steps = np.array([1, 1, 1, 1, 2, 7, 0, 0, 0, 0, 240, 3, 125], np.int32)
    got = one_op(open_plan, "rearrange", x, (1, 2, 7), steps, number(-2))
    np.testing.assert_array_equal(got[0], -2 * x[1:5:2, 0, 5:26:3])


KEYS, VALUES = attention(np.zeros((1, 7, 30)), 2, 5)


def changed(steps: list[int], index: int, value: int) -> NDArray[np.int32]:
    return np.array([*steps[:index], value, *steps[index + 1 :]], np.int32)


@pytest.mark.parametrize("steps", [KEYS, VALUES], ids=["keys", "values"])
@pytest.mark.parametrize("index", range(13))
def test_no_step_leads_out_of_an_operand(open_plan: Open, steps: list[int], index: int) -> None:
    """Every field, too large by one step or by far, or negative."""
    for value in (steps[index] + 210, 1 << 24, (1 << 31) - 1, -1, -(1 << 31)):
        plan, tensor = nhwc_plan(np.zeros((1, 7, 30)))
        scores = plan.activation("scores", (1, 2, 7, 7))
        plan.node("clip", (tensor,), plan.activation("copy", (1, 1, 7, 30)))
        out = scores if steps is KEYS else plan.activation("y", (1, 1, 7, 10))
        if steps is VALUES:
            given = plan.constant("keys", np.array(KEYS, np.int32))
            factor = plan.constant("one", number(1))
            plan.node("matmul", (tensor, tensor, given, factor), scores)
        inputs = (tensor if steps is KEYS else scores, tensor)
        wrong = plan.constant("steps", changed(steps, index, value))
        plan.node("matmul", (*inputs, wrong, plan.constant("f", number(1))), out, name="wrong")
        with pytest.raises(LoadFailure, match="^node `wrong`: "):
            open_plan(finish(plan, out))


ONES = np.ones(4, np.float32)
STEPS = [1, 1, 1, 2, 3, 4, 0, 0, 0, 12, 4, 1, 0]
WRONG = {
    "epsilon below 0": ("layer_norm", (2, 3, 4), (ONES, ONES, number(-1)), {}),
    "epsilon of NaN": ("layer_norm", (2, 3, 4), (ONES, ONES, number(np.nan)), {}),
    "scale of 3": ("layer_norm", (2, 3, 4), (ONES[:3], ONES[:3], number(1)), {}),
    "factor 0": ("softmax", (2, 3, 4), (number(0),), {}),
    "flags": ("softmax", (2, 3, 4), (number(1),), {"flags": 2}),
    "another shape": ("softmax", (3, 2, 4), (number(1),), {}),
    "gelu of another shape": ("gelu", (3, 2, 4), (), {}),
    "beyond x": ("rearrange", (2, 3, 4), (changed(STEPS, 12, 1), number(1)), {}),
    "before x": ("rearrange", (2, 3, 4), (changed(STEPS, 12, -1), number(1)), {}),
    "a step back": ("rearrange", (2, 3, 4), (changed(STEPS, 9, -12), number(1)), {}),
    "no element": ("rearrange", (2, 3, 4), (changed(STEPS, 4, 0), number(1)), {}),
    "too few": ("rearrange", (2, 3, 4), (changed(STEPS, 4, 2), number(1)), {}),
    "five axes": ("rearrange", (2, 3, 4), (np.array(STEPS[1:-1], np.int32), number(1)), {}),
}  # fmt: skip


@pytest.mark.parametrize(("op", "out", "constants", "settings"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(
    open_plan: Open, op: str, out: tuple, constants: tuple, settings: dict
) -> None:
    with pytest.raises(LoadFailure, match="^node `wrong`: "):
        one_op(open_plan, op, np.zeros((2, 3, 4)), out, *constants, name="wrong", **settings)
