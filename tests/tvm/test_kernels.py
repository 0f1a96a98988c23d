"""What stands between layers: pools, moves and functions of numbers, NHWC or as ONNX has them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from bindeploy import bits
from bindeploy.convert import dialect

RANDOM = np.random.default_rng(2)


def drawn(*shape: int) -> np.ndarray:
    """Zeros of both signs and NaN among normal floats."""
    x = RANDOM.normal(size=shape).astype(np.float32)
    for every, value in ((5, 0.0), (7, -0.0), (23, np.nan)):
        x.reshape(-1)[::every] = value
    return x


@pytest.fixture
def same(drawing, compile_model):
    """A function: run what was drawn; every output is what ONNX's evaluator computes."""

    def check(inputs, *processor, **tolerance):
        model = drawing.model()
        names = [value.name for value in model.graph.input]
        evaluator = ReferenceEvaluator(model, new_ops=dialect.REFERENCE_OPS)
        expected = evaluator.run(None, dict(zip(names, inputs, strict=True)))
        for found, wanted in zip(compile_model(model, *processor)(*inputs), expected, strict=True):
            np.testing.assert_allclose(found, wanted, **{"rtol": 0, "atol": 0, **tolerance})

    return check


def layer(drawing, x: str, channels: int, filters: int) -> str:
    """A layer of ours, after which a picture exists as NHWC; its numbers are eighths."""
    weight = RANDOM.choice([-1.0, 1.0], (filters, 1, 1, channels))
    window = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "pad_value": 1.0}
    constants = (
        bits.pack(weight),
        np.full(filters, 0.125, np.float32),
        RANDOM.integers(-9, 9, filters).astype(np.float32) / 8,
    )
    return drawing.node(
        *("BinaryConv2d", x, *constants),
        **{"domain": "bindeploy", "channels": channels, "group": 1, **window},
    )


@pytest.mark.parametrize("channels", [3, 33, 48, 64])
def test_signs_and_their_pools(channels, processor, drawing, same):
    x = drawing.input((1, channels, 6, 7))
    direction = RANDOM.choice([-1, 1], channels).astype(np.int8)
    drawing.output(drawing.node("BinarySign", x, domain="bindeploy.latent"))
    for kernel, strides, pads in (((2, 3), (2, 1), (0,) * 4), ((3, 3), (2, 2), (1, 0, 1, 2))):
        window = {"kernel_shape": kernel, "strides": strides, "pads": pads}
        drawing.output(drawing.node("BinaryMaxPool2d", x, direction, domain="bindeploy", **window))
    same([drawn(1, channels, 6, 7)], processor)


def test_signs_of_rows_and_of_batches(processor, drawing, same):
    shapes = ((1, 37), (1, 5, 33), (2, 3, 4, 5))
    for shape in shapes:
        made = drawing.node("BinarySign", drawing.input(shape), domain="bindeploy.latent")
        drawing.output(made)
    same([drawn(*shape) for shape in shapes], processor)


