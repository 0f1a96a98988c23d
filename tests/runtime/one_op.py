"""Plans that hold one op and little else, and what numpy says of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loaded_model import Model
from numpy.typing import NDArray
from plan_builder import BITS, F32, Plan

from bindeploy import bits

Open = Callable[..., Model]
CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
ISAS = (None, "scalar", *(["avx2"] if " avx2 " in CPU else []))
"""The fastest of this machine, the slowest, and what lies between."""
CHANNELS = (1, 3, 31, 32, 33, 63, 64, 65, 130)


@dataclass(frozen=True)
class Window:
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)

    def over(self, size: int, axis: int) -> int:
        reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return (size + self.pads[axis] + self.pads[axis + 2] - reach) // self.strides[axis] + 1

    def patches(self, x: NDArray, pad_value: float) -> NDArray:
        """x [H, W, C] -> [H', W', KH, KW, C]: what each output pixel sees."""
        top, left, bottom, right = self.pads
        padded = np.pad(
            x,
            ((top, bottom), (left, right), (0, 0)),
            constant_values=np.asarray(pad_value, x.dtype),
        )
        rows = np.arange(self.over(x.shape[0], 0))[:, None] * self.strides[0]
        rows = rows + np.arange(self.kernel[0]) * self.dilations[0]
        columns = np.arange(self.over(x.shape[1], 1))[:, None] * self.strides[1]
        columns = columns + np.arange(self.kernel[1]) * self.dilations[1]
        return padded[rows[:, None, :, None], columns[None, :, None, :]]

    def settings(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("kernel", "strides", "pads", "dilations")}


WINDOWS = {
    "1x1": Window((1, 1), pads=(0, 0, 0, 0)),
    "3x3": Window(),
    "5x5": Window((5, 5), pads=(2, 2, 2, 2)),
    "stride 2": Window(strides=(2, 2)),
    "stride 2x3, asymmetric pads": Window(strides=(2, 3), pads=(0, 2, 1, 0)),
    "dilation 2": Window(dilations=(2, 2), pads=(2, 2, 2, 2)),
    "2x4, dilation 3x1, asymmetric pads": Window((2, 4), pads=(3, 0, 1, 3), dilations=(3, 1)),
    "1x2, pads beyond the kernel": Window((1, 2), pads=(2, 3, 1, 6)),
    "as large as the input": Window((7, 5), pads=(0, 0, 0, 0)),
}
HEIGHT, WIDTH = 7, 5


def signs(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.choice(np.array([-1, 1], np.float32), shape)


def small_integers(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Floats whose sums of products are exact in any order."""
    return random.integers(-8, 9, shape).astype(np.float32)


def nhwc_plan(x: NDArray[np.float32]) -> tuple[Plan, int]:
    """A plan that begins with x [H, W, C] as NHWC, and that tensor."""
    height, width, channels = x.shape
    plan = Plan()
    plan.input = plan.activation("input", (1, channels, height, width))
    tensor = plan.activation("x", (1, height, width, channels))
    return plan, plan.node("to_nhwc", (plan.input,), tensor)


def finish(plan: Plan, tensor: int) -> bytes:
    """Ends the plan with `tensor` as the output, unpacked if it is bits."""
    _, height, width, channels = plan.tensors[tensor].shape
    if plan.tensors[tensor].type == BITS:
        floats = plan.activation("floats", (1, height, width, channels))
        tensor = plan.node("unpack", (tensor,), floats)
    plan.output = plan.activation("output", (1, channels, height, width))
    plan.node("to_nchw", (tensor,), plan.output)
    return plan.to_bytes()


def run(model: Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output [H, W, C] for x [H, W, C]."""
    return model.run(x.transpose(2, 0, 1))[0].transpose(1, 2, 0)


def binarized(plan: Plan, tensor: int) -> int:
    shape = plan.tensors[tensor].shape
    return plan.node("binarize", (tensor,), plan.activation("bits", shape, BITS))


def binary_conv_plan(
    x: NDArray,
    weights: NDArray,
    vectors: tuple[NDArray, NDArray],
    window: Window,
    **settings: object,
) -> bytes:
    """binarize, then binary_conv or, where the first vector is int32, binary_conv_threshold."""
    plan, tensor = nhwc_plan(x)
    threshold = vectors[0].dtype == np.int32
    out = (1, window.over(x.shape[0], 0), window.over(x.shape[1], 1), len(weights))
    inputs = (
        binarized(plan, tensor),
        plan.constant("weights", bits.pack(weights)),
        plan.constant("first", vectors[0]),
        plan.constant("second", vectors[1]),
    )
    y = plan.activation("y", out, BITS if threshold else F32)
    op = "binary_conv_threshold" if threshold else "binary_conv"
    return finish(plan, plan.node(op, inputs, y, **window.settings(), **settings))


def dots_of(x: NDArray, weights: NDArray, window: Window, pad_value: float) -> NDArray[np.int32]:
    """[H', W', F] of sign(x) with +-1 weights."""
    seen = window.patches(bits.sign(x), pad_value)
    return np.einsum("hwklc,fklc->hwf", seen.astype(np.int32), weights.astype(np.int32))


def one_op(
    open_plan: Open,
    op: str,
    x: NDArray,
    out: tuple[int, ...],
    *constants: NDArray,
    **settings: object,
) -> NDArray[np.float32]:
    """The output [H, W, C] of a plan with `op` alone on x [H, W, C]."""
    plan, tensor = nhwc_plan(x)
    inputs = tuple(plan.constant(f"constant{i}", array) for i, array in enumerate(constants))
    y = plan.activation("y", (1, *out))
    return run(open_plan(finish(plan, plan.node(op, (tensor, *inputs), y, **settings))), x)
