"""Convolutions in groups: plans of one, and what numpy says of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from one_op import Window, binarized, nhwc_plan
from plan_builder import BITS, F32, Plan

GROUPS = {
    "2 of 3 and 5": (2, 3, 5),
    "3 of 11 and 1": (3, 11, 1),
    "5 of 13 and 23": (5, 13, 23),
    "2 of 64 and 32": (2, 64, 32),
    "3 of 32 and 22": (3, 32, 22),
    "2 of 100 and 9": (2, 100, 9),
    "7 of 1 and 3": (7, 1, 3),
    "depthwise, 3": (3, 1, 1),
    "depthwise, 64": (64, 1, 1),
    "depthwise, 131": (131, 1, 1),
}
"""Groups, channels and filters of each."""


def convolved(seen: NDArray, weights: NDArray, group: int, dtype: type) -> NDArray:
    """[H', W', F] of what pixels see [H', W', KH, KW, C] with weights [F, KH, KW, C / group]."""
    split = seen.reshape(*seen.shape[:4], group, -1).astype(dtype)
    filters = weights.reshape(group, -1, *weights.shape[1:]).astype(dtype)
    sums = np.einsum("hwklgc,gfklc->hwgf", split, filters)
    return sums.reshape(*sums.shape[:2], -1)


def layer(
    op: str,
    x: NDArray,
    constants: tuple[NDArray, ...],
    window: Window,
    residual: bool = False,
    **settings: object,
) -> tuple[Plan, int]:
    """`op` on x [H, W, C], and its output; the residual is a padded part of x."""
    plan, tensor = nhwc_plan(x)
    filters = len(constants[0])
    out = (1, window.over(x.shape[0], 0), window.over(x.shape[1], 1), filters)
    inputs = [tensor if op in ("conv", "binary_weight_conv") else binarized(plan, tensor)]
    inputs += [plan.constant(f"constant{i}", array) for i, array in enumerate(constants)]
    if residual:
        shortcut = plan.activation("shortcut", out)
        inputs.append(plan.node("crop_pad", (tensor,), shortcut, channel_offset=1))
    y = plan.activation("y", out, BITS if op.endswith("_threshold") else F32)
    return plan, plan.node(op, tuple(inputs), y, **window.settings(), **settings)
