"""One small plan that holds every op, for tests of the loader and of whole runs."""

from __future__ import annotations

import numpy as np
from plan_builder import BITS, F32, I8, OPCODES, Plan

from bindeploy import bits

CHANNELS = 33


def every_op_plan(side: int = 6) -> bytes:
    """input [1, 3, side, side], side a multiple of 6 -> output [1, 5, 1, 1]."""
    middle = side // 2
    random = np.random.default_rng(0)
    plan = Plan()
    plan.input = plan.activation("input", (1, 3, side, side))
    wide = (1, side, side, CHANNELS)
    half = (1, middle, middle, CHANNELS)

    def vector(name: str, length: int) -> int:
        return plan.constant(name, random.standard_normal(length, np.float32))

    def directions(name: str) -> int:
        return plan.constant(name, random.choice(np.array([-1, 1], np.int8), CHANNELS))

    def packed(name: str, *shape: int) -> int:
        return plan.constant(name, bits.pack(random.standard_normal(shape)))

    def step(
        op: str, inputs: tuple[int | None, ...], shape: tuple[int, ...], **settings: object
    ) -> int:
        kind = BITS if settings.pop("to_bits", False) else F32
        kind = I8 if settings.pop("to_integers", False) else kind
        return plan.node(op, inputs, plan.activation(f"{op}.y", shape, kind), **settings)

    padded = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    pool = {"kernel": (2, 2), "strides": (2, 2)}
    x = step("to_nhwc", (plan.input,), (1, side, side, 3))
    ends = (plan.constant("above", np.zeros(3, np.float32)), vector("below", 3))
    planes = step("binarize_planes", (plan.input, *ends), (1, side, side, 3), to_bits=True)
    x = step("add", (x, step("unpack", (planes,), (1, side, side, 3))), (1, side, side, 3))
    weights = packed("stem.bits", CHANNELS, 3, 3, 3)
    step_size = plan.constant("stem.step", np.array([0.02], np.float32))
    quantized = step("quantize_int8", (x, step_size), (1, side, side, 3))
    stem = (quantized, weights, vector("stem.scale", CHANNELS), vector("stem.bias", CHANNELS))
    rectifier = vector("rectifier", 3 * CHANNELS)
    floats = step("binary_weight_conv", (*stem, None, rectifier), wide, **padded)
    whole = (floats, packed("whole.bits", CHANNELS, 3, 3, CHANNELS), step_size, *stem[2:])
    rounded = (*whole, None, None, step_size)
    rounded = step("binary_weight_int8_conv", rounded, wide, to_integers=True, **padded)
    whole = (rounded, *whole[1:], floats, rectifier)
    floats = step("binary_weight_int8_conv", whole, wide, **padded)
    lowest = plan.constant("lowest", np.full(CHANNELS, -0.5, np.float32))
    within = (floats, lowest, vector("highest", CHANNELS))
    signs = step("binarize", within, wide, to_bits=True)
    thresholds = plan.constant("thresholds", random.integers(-9, 9, CHANNELS, np.int32))
    inputs = (signs, packed("first.bits", CHANNELS, 3, 3, CHANNELS), thresholds, directions("d1"))
    signs = step("binary_conv_threshold", inputs, wide, to_bits=True, pad_value=0, **padded)
    signs = step("binary_max_pool", (signs, directions("d2")), half, to_bits=True, **pool)
    weights = packed("second.bits", CHANNELS, 3, 3, CHANNELS)
    second = (signs, weights, vector("second.scale", CHANNELS), vector("second.bias", CHANNELS))
    shortcut = step("crop_pad", (x,), half, strides=(2, 2), channel_offset=15)
    y = step("binary_conv", (*second, shortcut, rectifier), half, **padded)
    maps = (vector(f"third.{name}", 2 * CHANNELS) for name in ("scales", "biases"))
    grouped = (signs, packed("third.bits", CHANNELS, 3, 3, 11), *maps, None, rectifier)
    y = step("add", (y, step("binary_conv", grouped, half, group=3, pad_value=0, **padded)), half)
    narrow = (signs, packed("narrow.bits", CHANNELS, 3, 3, CHANNELS), thresholds, directions("d4"))
    signs = step("saturating_conv_threshold", narrow, half, to_bits=True, pad_value=0, **padded)
    narrow = (signs, packed("narrower.bits", CHANNELS, 3, 3, 11), *second[2:], y)
    y = step("saturating_conv", narrow, half, group=3, **padded)
    depthwise = (signs, packed("fourth.bits", CHANNELS, 3, 3, 1), *second[2:], y)
    y = step("binary_conv", depthwise, half, group=CHANNELS, **padded)
    each = plan.constant("fifth", random.standard_normal((CHANNELS, 3, 3, 1), np.float32))
    y = step("conv", (y, each, second[3], None, rectifier), half, group=CHANNELS, **padded)
    y = step("affine", (y, vector("scale", CHANNELS), vector("bias", CHANNELS)), half)
    shift = vector("shift", middle * middle * CHANNELS)
    y = step("prelu", (y, vector("slope", middle * middle * CHANNELS), None, shift), half)
    y = step("clip", (y,), half, minimum=-2.0, maximum=2.0)
    deep = step("space_to_depth", (y,), (1, middle // 3, middle, 3 * CHANNELS), kernel=(3, 1))
    deep = step("concat", (deep, deep), (1, middle // 3, middle, 6 * CHANNELS))
    y = step("depth_to_space", (deep,), (1, middle, middle, 2 * CHANNELS), kernel=(3, 1), flags=1)
    y = step("crop_pad", (y,), half, channel_offset=-CHANNELS)
    integers = random.integers(-127, 128, (CHANNELS, 3, 3, 11)).astype(np.int8)
    int8 = (y, plan.constant("sixth", integers), step_size, *second[2:])
    y = step("int8_conv", (*int8, y, rectifier), half, group=3, **padded)
    rounded = (y, *int8[1:], None, rectifier, step_size)
    rounded = step("int8_conv", rounded, half, to_integers=True, group=3, **padded)
    compared = (rounded, *int8[1:3], thresholds, directions("d3"))
    signs = step("int8_conv_threshold", compared, half, to_bits=True, group=3, **padded)
    y = step("add", (y, step("unpack", (signs,), half)), half)
    tokens, width = middle * middle, CHANNELS // 3
    one = plan.constant("one", np.array([0.25], np.float32))
    y = step("layer_norm", (y, vector("gamma", CHANNELS), vector("beta", CHANNELS), one), half)
    by_keys = (3, tokens, width, tokens, 0, width, CHANNELS, 0, width, 1, CHANNELS)
    keys = plan.constant("by_keys", np.array((*by_keys, tokens * tokens, tokens), np.int32))
    weights = step("matmul", (y, y, keys, one), (1, 3, tokens, tokens))
    weights = step("softmax", (weights, one), (1, 3, tokens, tokens))
    by_values = (3, tokens, tokens, width, 0, tokens * tokens, tokens, 0, width, CHANNELS, 1)
    values = plan.constant("by_values", np.array((*by_values, width, CHANNELS), np.int32))
    y = step("matmul", (weights, y, values, one), half)
    turned = (1, 1, 1, CHANNELS, middle, middle, 0, 0, 0, 1, CHANNELS, middle * CHANNELS, 0)
    order = plan.constant("turned", np.array(turned, np.int32))
    y = step("rearrange", (y, order, one), half)
    for function in ("gelu", "gelu_tanh", "silu", "hard_swish", "sigmoid", "tanh", "erf"):
        y = step(function, (y,), half)
    y = step("max_pool", (y,), half, **padded)
    y = step("average_pool", (y,), (1, 1, 1, CHANNELS), kernel=(middle, middle))
    dense = plan.constant("dense", random.standard_normal((5, 1, 1, CHANNELS), np.float32))
    y = step("conv", (y, dense, vector("dense.bias", 5)), (1, 1, 1, 5))
    plan.output = step("to_nchw", (y,), (1, 5, 1, 1))
    assert {node.op for node in plan.nodes} == set(OPCODES)
    return plan.to_bytes()
