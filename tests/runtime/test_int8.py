"""Convolutions of 8-bit integers equal plain integer sums in numpy, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiled_runtime import SOURCES
from loaded_model import LoadFailure
from numpy.typing import NDArray
from one_op import HEIGHT, ISAS, WIDTH, WINDOWS, Open, Window, finish, nhwc_plan, run
from plan_builder import BITS, F32, RUNTIME

GROUPS = {
    "one channel": (1, 1, 1),
    "an image": (3, 1, 5),
    "a word of filters and one": (33, 1, 65),
    "two words of filters": (2, 1, 128),
    "groups": (6, 3, 9),
    "depthwise": (5, 5, 5),
    "depthwise, filters of a word and more": (70, 70, 140),
}
"""Channels, groups, filters."""
STEP = np.float32(0.37)


def draw(random: np.random.Generator, filters: int, *shape: int) -> NDArray[np.int8]:
    """Weights [F, KH, KW, C / group], the extremes among them."""
    weights = random.integers(-127, 128, (filters, *shape)).astype(np.int8)
    weights.ravel()[::5] = 127
    weights.ravel()[1::7] = -128
    return weights


def floats(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """[H, W, C]: halves of a step, values that saturate, and what has no integer."""
    x = (random.integers(-300, 300, shape) / 2).astype(np.float32) * STEP
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e38], np.float32)
    x.ravel()[: special.size] = special[: x.size]
    return x


def quantized(x: NDArray[np.float32]) -> NDArray[np.int64]:
    with np.errstate(over="ignore"):
        q = np.clip(np.rint(x / STEP), -128, 127)
    return np.where(np.isnan(q), -128, q).astype(np.int64)


def dots_of(
    x: NDArray[np.float32], weights: NDArray[np.int8], window: Window, group: int
) -> NDArray[np.int64]:
    """[H', W', F]"""
    seen = window.patches(quantized(x), 0)
    parts = zip(np.split(seen, group, axis=-1), np.split(weights, group), strict=True)
    sums = [np.einsum("hwklc,fklc->hwf", a, w.astype(np.int64)) for a, w in parts]
    return np.concatenate(sums, axis=-1)


def int8_plan(
    x: NDArray[np.float32],
    weights: NDArray[np.int8],
    vectors: tuple[NDArray, NDArray],
    window: Window,
    step: NDArray[np.float32] = STEP[None],
    **settings: object,
) -> bytes:
    """int8_conv or, where the first vector is int32, int8_conv_threshold."""
    plan, tensor = nhwc_plan(x)
    threshold = vectors[0].dtype == np.int32
    out = (1, window.over(x.shape[0], 0), window.over(x.shape[1], 1), len(weights))
    inputs = (
        tensor,
        plan.constant("weights", weights),
        plan.constant("step", step),
        plan.constant("first", vectors[0]),
        plan.constant("second", vectors[1]),
    )
    y = plan.activation("y", out, BITS if threshold else F32)
    op = "int8_conv_threshold" if threshold else "int8_conv"
    return finish(plan, plan.node(op, inputs, y, **(window.settings() | settings)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_int8_conv(
    open_plan: Open, window: Window, sizes: tuple[int, int, int], isa: str | None
) -> None:
    channels, group, filters = sizes
    random = np.random.default_rng(channels)
    x = floats(random, HEIGHT, WIDTH, channels)
    weights = draw(random, filters, *window.kernel, channels // group)
    dots = dots_of(x, weights, window, group)
    scale, bias = random.standard_normal((2, filters), np.float32)
    limits = {"minimum": -3e4, "maximum": 2e4}
    model = open_plan(int8_plan(x, weights, (scale, bias), window, group=group, **limits), isa)
    product = scale * dots.astype(np.float32)
    expected = np.clip(product + bias, np.float32(-3e4), np.float32(2e4))
    np.testing.assert_array_equal(run(model, x), expected)
    assert model.node(1).macs == dots.size * weights[0].size
    thresholds = random.integers(-30000, 30000, filters).astype(np.int32)
    thresholds[::3] = dots.reshape(-1, filters)[0, ::3]
    direction = random.choice(np.array([-1, 1], np.int8), filters)
    plan = int8_plan(x, weights, (thresholds, direction), window, group=group)
    above = np.where(dots >= thresholds, 1, -1) * direction
    np.testing.assert_array_equal(run(open_plan(plan, isa), x), above)


def test_the_largest_sum_is_exact(open_plan: Open) -> None:
    """132104 products of 127 and 128 are an int32, and one more is none."""
    window = Window((1, 1), pads=(0, 0, 0, 0))
    x = np.full((1, 1, 132104), -np.inf, np.float32)
    weights = np.full((1, 1, 1, 132104), -127, np.int8)
    up = np.ones(1, np.int8)
    for threshold, sign in ((132104 * 127 * 128, 1), (132104 * 127 * 128 + 1, -1)):
        plan = int8_plan(x, weights, (np.array([threshold], np.int32), up), window)
        assert run(open_plan(plan), x) == sign


ONE = Window((1, 1), pads=(0, 0, 0, 0))


def refusals() -> dict[str, tuple[bytes, str]]:
    x, random = np.zeros((2, 2, 4), np.float32), np.random.default_rng(0)
    weights, wide = draw(random, 6, 1, 1, 4), np.full((1, 1, 1, 132105), -127, np.int8)
    vector, ones = np.zeros(6, np.float32), np.ones(6, np.int8)
    zeros = np.zeros(6, np.int32)
    affine, comparison = (vector, vector), (zeros, ones)
    return {
        "other channels": (
            int8_plan(x, weights[..., :3], affine, ONE),
            r"weights are \[6,1,1,3\], and \[6,1,1,4\] are needed",
        ),
        "other kernel": (
            int8_plan(x, weights, affine, ONE, kernel=(2, 1), pads=(1, 0, 0, 0)),
            r"weights are \[6,1,1,4\], and \[6,2,1,4\] are needed",
        ),
        "no group": (int8_plan(x, weights, affine, ONE, group=0), "0 groups do not divide 4"),
        "three groups": (int8_plan(x, weights, affine, ONE, group=3), "3 groups do not divide 4"),
        "four groups": (int8_plan(x, weights, affine, ONE, group=4), "divide 4 channels and 6 fil"),
        "long sums": (
            int8_plan(np.zeros((1, 1, 132105), np.float32), wide, (vector[:1], vector[:1]), ONE),
            "filter 0 sums beyond 32-bit integers",
        ),
        "no step": (
            int8_plan(x, weights, affine, ONE, step=vector[:1]),
            "input scale is 0: finite",
        ),
        "NaN step": (int8_plan(x, weights, affine, ONE, step=vector[:1] / 1 * np.nan), "is -?nan"),
        "two steps": (int8_plan(x, weights, affine, ONE, step=vector[:2]), r"and \[1,1,1,1\] is"),
        "short scale": (int8_plan(x, weights, (vector[:5], vector), ONE), r"and \[6,1,1,1\] is ne"),
        "no clamp": (int8_plan(x, weights, affine, ONE, minimum=1.0, maximum=0.0), "is empty"),
        "direction 0": (
            int8_plan(x, weights, (zeros, ones * np.int8(0)), ONE),
            "direction 0 is 0: 1 and -1 are possible",
        ),
        "short threshold": (
            int8_plan(x, weights, (comparison[0][:5], ones), ONE),
            r"and \[6,1,1,1\] is needed",
        ),
    }


@pytest.mark.parametrize("case", refusals())
def test_a_plan_that_does_not_fit_is_refused(open_plan: Open, case: str) -> None:
    plan, message = refusals()[case]
    with pytest.raises(LoadFailure, match=f"node `int8_conv.*`: .*{message}"):
        open_plan(plan)


def several_plans(folder: Path) -> dict[Path, tuple[NDArray, NDArray]]:
    """Plans with and without thresholds, their inputs, and what they must give as NCHW."""
    plans = {}
    random = np.random.default_rng(8)
    window = WINDOWS["stride 2x3, asymmetric pads"]
    for channels, group, filters in GROUPS.values():
        x = floats(random, HEIGHT, WIDTH, channels)
        weights = draw(random, filters, *window.kernel, channels // group)
        dots = dots_of(x, weights, window, group)
        scale, bias = random.standard_normal((2, filters), np.float32)
        comparison = dots[1, 0].astype(np.int32), np.ones(filters, np.int8)
        for vectors, y in (
            ((scale, bias), scale * dots.astype(np.float32) + bias),
            (comparison, np.where(dots >= comparison[0], 1, -1)),
        ):
            path = folder / f"{len(plans)}.bd"
            path.write_bytes(int8_plan(x, weights, vectors, window, group=group))
            expected = y.astype(np.float32).transpose(2, 0, 1)
            plans[path] = (x.transpose(2, 0, 1), expected)
    return plans


def test_nothing_outside_its_memory_is_touched(tmp_path: Path, sanitized_bench: Path) -> None:
    """Under sanitizers, which also see an integer overflow."""
    check([sanitized_bench], several_plans(tmp_path))


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_64_bit_arm_gives_the_same(tmp_path: Path) -> None:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    program = tmp_path / "bd_bench"
    sources = [*SOURCES, str(RUNTIME / "bench/bd_bench.c")]
    flags = ["-std=c11", "-O2", f"-I{RUNTIME / 'include'}", "-lm", "-o", str(program)]
    subprocess.run([*zig, *sources, *flags], check=True, capture_output=True)
    check(["qemu-aarch64", program], several_plans(tmp_path))


def check(command: list[object], plans: dict[Path, tuple[NDArray, NDArray]]) -> None:
    for path, (x, expected) in plans.items():
        source, target = path.with_suffix(".in"), path.with_suffix(".out")
        source.write_bytes(np.ascontiguousarray(x).tobytes())
        options = [path, "--input", source, "--output", target, "--runs", "1", "--warmup", "0"]
        subprocess.run([*map(str, command), *map(str, options)], check=True, capture_output=True)
        found = np.frombuffer(target.read_bytes(), np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=path.name)
