"""Layers that give floats, each with whatever stands before its residual."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from loaded_model import Model
from numpy.typing import NDArray
from plan_builder import BITS, Plan

from bindeploy import bits

Open = Callable[..., Model]
Normal = Callable[..., NDArray[np.float32]]
PADDED = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
HEIGHT, WIDTH = 7, 5

LAYERS = (
    "binary_conv",
    "binary_conv, two maps",
    "binary_weight_conv",
    "conv",
    "binary_weight_int8_conv",
    "int8_conv",
    "saturating_conv",
)
"""Each has as its last inputs a residual, a rectifier and a scale to round by."""


def numbers() -> Normal:
    """A function of a shape; each of these functions gives the same numbers."""
    random = np.random.default_rng(0)
    return lambda *shape: random.standard_normal(shape, np.float32)


def layer_inputs(
    plan: Plan, layer: str, x: int, filters: int, depth: int, normal: Normal
) -> list[int]:
    """All inputs of a layer before its residual."""
    op, _, maps = layer.partition(", ")
    weights = normal(filters, 3, 3, depth)
    if op in ("binary_conv", "saturating_conv"):
        signs = plan.activation("signs", plan.tensors[x].shape, BITS)
        x = plan.node("binarize", (x,), signs)
    if "binary" in op or "saturating" in op:
        packed = plan.constant("bits", bits.pack(weights))
    elif op == "conv":
        packed = plan.constant("weights", weights)
    else:
        packed = plan.constant("weights", np.rint(40 * weights).clip(-128, 127).astype(np.int8))
    inputs = [x, packed]
    if "int8" in op:
        inputs.append(plan.constant("input_scale", np.array([0.02], np.float32)))
    length = 2 * filters if maps else filters
    if op != "conv":
        inputs.append(plan.constant("scale", normal(length)))
    return [*inputs, plan.constant("bias", normal(length))]
