"""A layer that rectifies what it makes gives, bit for bit, what a prelu after it would."""

from __future__ import annotations

import numpy as np
import pytest
from float_layers import HEIGHT, LAYERS, PADDED, WIDTH, Open, layer_inputs, numbers
from loaded_model import LoadFailure
from numpy.typing import NDArray
from one_op import ISAS, finish, nhwc_plan, run


def plan_of(
    layer: str, x: NDArray, filters: int, group: int, adds: bool, rectifier: NDArray, apart: bool
) -> bytes:
    """x -> the layer and what it adds -> its rectifier; `apart`: as nodes of their own."""
    normal = numbers()
    plan, tensor = nhwc_plan(x)
    shape = (1, HEIGHT, WIDTH, filters)
    residual = plan.constant("source", normal(filters, 1, 1, x.shape[2]))
    zeros = plan.constant("zeros", np.zeros(filters, np.float32))
    residual = plan.node("conv", (tensor, residual, zeros), plan.activation("residual", shape))
    inputs = layer_inputs(plan, layer, tensor, filters, x.shape[2] // group, normal)
    limits = {"minimum": -9.0, "maximum": 11.0}
    settings = {**PADDED, "group": group, **limits}
    op, rows = layer.partition(",")[0], rectifier.reshape(3, -1)
    vectors = [plan.constant(f"row{i}", row) for i, row in enumerate(rows)]
    if not apart:
        inputs += [residual if adds else None, plan.constant("rectifier", rectifier)]
        return finish(plan, plan.node(op, tuple(inputs), plan.activation("y", shape), **settings))
    y = plan.node(op, tuple(inputs), plan.activation("layer", shape), **settings)
    if adds:
        y = plan.node("add", (y, residual), plan.activation("sum", shape))
    return finish(plan, plan.node("prelu", (y, *vectors), plan.activation("y", shape)))


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("channels, filters, group", [(3, 5, 1), (32, 70, 2), (65, 65, 65)])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_rectifier_gives_what_a_prelu_gives(
    open_plan: Open, layer: str, channels: int, filters: int, group: int, adds: bool
) -> None:
    normal = numbers()
    x, rectifier = normal(HEIGHT, WIDTH, channels), normal(3 * filters)
    rectifier[1::7] = 0
    fused = plan_of(layer, x, filters, group, adds, rectifier, apart=False)
    apart = plan_of(layer, x, filters, group, adds, rectifier, apart=True)
    for isa in ISAS:
        expected = run(open_plan(apart, isa=isa), x)
        assert (expected < rectifier[2 * filters :]).any()
        np.testing.assert_array_equal(run(open_plan(fused, isa=isa), x), expected)
        np.testing.assert_array_equal(run(open_plan(fused, isa=isa, threads=3), x), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_rectifier_of_another_length_is_refused(open_plan: Open, layer: str) -> None:
    normal = numbers()
    x = normal(HEIGHT, WIDTH, 4)
    with pytest.raises(LoadFailure, match=r"and \[15,1,1,1\] is needed"):
        open_plan(plan_of(layer, x, 5, 1, True, normal(18), apart=False))
