"""Sums, shifts and rectifiers become part of the nodes beside them, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from bindeploy import bits
from bindeploy.convert import dialect
from bindeploy.emit.plan import lower
from bindeploy.emit.plan_format import Node, Plan
from bindeploy.session import Session

WINDOW = "group=1, strides=[1,1], pads=[1,1,1,1], dilations=[1,1], pad_value=1.0"
generator = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def ops(plan: Plan) -> list[str]:
    return [node.op for node in plan.nodes]


def named(plan: Plan, name: str) -> Node:
    (found,) = (node for node in plan.nodes if node.name == name)
    return found


def binary(name: str, x: str, y: str) -> str:
    inputs = f"{x}, bits_{name}, scale_{name}, bias_{name}"
    return f"[{name}] {y} = bindeploy.BinaryConv2d <channels=4, {WINDOW}> ({inputs})"


def constants(*names: str) -> dict[str, np.ndarray]:
    """Scales and biases whose every sum is rounded."""
    made = {}
    for name in names:
        made[f"bits_{name}"] = bits.pack(normal(4, 3, 3, 4))
        made |= {f"scale_{name}": normal(4), f"bias_{name}": normal(4)}
    return made


def same(model: ir.Model, x: np.ndarray) -> None:
    """Every float is that of one rounding an operation, in the order that ONNX says."""
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=dialect.REFERENCE_OPS)
    expected = evaluator.run(None, {"x": x})[0]
    for isa in (None, "scalar"):
        with Session(model, isa=isa) as opened:
            np.testing.assert_array_equal(opened.run(None, {"x": x})[0], expected)


def test_the_blocks_of_bi_real_net_have_no_add(graph):
    """Two layers, each with its own shortcut: what was six nodes are four, and no float is new."""
    body = f"{binary('a', 'x', 'h')} s = Add(h, x) {binary('b', 's', 'k')} y = Add(s, k)"
    model = graph("[N,4,7,5]", body, **constants("a", "b"))
    plan = lower(model)
    assert ops(plan) == [
        "to_nhwc",
        "binarize_planes",
        "binary_conv",
        "binarize",
        "binary_conv",
        "to_nchw",
    ]
    first, second = named(plan, "a"), named(plan, "b")
    assert first.inputs[4] == plan.nodes[0].output
    assert second.inputs[4] == first.output
    same(model, normal(3, 4, 7, 5))


def test_without_fusion_the_same_block_has_its_adds(graph):
    """Both sums read twice: the very nodes that the fused block has no more."""
    body = f"""{binary("a", "x", "h")} s = Add(h, x) {binary("b", "s", "k")} t = Add(s, k)
        u = Add(t, h) y = Add(u, k)"""
    model = graph("[N,4,7,5]", body, **constants("a", "b"))
    assert ops(lower(model)).count("add") == 4
    same(model, normal(3, 4, 7, 5))


def test_a_shortcut_that_comes_later_puts_the_layer_off(graph):
    body = f"""{binary("a", "x", "h")}
        p = AveragePool <kernel_shape=[1,1]> (x) q = PRelu(p, slope) y = Add(q, h)"""
    model = graph("[N,4,7,5]", body, **constants("a"), slope=normal(4, 1, 1))
    plan = lower(model)
    assert ops(plan) == [
        "to_nhwc",
        "binarize_planes",
        "average_pool",
        "prelu",
        "binary_conv",
        "to_nchw",
    ]
    same(model, normal(3, 4, 7, 5))


def test_of_two_layers_the_later_one_adds_the_other(graph):
    body = f"{binary('a', 'x', 'h')} {binary('b', 'x', 'k')} y = Add(k, h)"
    model = graph("[N,4,7,5]", body, **constants("a", "b"))
    plan = lower(model)
    assert ops(plan) == ["binarize_planes", "binary_conv", "binary_conv", "to_nchw"]
    assert (len(named(plan, "a").inputs), named(plan, "b").inputs[4]) == (4, plan.nodes[1].output)
    same(model, normal(3, 4, 7, 5))


def test_a_layer_adds_one_tensor_and_a_second_sum_stays(graph):
    body = f"{binary('a', 'x', 'h')} s = Add(h, x) y = Add(s, x)"
    model = graph("[N,4,7,5]", body, **constants("a"))
    assert ops(lower(model)) == ["to_nhwc", "binarize_planes", "binary_conv", "add", "to_nchw"]
    same(model, normal(3, 4, 7, 5))


def test_limits_after_the_sum_join_the_layer_and_limits_before_it_keep_them_apart(graph):
    after = f"{binary('a', 'x', 'h')} s = Add(h, x) y = Relu(s)"
    model = graph("[N,4,7,5]", after, **constants("a"))
    plan = lower(model)
    assert ops(plan) == ["to_nhwc", "binarize_planes", "binary_conv", "to_nchw"]
    assert (named(plan, "a").minimum, named(plan, "a").maximum) == (0, np.inf)
    same(model, normal(3, 4, 7, 5))
    before = f"{binary('a', 'x', 'h')} r = Relu(h) y = Add(r, x)"
    model = graph("[N,4,7,5]", before, **constants("a"))
    assert ops(lower(model)) == ["to_nhwc", "binarize_planes", "binary_conv", "add", "to_nchw"]
    same(model, normal(3, 4, 7, 5))


@pytest.mark.parametrize("op", ["Conv", "BinaryWeightConv2d"])
def test_layers_that_read_floats_add_too(op, graph):
    whole = {"w": np.rint(2 * normal(4, 4, 3, 3)), "b": normal(4)}
    body = "[c] h = Conv <pads=[1,1,1,1]> (x, w, b)"
    if op != "Conv":
        whole = constants("c")
        body = binary("c", "x", "h").replace("BinaryConv2d", op).replace("=1.0", "=0.0")
    model = graph("[N,4,7,5]", f"{body} s = Add(x, h) y = Relu(s)", **whole)
    assert ops(lower(model)).count("add") == 0
    same(model, np.rint(3 * normal(2, 4, 7, 5)))


def test_bits_that_are_added_are_unpacked_before_the_layer_that_adds_them(graph):
    body = f"{binary('a', 'x', 'h')} s = bindeploy.latent.BinarySign(x) y = Add(h, s)"
    model = graph("[N,4,7,5]", body, **constants("a"))
    assert ops(lower(model)) == ["binarize_planes", "unpack", "binary_conv", "to_nchw"]
    same(model, normal(3, 4, 7, 5))


RECTIFIERS = {
    "RPReLU": ("a = Add(x, b) p = PRelu(a, s) y = Add(p, d)", ["prelu"], 4),
    "shift behind": ("p = PRelu(x, s) y = Sub(p, d)", ["prelu"], 4),
    "shift before": ("a = Add(b, x) y = PRelu(a, s)", ["prelu"], 3),
    "scale before": ("a = Mul(x, b) y = PRelu(a, s)", ["affine", "prelu"], 2),
    "scale behind": ("p = PRelu(x, s) y = Mul(p, d)", ["prelu", "affine"], 2),
    "shift read twice": ("a = Add(x, b) p = PRelu(a, s) y = Add(p, a)", ["affine", "prelu", "add"],
                         2),
    "limits between": ("p = PRelu(x, s) r = Relu(p) y = Add(r, d)", ["prelu", "affine"], 2),
    "limits behind": ("p = PRelu(x, s) a = Add(p, d) y = Relu(a)", ["prelu"], 4),
    "shift by element": ("a = Add(x, e) p = PRelu(a, s) y = Add(p, e)", ["prelu"], 4),
    "slope by element": ("a = Add(x, b) p = PRelu(a, e) y = Add(p, e)", ["affine", "prelu"], 4),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected", "inputs"), RECTIFIERS.values(), ids=RECTIFIERS)
def test_shifts_beside_a_prelu_are_its_own(body, expected, inputs, graph):
    shifts = {"e": normal(1, 4, 7, 5)} | {name: normal(4, 1, 1) for name in "bsd"}
    model = graph("[N,4,7,5]", body, **shifts)
    plan = lower(model)
    assert ops(plan)[1:-1] == expected
    (rectifier,) = (node for node in plan.nodes if node.op == "prelu")
    assert len(rectifier.inputs) == inputs
    left = {tensor.name.rsplit("/")[-1] for tensor in plan.tensors}
    assert ("scale" in left) == ("affine" in expected)
    same(model, normal(3, 4, 7, 5))


NORM = "n = BatchNormalization <epsilon=0.0> (r, scale, shift, zeros, ones)"
MAPS = {
    "the block of QuickNet": (f"r = Relu(h) {NORM} y = Add(n, x)", [], 5),
    "limits between": ("r = Clip(h, low, high) y = Mul(r, g)", [], 4),
    "limits behind": ("r = Relu(h) m = Mul(r, g) y = Relu(m)", ["clip"], 4),
    "a third map": ("r = Relu(h) m = Mul(r, g) y = Add(m, b)", ["affine"], 4),
    "after the sum": ("s = Add(h, x) y = Mul(s, g)", ["affine"], 5),
    "by element": ("r = Relu(h) y = Mul(r, e)", ["affine"], 4),
    "read twice": ("r = Relu(h) m = Mul(r, g) y = Add(m, r)", ["affine", "add"], 4),
}


@pytest.mark.parametrize(("body", "others", "inputs"), MAPS.values(), ids=MAPS)
def test_a_map_by_channel_behind_a_layer_is_its_second(body, others, inputs, graph):
    """One second map, with the limits and a shortcut where they stood; all else stays a node."""
    made = {name: normal(4, 1, 1) for name in "gb"} | {"e": normal(1, 4, 7, 5)}
    made |= {"scale": normal(4), "shift": normal(4)}
    made |= {"zeros": np.zeros(4, np.float32), "ones": np.ones(4, np.float32)}
    made |= {"low": np.float32(-1.5), "high": np.float32(2.5)} | constants("a")
    model = graph("[N,4,7,5]", f"{binary('a', 'x', 'h')} {body}", **made)
    plan = lower(model)
    ends = ["to_nhwc", "binarize_planes"] if "x" in body else ["binarize_planes"]
    assert ops(plan) == [*ends, "binary_conv", *others, "to_nchw"]
    assert len(named(plan, "a").inputs) == inputs
    same(model, normal(3, 4, 7, 5))


def test_layers_of_groups_and_of_single_channels_map_twice(graph):
    for group, channels in ((2, 2), (4, 1)):
        layer = binary("a", "x", "h").replace(
            "channels=4, group=1", f"channels={channels}, group={group}"
        )
        made = constants("a") | {"bits_a": bits.pack(normal(4, 3, 3, channels))}
        made |= {"g": normal(4, 1, 1)}
        model = graph("[N,4,7,5]", f"{layer} r = Relu(h) m = Mul(r, g) y = Add(x, m)", **made)
        assert ops(lower(model)) == ["to_nhwc", "binarize_planes", "binary_conv", "to_nchw"]
        same(model, normal(3, 4, 7, 5))


SHIFTS = "m = Add({x}, b) p = PRelu(m, s) y = Add(p, d)"
RECTIFIED = {
    "PRelu": (f"{binary('a', 'x', 'h')} y = PRelu(h, s)", 6, 0),
    "RPReLU behind a sum": (f"{binary('a', 'x', 'h')} t = Add(h, x) {SHIFTS.format(x='t')}", 6, 0),
    "RPReLU behind two maps and a sum": (
        f"{binary('a', 'x', 'h')} r = Relu(h) n = Mul(r, g) t = Add(n, x) {SHIFTS.format(x='t')}",
        6,
        0,
    ),
    "limits before": (f"{binary('a', 'x', 'h')} r = Clip(h, low, high) y = PRelu(r, s)", 6, 0),
    "limits before the sum": (
        f"{binary('a', 'x', 'h')} t = Add(h, x) r = Clip(t, low, high) y = PRelu(r, s)",
        5,
        1,
    ),
    "limits behind": (f"{binary('a', 'x', 'h')} p = PRelu(h, s) y = Relu(p)", 4, 1),
    "read twice": (f"{binary('a', 'x', 'h')} p = PRelu(h, s) y = Add(p, h)", 4, 1),
    "by element": (f"{binary('a', 'x', 'h')} y = PRelu(h, e)", 4, 1),
    "a second one": (f"{binary('a', 'x', 'h')} p = PRelu(h, s) y = PRelu(p, b)", 6, 1),
    "LeakyRelu": (f"{binary('a', 'x', 'h')} y = LeakyRelu <alpha=0.3> (h)", 6, 0),
}


@pytest.mark.parametrize(("body", "inputs", "left"), RECTIFIED.values(), ids=RECTIFIED)
def test_a_prelu_behind_a_layer_is_its_rectifier(body, inputs, left, graph):
    shifts = {name: normal(4, 1, 1) for name in "bsdg"} | {"e": normal(1, 4, 7, 5)}
    shifts |= {"low": np.float32(-1.5), "high": np.float32(2.5)} | constants("a")
    model = graph("[N,4,7,5]", body, **shifts)
    plan = lower(model)
    assert (len(named(plan, "a").inputs), ops(plan).count("prelu")) == (inputs, left)
    same(model, normal(3, 4, 7, 5))


@pytest.mark.parametrize("op", ["Conv", "BinaryWeightConv2d"])
def test_layers_that_read_floats_rectify_too(op, graph):
    whole = {"w": np.rint(2 * normal(4, 4, 3, 3)), "b": normal(4)}
    body = "[c] h = Conv <pads=[1,1,1,1]> (x, w, b)"
    if op != "Conv":
        whole = constants("c")
        body = binary("c", "x", "h").replace("BinaryConv2d", op).replace("=1.0", "=0.0")
    whole |= {"s": normal(4, 1, 1), "d": normal(4, 1, 1)}
    model = graph("[N,4,7,5]", f"{body} t = Add(x, h) p = PRelu(t, s) y = Sub(p, d)", **whole)
    assert len(ops(lower(model))) == 3
    same(model, np.rint(3 * normal(2, 4, 7, 5)))


def test_layers_side_by_side_take_their_shares(graph):
    """The end of a block of ReActNet that doubles its channels."""
    body = f"""{binary("a", "x", "h")} {binary("b", "x", "k")} t = Add(h, x) u = Add(k, x)
        c = Concat <axis=1> (t, u) {SHIFTS.format(x="c")}"""
    model = graph(
        "[N,4,7,5]", body, **constants("a", "b"), **{name: normal(8, 1, 1) for name in "bsd"}
    )
    plan = lower(model)
    assert ops(plan)[-4:] == ["binary_conv", "binary_conv", "concat", "to_nchw"]
    assert [len(node.inputs) for node in plan.nodes[-4:-2]] == [6, 6]
    same(model, normal(3, 4, 7, 5))


def test_beside_what_is_no_layer_the_prelu_stays(graph):
    body = f"{binary('a', 'x', 'h')} c = Concat <axis=1> (h, x) y = PRelu(c, s)"
    model = graph("[N,4,7,5]", body, **constants("a"), s=normal(8, 1, 1))
    assert ops(lower(model))[-3:] == ["concat", "prelu", "to_nchw"]
    same(model, normal(3, 4, 7, 5))
