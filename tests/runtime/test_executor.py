"""Every op of the runtime equals a plain numpy statement of it, on ragged shapes."""

from __future__ import annotations

import ctypes
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiled_runtime import SOURCES, build
from every_op import every_op_plan
from loaded_model import Model
from numpy.typing import NDArray
from one_op import (
    CHANNELS,
    HEIGHT,
    ISAS,
    WIDTH,
    WINDOWS,
    Open,
    Window,
    binarized,
    binary_conv_plan,
    dots_of,
    finish,
    nhwc_plan,
    one_op,
    run,
    signs,
    small_integers,
)
from plan_builder import BITS, RUNTIME

from bindeploy import bits

BINARY_CONV = 2
"""The node of the binary convolution in `binary_conv_plan`."""


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_binary_conv_is_scale_times_dot_plus_bias(
    open_plan: Open, window: Window, channels: int, isa: str | None
) -> None:
    random = np.random.default_rng(channels)
    filters = CHANNELS[-1 - CHANNELS.index(channels)]
    x = random.standard_normal((HEIGHT, WIDTH, channels), np.float32)
    weights = signs(random, filters, *window.kernel, channels)
    scale, bias = random.standard_normal((2, filters), np.float32)
    scale[0] = 0
    for pad_value in (0, 1):
        vectors = (scale, bias)
        plan = binary_conv_plan(x, weights, vectors, window, pad_value=pad_value)
        model = open_plan(plan, isa)
        dots = dots_of(x, weights, window, pad_value)
        expected = scale * dots.astype(np.float32) + bias
        np.testing.assert_array_equal(run(model, x), expected)
        seen = model.integers(x.transpose(2, 0, 1), BINARY_CONV)
        np.testing.assert_array_equal(seen, dots)
        macs = expected.size * channels * window.kernel[0] * window.kernel[1]
        assert model.node(BINARY_CONV).macs == macs
        model.close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_binary_conv_threshold_compares_the_integers(
    open_plan: Open, window: Window, channels: int, isa: str | None
) -> None:
    random = np.random.default_rng(channels)
    filters = CHANNELS[-1 - CHANNELS.index(channels)]
    x = random.standard_normal((HEIGHT, WIDTH, channels), np.float32)
    weights = signs(random, filters, *window.kernel, channels)
    threshold = random.integers(-9, 10, filters, np.int32)
    threshold[random.permutation(filters)[: filters // 4]] = np.iinfo(np.int32).min
    threshold[random.permutation(filters)[: filters // 4]] = np.iinfo(np.int32).max
    direction = random.choice(np.array([-1, 1], np.int8), filters)
    for pad_value in (0, 1):
        vectors = (threshold, direction)
        plan = binary_conv_plan(x, weights, vectors, window, pad_value=pad_value)
        model = open_plan(plan, isa)
        dots = dots_of(x, weights, window, pad_value)
        positive = np.where(direction > 0, dots >= threshold, dots < threshold)
        np.testing.assert_array_equal(run(model, x), np.where(positive, 1.0, -1.0))
        seen = model.integers(x.transpose(2, 0, 1), BINARY_CONV)
        np.testing.assert_array_equal(seen, dots)
        model.close()


def test_bits_of_a_threshold_have_no_pad_bits(open_plan: Open) -> None:
    """A second convolution would count them: its rows are 33 channels in one word of 64."""
    random = np.random.default_rng(0)
    x = random.standard_normal((HEIGHT, WIDTH, 3), np.float32)
    first, second = signs(random, 33, 3, 3, 3), signs(random, 5, 3, 3, 33)
    window = Window()
    lowest = np.full(33, np.iinfo(np.int32).min, np.int32)
    plan, tensor = nhwc_plan(x)
    y = plan.activation("y", (1, HEIGHT, WIDTH, 33), BITS)
    z = plan.activation("z", (1, HEIGHT, WIDTH, 5))
    weights = plan.constant("first", bits.pack(first))
    vectors = (plan.constant("t", lowest), plan.constant("d", np.full(33, -1, np.int8)))
    inputs = (binarized(plan, tensor), weights, *vectors)
    plan.node("binary_conv_threshold", inputs, y, **window.settings())
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    weights = plan.constant("second", bits.pack(second))
    inputs = (y, weights, plan.constant("scale", ones), plan.constant("bias", zeros))
    model = open_plan(finish(plan, plan.node("binary_conv", inputs, z, **window.settings())))
    all_negative = np.full((HEIGHT, WIDTH, 33), -1.0, np.float32)
    np.testing.assert_array_equal(run(model, x), dots_of(all_negative, second, window, 1))


@pytest.mark.parametrize("isa", ISAS)
def test_more_pixels_than_one_chunk_of_row_pointers(open_plan: Open, isa: str | None) -> None:
    random = np.random.default_rng(1)
    window = Window()
    x = random.standard_normal((41, 37, 3), np.float32)
    weights = signs(random, 17, 3, 3, 3)
    vectors = (np.ones(17, np.float32), np.zeros(17, np.float32))
    model = open_plan(binary_conv_plan(x, weights, vectors, window, pad_value=0), isa)
    np.testing.assert_array_equal(run(model, x), dots_of(x, weights, window, 0))


def test_binary_conv_clamps(open_plan: Open) -> None:
    random = np.random.default_rng(2)
    x = random.standard_normal((HEIGHT, WIDTH, 64), np.float32)
    weights = signs(random, 9, 3, 3, 64)
    vectors = (np.ones(9, np.float32), np.zeros(9, np.float32))
    plan = binary_conv_plan(x, weights, vectors, Window(), minimum=-4.0, maximum=6.0)
    expected = np.clip(dots_of(x, weights, Window(), 1), -4, 6)
    np.testing.assert_array_equal(run(open_plan(plan), x), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_conv_and_binary_weight_conv(
    open_plan: Open, window: Window, channels: int, isa: str | None
) -> None:
    random = np.random.default_rng(channels)
    filters = CHANNELS[-1 - CHANNELS.index(channels)]
    x = small_integers(random, HEIGHT, WIDTH, channels)
    seen = window.patches(x, 0)
    out = (1, *seen.shape[:2], filters)
    scale, bias = random.standard_normal((2, filters), np.float32)
    for op in ("conv", "binary_weight_conv"):
        plan, tensor = nhwc_plan(x)
        of_floats = op == "conv"
        make = small_integers if of_floats else signs
        weights = make(random, filters, *window.kernel, channels)
        packed = weights if of_floats else bits.pack(weights)
        factors = () if of_floats else (plan.constant("scale", scale),)
        inputs = (tensor, plan.constant("weights", packed), *factors, plan.constant("bias", bias))
        y = plan.activation("y", out)
        plan.node(op, inputs, y, **window.settings(), minimum=-20.0, maximum=30.0)
        sums = np.einsum("hwklc,fklc->hwf", seen, weights)
        expected = (sums if of_floats else scale * sums) + bias
        model = open_plan(finish(plan, y), isa)
        np.testing.assert_array_equal(run(model, x), np.clip(expected, -20, 30))
        model.close()


FEW_CHANNELS = {
    "3x3": Window(),
    "7x7, stride 2": Window((7, 7), (2, 2), (3, 3, 3, 3)),
    "2x5, stride 4, all in the right pad": Window((2, 5), (1, 4), (1, 0, 0, 9)),
    "rows apart": Window((3, 3), (1, 3), (2, 4, 2, 0), (2, 1)),
    "wider than the input": Window((1, 30), (1, 1), (0, 29, 0, 7)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("window", FEW_CHANNELS.values(), ids=FEW_CHANNELS)
def test_taps_of_few_channels_are_padded_on_all_sides(
    open_plan: Open, window: Window, channels: int, isa: str | None
) -> None:
    """Several tiles in a row, so that some have no border, one, or two of different rows."""
    random = np.random.default_rng(channels)
    x = small_integers(random, 9, 26, channels)
    weights = small_integers(random, 17, *window.kernel, channels)
    bias = random.integers(-9, 9, 17).astype(np.float32)
    seen = window.patches(x, 0)
    plan, tensor = nhwc_plan(x)
    shape = (1, *seen.shape[:2], 17)
    inputs = (tensor, plan.constant("weights", weights), plan.constant("bias", bias))
    nothing = (tensor, plan.constant("nothing", 0 * weights), inputs[2])
    biases = plan.node("conv", nothing, plan.activation("biases", shape), **window.settings())
    y = plan.activation("y", shape)
    plan.node("conv", (*inputs, biases), y, **window.settings())
    expected = np.einsum("hwklc,fklc->hwf", seen, weights) + 2 * bias
    np.testing.assert_array_equal(run(open_plan(finish(plan, y), isa), x), expected)


POOLS = {
    "2x2": Window((2, 2), (2, 2), (0, 0, 0, 0)),
    "3x3, padded": Window((3, 3), (2, 2), (1, 1, 1, 1)),
    "3x2, asymmetric": Window((3, 2), (1, 3), (2, 0, 0, 1)),
    "whole": Window((HEIGHT, WIDTH), (1, 1), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", POOLS.values(), ids=POOLS)
def test_pools(open_plan: Open, window: Window, channels: int) -> None:
    random = np.random.default_rng(channels)
    x = small_integers(random, HEIGHT, WIDTH, channels)
    settings = window.settings() | {"dilations": (0, 0)}
    inside = window.patches(np.ones_like(x), 0)
    out = (*inside.shape[:2], channels)
    largest = window.patches(x, -np.inf).max((2, 3))
    np.testing.assert_array_equal(one_op(open_plan, "max_pool", x, out, **settings), largest)
    total = window.patches(x, 0).sum((2, 3))
    mean = one_op(open_plan, "average_pool", x, out, **settings)
    np.testing.assert_array_equal(mean, total / inside.sum((2, 3)))
    mean = one_op(open_plan, "average_pool", x, out, flags=1, **settings)
    np.testing.assert_array_equal(mean, total / np.float32(window.kernel[0] * window.kernel[1]))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", POOLS.values(), ids=POOLS)
def test_binary_max_pool_is_a_maximum_in_each_direction(
    open_plan: Open, window: Window, channels: int
) -> None:
    random = np.random.default_rng(channels)
    x = random.standard_normal((HEIGHT, WIDTH, channels), np.float32) + np.float32(0.8)
    direction = random.choice(np.array([-1, 1], np.int8), channels)
    x *= direction
    plan, tensor = nhwc_plan(x)
    expected = direction * window.patches(direction * bits.sign(x), -np.inf).max((2, 3))
    y = plan.activation("y", (1, *expected.shape), BITS)
    inputs = (binarized(plan, tensor), plan.constant("direction", direction))
    plan.node("binary_max_pool", inputs, y, **window.settings())
    np.testing.assert_array_equal(run(open_plan(finish(plan, y)), x), expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("isa", ISAS)
def test_a_sign_with_bounds_is_positive_between_them(
    open_plan: Open, channels: int, isa: str | None
) -> None:
    random = np.random.default_rng(channels)
    x = random.standard_normal((HEIGHT, WIDTH, channels), np.float32)
    special = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5])
    x.flat[::5] = random.choice(special, len(x.flat[::5]))
    lowest, highest = random.choice(np.float32([-np.inf, -0.5, 0, 0.5, np.inf]), (2, channels))
    plan, tensor = nhwc_plan(x)
    bounds = (plan.constant("lowest", lowest), plan.constant("highest", highest))
    signs = plan.activation("signs", (1, HEIGHT, WIDTH, channels), BITS)
    model = open_plan(finish(plan, plan.node("binarize", (tensor, *bounds), signs)), isa)
    expected = np.where((lowest <= x) & (x <= highest), 1, -1)
    np.testing.assert_array_equal(run(model, x), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_binarize_and_unpack(open_plan: Open, channels: int, isa: str | None) -> None:
    x = np.random.default_rng(channels).standard_normal((HEIGHT, WIDTH, channels), np.float32)
    x[0, 0, 0], x[0, 1, 0], x[0, 2, 0] = 0.0, -0.0, np.nan
    plan, tensor = nhwc_plan(x)
    model = open_plan(finish(plan, binarized(plan, tensor)), isa)
    np.testing.assert_array_equal(run(model, x), bits.sign(x))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 130), (33, 31, 1), (40, 37, 3), (6, 11, 65)])
def test_layouts_are_transposed_and_back(open_plan: Open, shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    plan, tensor = nhwc_plan(x)
    np.testing.assert_array_equal(run(open_plan(finish(plan, tensor)), x), x)


@pytest.mark.parametrize("channels", CHANNELS)
def test_affine_add_and_clip(open_plan: Open, channels: int) -> None:
    random = np.random.default_rng(channels)
    x = random.standard_normal((HEIGHT, WIDTH, channels), np.float32)
    scale, bias = random.standard_normal((2, channels), np.float32)
    limits = {"minimum": -0.75, "maximum": 1.25}
    for settings in ({}, limits):
        low, high = settings.get("minimum", -np.inf), settings.get("maximum", np.inf)
        got = one_op(open_plan, "affine", x, x.shape, scale, bias, **settings)
        np.testing.assert_array_equal(got, np.clip(scale * x + bias, low, high))
        got = one_op(open_plan, "clip", x, x.shape, **settings)
        np.testing.assert_array_equal(got, np.clip(x, low, high))
        plan, tensor = nhwc_plan(x)
        double = plan.activation("double", (1, *x.shape))
        plan.node("add", (tensor, tensor), double, **settings)
        got = run(open_plan(finish(plan, double)), x)
        np.testing.assert_array_equal(got, np.clip(x + x, low, high))


def halves(scale: np.float32) -> NDArray[np.float32]:
    """[H, W, C]: every half step from -140 to 140 and its two neighbours, zeros, the extremes."""
    half = np.arange(-280, 281, dtype=np.float32) / np.float32(2) * scale
    largest = np.float32(np.inf)
    special = np.array([0.0, -0.0, 1e-45, 1e30, -1e30, largest, -largest], np.float32)
    around = [half, np.nextafter(half, largest), np.nextafter(half, -largest), special]
    return np.concatenate(around).reshape(2, 5, -1)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 127, 3e-5, 7.3e4, 1e-39])
def test_quantize_int8_gives_the_nearest_integer_and_halves_the_even_one(
    open_plan: Open, contracting_library: ctypes.CDLL, tmp_path: Path, scale: float
) -> None:
    step = np.float32(scale)
    x = halves(step)
    with np.errstate(over="ignore"):
        integers = np.clip(np.rint(x / step), -128, 127).astype(np.int8)
    assert {-128, -3, 0, 127} <= set(integers.ravel().tolist())
    expected = integers.astype(np.float32) * step
    plan, tensor = nhwc_plan(x)
    y = plan.activation("y", (1, *x.shape))
    plan.node("quantize_int8", (tensor, plan.constant("scale", np.array([step]))), y)
    path = tmp_path / "model.bd"
    path.write_bytes(finish(plan, y))
    for model in (open_plan(path.read_bytes()), Model(contracting_library, path, None)):
        np.testing.assert_array_equal(run(model, x).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize(
    ("out", "strides", "pads", "offset"),
    [
        ((7, 5, 3), (1, 1), (0, 0), 0),
        ((4, 3, 8), (2, 2), (0, 0), 2),
        ((9, 8, 2), (1, 1), (1, 2), -1),
        ((5, 3, 3), (1, 1), (-2, -1), 0),
        ((2, 2, 4), (3, 4), (1, -6), 9),
        ((2, 2, 4), (1, 1), (0, 0), -3),
    ],
)
def test_crop_pad(
    open_plan: Open,
    out: tuple[int, int, int],
    strides: tuple[int, int],
    pads: tuple[int, int],
    offset: int,
) -> None:
    x = np.random.default_rng(0).standard_normal((HEIGHT, WIDTH, 3), np.float32)
    expected = np.zeros(out, np.float32)
    for index in np.ndindex(*out):
        row, column = (index[axis] * strides[axis] - pads[axis] for axis in (0, 1))
        channel = index[2] - offset
        if 0 <= row < HEIGHT and 0 <= column < WIDTH and 0 <= channel < 3:
            expected[index] = x[row, column, channel]
    settings = {"strides": strides, "pads": (*pads, 0, 0), "channel_offset": offset}
    np.testing.assert_array_equal(one_op(open_plan, "crop_pad", x, out, **settings), expected)


X86_FLAGS = {"avx2": " avx2 ", "avx512": " avx512_vpopcntdq "}
"""What Linux calls the instruction sets of kernels that only some CPUs have."""


@pytest.mark.parametrize("isa", [*ISAS, *X86_FLAGS])
def test_scale_and_bias_are_never_fused(
    contracting_library: ctypes.CDLL, tmp_path: Path, isa: str | None
) -> None:
    """With bias = -round(scale * dot) the rounded sum is 0 and the fused one is not."""
    if isa in X86_FLAGS and X86_FLAGS[isa] not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this CPU has no {isa}")
    scale = np.random.default_rng(3).standard_normal(64, np.float32)
    x = np.full((1, 1, 64), 3.0, np.float32)
    weights = np.ones((64, 1, 1, 64), np.float32)
    weights[:, 0, 0, :29] = -1
    bias_of = {"binary_conv": 64 - 2 * 29, "binary_weight_conv": 3 * (64 - 2 * 29), "affine": 3}
    for op, total in bias_of.items():
        plan, tensor = nhwc_plan(x)
        inputs = [
            plan.constant("weights", bits.pack(weights)),
            plan.constant("scale", scale),
            plan.constant("bias", -(scale * np.float32(total))),
        ]
        source = binarized(plan, tensor) if op == "binary_conv" else tensor
        y = plan.activation("y", (1, 1, 1, 64))
        plan.node(op, (source, *(inputs[1:] if op == "affine" else inputs)), y)
        path = tmp_path / f"{op}.bd"
        path.write_bytes(finish(plan, y))
        model = Model(contracting_library, path, isa)
        np.testing.assert_array_equal(run(model, x), np.zeros((1, 1, 64)), err_msg=op)


def test_description_and_nodes(open_plan: Open, library: ctypes.CDLL) -> None:
    random = np.random.default_rng(4)
    x = random.standard_normal((HEIGHT, WIDTH, 65), np.float32)
    weights = signs(random, 64, 3, 3, 65)
    vectors = (np.ones(64, np.float32), np.zeros(64, np.float32))
    plan = binary_conv_plan(x, weights, vectors, Window(), name="layer1.conv")
    model = open_plan(plan, "scalar")
    about = model.describe()
    assert tuple(about.input_shape) == (1, 65, HEIGHT, WIDTH)
    assert tuple(about.output_shape) == (1, 64, HEIGHT, WIDTH)
    assert (about.input_name, about.output_name) == (b"input", b"output")
    assert about.node_count == 4
    assert about.plan_bytes == len(plan)
    assert about.weights_bytes == 64 * math.ceil(65 * 9 / 64) * 8
    node = model.node(BINARY_CONV)
    assert (node.name, node.op) == (b"layer1.conv", b"binary_conv")
    assert node.kernel.endswith(b"__scalar")
    assert model.node(0).kernel == b""
    assert tuple(node.output_shape) == (1, HEIGHT, WIDTH, 64)
    run(model, x)
    assert model.node(BINARY_CONV).nanoseconds == 0
    library.bd_profile(model.handle, 1)
    run(model, x)
    assert model.node(BINARY_CONV).nanoseconds > 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("size", "op"), [(1, b"bd_bgemv_"), (2, b"bd_bgemm_")])
def test_a_layer_of_one_pixel_has_a_kernel_of_one_pixel(
    open_plan: Open, size: int, op: bytes, isa: str | None
) -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal((1, size, 70), np.float32)
    weights = signs(random, 21, 1, 1, 70)
    vectors = (np.ones(21, np.float32), np.zeros(21, np.float32))
    window = WINDOWS["1x1"]
    model = open_plan(binary_conv_plan(x, weights, vectors, window), isa)
    assert model.node(BINARY_CONV).kernel.startswith(op)
    np.testing.assert_array_equal(run(model, x), dots_of(x, weights, window, 1))


def test_a_run_allocates_nothing(tmp_path: Path) -> None:
    wrapped = ("malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign", "free", "mmap")
    wraps = [f"-Wl,--wrap={name}" for name in wrapped]
    sources = [*SOURCES, str(RUNTIME / "test/count_allocations.c")]
    program = build(tmp_path / "count_allocations", sources, "-O1", *wraps)
    path = tmp_path / "model.bd"
    path.write_bytes(every_op_plan())
    result = subprocess.run([program, path], check=True, capture_output=True, text=True)
    load, runs = map(int, result.stdout.split())
    assert load > 0
    assert runs == 0