@pytest.mark.parametrize("channels", [5, 48])
def test_pools_of_floats(channels, processor, drawing, same):
    x = drawing.input((1, channels, 8, 7))
    for op, more in (
        ("MaxPool", {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ("MaxPool", {"kernel_shape": (2, 2), "dilations": (2, 3)}),
        ("MaxPool", {"kernel_shape": (3, 2), "strides": (2, 2), "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": (2, 4), "strides": (1, 2), "pads": (1, 0, 0, 1)}),
        ("AveragePool", {"kernel_shape": (3, 3), "pads": (1,) * 4, "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
    ):
        drawing.output(drawing.node(op, x, **more))
    drawing.output(drawing.node("ReduceMean", x, np.array([2, 3]), keepdims=0))
    same([RANDOM.normal(size=(1, channels, 8, 7)).astype(np.float32)], processor, atol=1e-6)


def test_a_sum_that_a_layer_takes_in_and_its_bounds(processor, drawing, same):
    x = drawing.input((1, 40, 3, 5))
    left, right = layer(drawing, x, 40, 40), layer(drawing, x, 40, 40)
    drawing.output(drawing.node("Add", [drawing.node("Relu", left), right]))
    drawing.output(drawing.node("Clip", layer(drawing, x, 40, 7), np.float32(-1), np.float32(0.5)))
    drawing.output(drawing.node("Add", [left, x]))
    same([drawn(1, 40, 3, 5)], processor)


def test_pictures_stay_as_they_are_through_moves(processor, drawing, same):
    x = drawing.input((1, 6, 4, 7))
    y, z = layer(drawing, x, 6, 5), layer(drawing, x, 6, 32)
    drawing.output(drawing.node("Concat", [y, z], axis=1))
    drawing.output(drawing.node("Concat", [y, y], axis=-1))
    ends = (np.array([4, 7]), np.array([2, 3]), np.array([2, 3]))
    drawing.output(drawing.node("Slice", z, np.array([0, 1]), *ends))
    drawing.output(drawing.node("Slice", z, np.array([3]), np.array([-1]), np.array([1])))
    drawing.output(drawing.node("Pad", y, np.array([0, 2, 0, 1, 0, 1, 3, 0]), np.float32(0.5)))
    drawing.output(drawing.node("Pad", y, np.array([0, 0, 1, 1, 0, 0, 2, 1]), mode="reflect"))
    drawing.output(drawing.node("DepthToSpace", z, blocksize=4))
    drawing.output(drawing.node("Transpose", y, perm=(0, 2, 1, 3)))
    drawing.output(drawing.node("Flatten", y))
    same([drawn(1, 6, 4, 7)], processor)


def test_functions_of_numbers(processor, drawing, same):
    x = drawing.input((1, 6, 3, 5))
    y = layer(drawing, x, 6, 20)
    for op in ("Erf", "Exp", "Tanh", "Gelu", "Sigmoid", "HardSwish", "LeakyRelu", "Neg"):
        drawing.output(drawing.node(op, y))
        drawing.output(drawing.node(op, x))
    slope = RANDOM.normal(size=(20, 1, 1)).astype(np.float32)
    drawing.output(drawing.node("PRelu", y, slope))
    drawing.output(drawing.node("Mul", y, slope))
    drawing.output(drawing.node("Softmax", x, axis=-1))
    drawing.output(drawing.node("Softmax", y, axis=1))
    statistics = (RANDOM.uniform(0.5, 2, 20).astype(np.float32) for _ in range(4))
    drawing.output(drawing.node("BatchNormalization", y, *statistics))
    image = RANDOM.normal(size=(1, 6, 3, 5)).astype(np.float32)
    same([image], processor, rtol=2e-6, atol=2e-6)


def test_rows_of_a_transformer(processor, drawing, same):
    x, y = drawing.input((1, 3, 19, 8)), drawing.input((1, 3, 8, 21))
    drawing.output(drawing.node("MatMul", [x, y]))
    drawing.output(drawing.node("MatMul", [drawing.input((2, 5, 4)), drawing.input((2, 4, 1))]))
    rows = drawing.input((1, 5, 33))
    scale, bias = (RANDOM.normal(size=33).astype(np.float32) for _ in range(2))
    drawing.output(drawing.node("LayerNormalization", rows, scale, bias, axis=-1))
    matrix = RANDOM.normal(size=(33, 10)).astype(np.float32)
    drawing.output(drawing.node("MatMul", rows, matrix))
    shapes = ((1, 3, 19, 8), (1, 3, 8, 21), (2, 5, 4), (2, 4, 1), (1, 5, 33))
    images = [RANDOM.normal(size=shape).astype(np.float32) for shape in shapes]
    same(images, processor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 6])
def test_convolutions_of_floats(group, processor, drawing, same):
    x = drawing.input((1, 6, 5, 7))
    weight = RANDOM.integers(-8, 8, (18, 6 // group, 3, 2)).astype(np.float32)
    window = {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 2, 1), "group": group}
    drawing.output(drawing.node("Conv", x, weight, np.ones(18, np.float32), **window))
    drawing.output(drawing.node("Conv", x, weight, group=group))
    y, own = drawing.input((1, 40, 4, 3)), weight[:1, :1].repeat(40, 0)
    drawing.output(drawing.node("Conv", y, own, group=40))
    shapes = ((1, 6, 5, 7), (1, 40, 4, 3))
    same([RANDOM.integers(-8, 8, shape).astype(np.float32) for shape in shapes], processor)


def test_activations_of_8_bits(processor, drawing, same):
    x = drawing.input((1, 6, 3, 5))
    for source in (x, layer(drawing, x, 6, 20)):
        scale, zero = np.float32(0.25), np.int8(0)
        quantized = drawing.node("QuantizeLinear", source, scale, zero)
        drawing.output(drawing.node("DequantizeLinear", quantized, scale, zero))
    halves = RANDOM.integers(-800, 800, (1, 6, 3, 5)).astype(np.float32) / 8
    same([halves], processor)


def test_sums_beyond_24_bits_are_the_nearest_float(drawing, same):
    x = drawing.input((1, 3000))
    weight = np.full((2, 3000), 127, np.int8)
    weight[1, 0] = 126
    vectors = np.float32([1.0, 1.0]), np.float32([0.0, 0.0])
    constants = (weight, np.float32(0.5), *vectors)
    drawing.output(drawing.node("Int8Linear", x, *constants, domain="bindeploy"))
    image = np.full((1, 3000), 63.5, np.float32)
    image[0, :3] = 0.25, 0.75, np.nan
    same([image])
