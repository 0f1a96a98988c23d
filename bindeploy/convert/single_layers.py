"""Models of one convolution, in bits, float32 and int8: what single kernels are timed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bindeploy import bits
from bindeploy.errors import BindeployError

Constants = dict[str, NDArray[Any] | np.generic]


@dataclass(frozen=True)
class Shape:
    """A square-padded convolution: H x W x C input, F filters of KH x KW, with a stride."""

    height: int
    width: int
    channels: int
    filters: int
    kernel: tuple[int, int]
    stride: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read `HxWxCxF:KxK[:stride]`, as in `14x14x256x256:3x3`."""
        try:
            sizes, kernel, *stride = text.split(":")
            height, width, channels, filters = map(int, sizes.split("x"))
            kernel_height, kernel_width = map(int, kernel.split("x"))
            (step,) = map(int, stride or ["1"])
        except ValueError:
            raise BindeployError(
                f"`{text}` is no shape: write HxWxCxF:KxK[:stride], as in 14x14x256x256:3x3"
            ) from None
        numbers = (height, width, channels, filters, kernel_height, kernel_width, step)
        if min(numbers) < 1 or max(numbers) > 4096:
            raise BindeployError(f"`{text}` is no shape: every number lies between 1 and 4096")
        return cls(height, width, channels, filters, (kernel_height, kernel_width), step)

    @property
    def pads(self) -> list[int]:
        """Top, left, bottom, right: half the kernel on each side."""
        return [self.kernel[0] // 2, self.kernel[1] // 2] * 2

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (1, self.channels, self.height, self.width)


def binary_layer(shape: Shape) -> onnx.ModelProto:
    """A packed model of one binary convolution with random bits, scale and bias."""
    generator = np.random.default_rng(1)
    signs = generator.choice([-1, 1], (shape.filters, *shape.kernel, shape.channels))
    constants: Constants = {
        "bits": bits.pack(signs),
        "scale": generator.uniform(0.01, 0.1, shape.filters).astype(np.float32),
        "bias": generator.standard_normal(shape.filters).astype(np.float32),
    }
    return _binary_node(shape, "BinaryConv2d", constants)


def threshold_layer(shape: Shape) -> onnx.ModelProto:
    """The same with thresholds and directions: its output is bits, seen as +-1."""
    generator = np.random.default_rng(1)
    signs = generator.choice([-1, 1], (shape.filters, *shape.kernel, shape.channels))
    constants: Constants = {
        "bits": bits.pack(signs),
        "threshold": generator.integers(-20, 20, shape.filters).astype(np.int32),
        "direction": generator.choice(np.array([-1, 1], np.int8), shape.filters),
    }
    return _binary_node(shape, "BinaryConv2dThreshold", constants)


def float_layer(shape: Shape) -> onnx.ModelProto:
    """The same convolution in float32, with a bias."""
    generator = np.random.default_rng(1)
    weights = (shape.filters, shape.channels, *shape.kernel)
    constants: Constants = {
        "w": generator.standard_normal(weights, dtype=np.float32),
        "bias": generator.standard_normal(shape.filters, dtype=np.float32),
    }
    return _one_node(shape, "Conv", constants)


def int8_layer(shape: Shape) -> onnx.ModelProto:
    """The same convolution in int8: uint8 activations, int8 weights, per-tensor scales."""
    generator = np.random.default_rng(1)
    weights = (shape.filters, shape.channels, *shape.kernel)
    constants: Constants = {
        "x_scale": np.float32(1 / 32),
        "x_zero": np.uint8(128),
        "w": generator.integers(-127, 128, weights).astype(np.int8),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
        "y_scale": np.float32(1.0),
        "y_zero": np.uint8(128),
    }
    return _one_node(shape, "QLinearConv", constants, element=TensorProto.UINT8)


def nothing() -> onnx.ModelProto:
    """A model that hands on one number: what calling an engine costs by itself."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "nothing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _binary_node(shape: Shape, op: str, constants: Constants) -> onnx.ModelProto:
    return _one_node(
        shape,
        op,
        constants,
        domain="bindeploy",
        channels=shape.channels,
        group=1,
        pad_value=1.0,
        dilations=[1, 1],
    )


def _one_node(
    shape: Shape,
    op: str,
    constants: Constants,
    domain: str = "",
    element: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """ONNX model of a single convolution node: input `x` NCHW, then the constants, output `y`."""
    node = helper.make_node(
        op,
        ["x", *constants],
        ["y"],
        "conv",
        domain=domain,
        strides=[shape.stride] * 2,
        pads=shape.pads,
        **attributes,
    )
    height, width = (
        (size + 2 * (kernel // 2) - kernel) // shape.stride + 1
        for size, kernel in zip((shape.height, shape.width), shape.kernel, strict=True)
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", element, shape.input_shape)],
        [helper.make_tensor_value_info("y", element, (1, shape.filters, height, width))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    domains = {"": 20} | ({domain: 1} if domain else {})
    opsets = [helper.make_opsetid(name, version) for name, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
