"""Ops that rectify, join and rearrange floats: each equals numpy's, and a wrong one is refused."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from loaded_model import LoadFailure, Model
from numpy.typing import NDArray
from one_op import CHANNELS, HEIGHT, WIDTH, Open, finish, nhwc_plan, one_op, run


def normal(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize("by_element", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
def test_affine_takes_a_number_a_channel_or_an_element(
    open_plan: Open, channels: int, by_element: bool
) -> None:
    random = np.random.default_rng(channels)
    x = normal(random, HEIGHT, WIDTH, channels)
    scale, bias = (normal(random, *(x.shape if by_element else x.shape[2:])) for _ in range(2))
    got = one_op(open_plan, "affine", x, x.shape, scale.ravel(), bias.ravel(), maximum=0.5)
    np.testing.assert_array_equal(got, np.minimum(scale * x + bias, np.float32(0.5)))


@pytest.mark.parametrize("given", ["", "before", "after", "before and after"])
@pytest.mark.parametrize("by_element", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
def test_prelu_scales_what_is_below_zero_between_two_shifts(
    open_plan: Open, channels: int, by_element: bool, given: str
) -> None:
    random = np.random.default_rng(channels)
    x = normal(random, HEIGHT, WIDTH, channels)
    x[0, 0, 0], x[0, 1, 0], x[0, 2, 0], x[0, 3, 0] = 0.0, -0.0, np.inf, 1e-45
    shape = x.shape if by_element else x.shape[2:]
    slope, before, after = (normal(random, *shape) for _ in range(3))
    plan, tensor = nhwc_plan(x)
    inputs = [tensor, plan.constant("slope", slope.ravel())]
    for name, shift in (("before", before), ("after", after)):
        inputs.append(plan.constant(name, shift.ravel()) if name in given else None)
    y = plan.activation("y", (1, *x.shape))
    plan.node("prelu", tuple(inputs), y, minimum=-1.5)
    shifted = x + before if "before" in given else x
    expected = np.where(shifted < 0, slope * shifted, shifted)
    expected = np.maximum(expected + after if "after" in given else expected, np.float32(-1.5))
    np.testing.assert_array_equal(run(open_plan(finish(plan, y)), x), expected)


def test_prelu_rounds_its_product_before_the_shift(
    contracting_library: ctypes.CDLL, tmp_path: Path
) -> None:
    """With after = -round(slope * x) the rounded sum is 0 and the fused one is not."""
    slope = normal(np.random.default_rng(3), 64)
    x = np.full((1, 1, 64), -3.1, np.float32)
    plan, tensor = nhwc_plan(x)
    after = plan.constant("after", -(slope * x.ravel()))
    y = plan.activation("y", (1, 1, 1, 64))
    plan.node("prelu", (tensor, plan.constant("slope", slope), None, after), y)
    path = tmp_path / "model.bd"
    path.write_bytes(finish(plan, y))
    np.testing.assert_array_equal(run(Model(contracting_library, path, None), x), np.zeros(x.shape))


@pytest.mark.parametrize("parts", [(1, 2), (3, 1, 64), (5, 5, 5, 5, 5), (130, 7)])
def test_concat_puts_channels_one_after_the_other(open_plan: Open, parts: tuple[int, ...]) -> None:
    x = normal(np.random.default_rng(0), HEIGHT, WIDTH, sum(parts))
    plan, tensor = nhwc_plan(x)
    begins = np.cumsum([0, *parts[:-1]])
    cuts = []
    for begin, size in zip(begins, parts, strict=True):
        cut = plan.activation("cut", (1, HEIGHT, WIDTH, size))
        cuts.append(plan.node("crop_pad", (tensor,), cut, channel_offset=-int(begin)))
    y = plan.activation("y", (1, HEIGHT, WIDTH, sum(parts)))
    plan.node("concat", tuple(cuts[::-1]), y)
    pieces = np.split(x, begins[1:], axis=2)[::-1]
    np.testing.assert_array_equal(run(open_plan(finish(plan, y)), x), np.concatenate(pieces, 2))


def deep_to_wide(x: NDArray, block: tuple[int, int], channels_first: bool) -> NDArray:
    """[H, W, block * C] -> [H * block, W * block, C], as ONNX writes DepthToSpace."""
    height, width, depth = x.shape
    channels = depth // (block[0] * block[1])
    if channels_first:
        split = x.reshape(height, width, channels, *block).transpose(0, 3, 1, 4, 2)
    else:
        split = x.reshape(height, width, *block, channels).transpose(0, 2, 1, 3, 4)
    return split.reshape(height * block[0], width * block[1], channels)


@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("channels", [1, 3, 33])
@pytest.mark.parametrize("block", [(1, 1), (2, 2), (3, 2), (1, 4)])
def test_blocks_of_pixels_and_channels_turn_into_each_other(
    open_plan: Open, block: tuple[int, int], channels: int, flags: int
) -> None:
    x = normal(np.random.default_rng(0), 3, 2, channels * block[0] * block[1])
    wide = deep_to_wide(x, block, bool(flags))
    settings = {"kernel": block, "flags": flags}
    got = one_op(open_plan, "depth_to_space", x, wide.shape, **settings)
    np.testing.assert_array_equal(got, wide)
    got = one_op(open_plan, "space_to_depth", wide, x.shape, **settings)
    np.testing.assert_array_equal(got, x)


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


WRONG = {
    "affine of another length": ("affine", (2, 3, 4), (vector(1, 2, 3), vector(1, 2, 3)), {}),
    "affine of two lengths": ("affine", (2, 3, 4), (vector(*range(24)), vector(*range(4))), {}),
    "prelu of another length": ("prelu", (2, 3, 4), (vector(1),), {}),
    "prelu of another shape": ("prelu", (3, 2, 4), (vector(1, 2, 3, 4),), {}),
    "prelu of an empty clamp": ("prelu", (2, 3, 4), (vector(1, 2, 3, 4),), {"minimum": np.inf,
                                                                          "maximum": 0.0}),
    "block of 0": ("depth_to_space", (2, 3, 4), (), {"kernel": (0, 1)}),
    "block of too much": ("space_to_depth", (2, 3, 4), (), {"kernel": (1, 5000)}),
    "block that does not fit": ("depth_to_space", (4, 6, 4), (), {"kernel": (2, 2)}),
    "channels that do not fit": ("space_to_depth", (1, 1, 25), (), {"kernel": (2, 3)}),
    "flags": ("space_to_depth", (1, 1, 24), (), {"kernel": (2, 3), "flags": 2}),
}  # fmt: skip


@pytest.mark.parametrize(("op", "out", "constants", "settings"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(
    open_plan: Open, op: str, out: tuple, constants: tuple, settings: dict
) -> None:
    with pytest.raises(LoadFailure, match="^node `wrong`: "):
        one_op(open_plan, op, np.zeros((2, 3, 4)), out, *constants, name="wrong", **settings)


@pytest.mark.parametrize(
    ("chosen", "part"),
    [
        ((0, 1, 2), "inputs have 12 channels, its output 8"),
        ((0, 3), "input `other` is .1,3,2,4., its output .1,2,3,8."),
        ((0,), "input 1 of concat is missing"),
        ((0, 1, None, 2), "input 2 is missing before another"),
    ],
)
def test_a_concat_that_does_not_fit_is_refused(open_plan: Open, chosen: tuple, part: str) -> None:
    plan, tensor = nhwc_plan(np.zeros((2, 3, 4), np.float32))
    tensors = [tensor] * 3
    other = plan.activation("other", (1, 3, 2, 4))
    tensors.append(plan.node("crop_pad", (tensor,), other))
    y = plan.activation("y", (1, 2, 3, 8))
    inputs = tuple(None if index is None else tensors[index] for index in chosen)
    plan.node("concat", inputs, y, name="joined")
    with pytest.raises(LoadFailure, match=f"^node `joined`: {part}"):
        open_plan(finish(plan, y))
