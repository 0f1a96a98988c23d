"""What an ONNX graph becomes: nodes in order, representations, fusions, shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import bits
from bindeploy.emit.plan import lower
from bindeploy.emit.plan_format import Node, Plan, Type

WINDOW = "group=1, strides=[1,1], pads=[1,1,1,1], dilations=[1,1], pad_value=1.0"
generator = np.random.default_rng(0)


def ops(plan: Plan) -> list[str]:
    return [node.op for node in plan.nodes]


def node(plan: Plan, op: str) -> Node:
    (found,) = (node for node in plan.nodes if node.op == op)
    return found


def floats(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)


def packed(*shape: int) -> np.ndarray:
    return bits.pack(floats(*shape))


def constant(plan: Plan, index: int, dtype=np.float32) -> np.ndarray:
    tensor = plan.tensors[index]
    return np.frombuffer(tensor.constant, dtype).reshape(tensor.shape)


def binary(name: str, x: str, y: str, channels: int, op: str = "BinaryConv2d") -> str:
    vectors = "threshold, direction" if op.endswith("Threshold") else "scale, bias"
    attributes = f"<channels={channels}, {WINDOW}>"
    return f"[{name}] {y} = bindeploy.{op} {attributes} ({x}, bits_{name}, {vectors})"


def test_every_picture_lives_apart_from_those_a_node_still_needs(graph):
    body = f"""
        {binary("a", "x", "h", 4)}
        {binary("b", "h", "k", 4)}
        s = Add(h, k)
        {binary("c", "s", "t", 4)}
        y = Add(s, t)"""
    weights = {f"bits_{name}": packed(4, 3, 3, 4) for name in "abc"}
    plan = lower(graph("[N,4,5,5]", body, scale=floats(4), bias=floats(4), **weights))
    written = {plan.input: -1} | {n.output: i for i, n in enumerate(plan.nodes)}
    last = {
        t: max(i for i, n in enumerate(plan.nodes) if t in (*n.inputs, n.output)) for t in written
    }
    last[plan.output] = len(plan.nodes)
    for i, step in enumerate(plan.nodes):
        out = plan.tensors[step.output]
        assert out.offset % 64 == 0 and out.offset + out.size <= plan.arena_bytes
        for other, born in written.items():
            if born < i <= last[other]:
                tensor = plan.tensors[other]
                assert (
                    out.offset + out.size <= tensor.offset
                    or tensor.offset + tensor.size <= out.offset
                )
    assert plan.arena_bytes < sum(plan.tensors[t].size for t in written)


def test_a_float_value_is_binarized_once_for_all_its_readers(graph):
    body = f"{binary('a', 'x', 'h', 3)} {binary('b', 'x', 'k', 3)} y = Add(h, k)"
    plan = lower(
        graph(
            "[N,3,5,5]",
            body,
            scale=floats(4),
            bias=floats(4),
            bits_a=packed(4, 3, 3, 3),
            bits_b=packed(4, 3, 3, 3),
        )
    )
    assert ops(plan) == ["binarize_planes", "binary_conv", "binary_conv", "to_nchw"]
    assert node(plan, "binarize_planes").name == "a/binarize_planes"
    first, second = (n for n in plan.nodes if n.op == "binary_conv")
    assert first.inputs[0] == second.inputs[0] == node(plan, "binarize_planes").output
    assert [n.name for n in (first, second)] == ["a", "b"]


def test_bits_stay_bits_between_binary_layers(graph):
    body = f"""
        {binary("a", "x", "h", 3, "BinaryConv2dThreshold")}
        p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (h)
        q = bindeploy.BinaryMaxPool2d <kernel_shape=[2,2], strides=[1,1], pads=[0,0,0,0]> (p, d)
        {binary("b", "q", "y", 4)}"""
    plan = lower(
        graph(
            "[N,3,8,8]",
            body,
            scale=floats(4),
            bias=floats(4),
            threshold=np.arange(4, dtype=np.int32),
            direction=np.ones(4, np.int8),
            d=np.array([1, -1, 1, -1], np.int8),
            bits_a=packed(4, 3, 3, 3),
            bits_b=packed(4, 3, 3, 4),
        )
    )
    assert ops(plan) == [
        "binarize_planes",
        "binary_conv_threshold",
        "binary_max_pool",
        "binary_max_pool",
        "binary_conv",
        "to_nchw",
    ]
    shapes = [plan.tensors[n.output].shape for n in plan.nodes]
    assert shapes[1:5] == [(1, 8, 8, 4), (1, 4, 4, 4), (1, 3, 3, 4), (1, 3, 3, 4)]
    pools = [n for n in plan.nodes if n.op == "binary_max_pool"]
    directions = [constant(plan, n.inputs[1], np.int8).ravel().tolist() for n in pools]
    assert directions == [[1, 1, 1, 1], [1, -1, 1, -1]]
    assert plan.tensors[pools[0].output].type is Type.BITS


def test_bits_read_as_floats_are_unpacked_once(graph):
    body = f"{binary('a', 'x', 'h', 3, 'BinaryConv2dThreshold')} k = Relu(h) y = Add(h, k)"
    plan = lower(
        graph(
            "[N,3,8,8]",
            body,
            bits_a=packed(4, 3, 3, 3),
            threshold=np.zeros(4, np.int32),
            direction=np.ones(4, np.int8),
        )
    )
    assert ops(plan)[1:] == ["binary_conv_threshold", "unpack", "clip", "add", "to_nchw"]
    assert node(plan, "add").inputs == (node(plan, "unpack").output, node(plan, "clip").output)


@pytest.mark.parametrize(
    ("maker", "op"),
    [
        ("h = Conv <pads=[1,1,1,1]> (x, w)", "conv"),
        (binary("c", "x", "h", 3), "binary_conv"),
        (
            binary("c", "x", "h", 3, "BinaryWeightConv2d").replace("=1.0", "=0.0"),
            "binary_weight_conv",
        ),
        ("h = Mul(x, two)", "affine"),
        ("h = Add(x, x)", "add"),
    ],
)
def test_a_clamp_joins_the_node_that_nothing_else_reads(maker, op, graph):
    constants = {
        "w": floats(3, 3, 3, 3),
        "bits_c": packed(3, 3, 3, 3),
        "scale": floats(3),
        "bias": floats(3),
        "two": np.float32(2),
        "six": np.float32(6),
    }
    plan = lower(graph("[N,3,5,5]", f'{maker} r = Relu(h) y = Clip(r, "", six)', **constants))
    assert "clip" not in ops(plan)
    assert (node(plan, op).minimum, node(plan, op).maximum) == (0, 6)
    alone = lower(graph("[N,3,5,5]", f"{maker} y = Identity(h)", **constants))
    assert (node(alone, op).minimum, node(alone, op).maximum) == (-np.inf, np.inf)
    shared = lower(graph("[N,3,5,5]", f"{maker} r = Relu(h) y = Add(r, h)", **constants))
    assert node(shared, "clip").minimum == 0


def test_a_clamp_of_an_alias_leaves_a_shared_value_alone(graph):
    body = "h = Mul(x, two) i = Identity(h) r = Relu(i) y = Add(r, h)"
    plan = lower(graph("[N,3,5,5]", body, two=np.float32(2)))
    assert ops(plan) == ["to_nhwc", "affine", "clip", "add", "to_nchw"]
    assert node(plan, "affine").minimum == -np.inf


def test_a_clamp_outside_an_earlier_clamp_leaves_its_edge(graph):
    body = 'h = Mul(x, two) a = Clip(h, "", minus) y = Relu(a)'
    plan = lower(graph("[N,3,5,5]", body, two=np.float32(2), minus=np.float32(-1)))
    assert (node(plan, "affine").minimum, node(plan, "affine").maximum) == (0, 0)


def test_a_dense_layer_after_flatten_is_a_convolution_as_large_as_its_input(graph):
    weights = floats(5, 2 * 3 * 4)
    plan = lower(
        graph("[N,2,3,4]", "f = Flatten(x) y = Gemm <transB=1> (f, w, b)", w=weights, b=floats(5))
    )
    conv = node(plan, "conv")
    assert conv.kernel == (3, 4)
    assert plan.tensors[conv.output].shape == (1, 1, 1, 5)
    expected = weights.reshape(5, 2, 3, 4).transpose(0, 2, 3, 1)
    assert np.array_equal(constant(plan, conv.inputs[1]), expected)


def test_packed_weights_after_flatten_are_repacked_pixel_by_pixel(graph):
    weights = floats(3, 5 * 2 * 2)
    plan = lower(
        graph(
            "[N,5,2,2]",
            "f = Flatten(x) y = bindeploy.BinaryLinear <channels=20> (f, p, s, s)",
            p=bits.pack(weights),
            s=floats(3),
        )
    )
    conv = node(plan, "binary_conv")
    rows = constant(plan, conv.inputs[1], np.uint8)
    assert rows.shape == (3, 2, 2, 4)
    expected = bits.sign(weights).reshape(3, 5, 2, 2).transpose(0, 2, 3, 1)
    assert np.array_equal(bits.unpack(rows, 5), expected)


@pytest.mark.parametrize(
    "flatten",
    [
        "f = Flatten(x)",
        "t = Constant <value_ints=[-1, 8]> () f = Reshape(x, t)",
        "t = Constant <value_ints=[0, -1]> () f = Reshape(x, t)",
        "n = Shape <start=0, end=1> (x) e = Constant <value_ints=[8]> () "
        "t = Concat <axis=0> (n, e) f = Reshape(x, t)",
    ],
)
def test_a_flatten_in_any_spelling_costs_nothing(flatten, graph):
    model = graph("[N,2,2,2]", f"{flatten} y = MatMul(f, w)", w=floats(8, 3))
    for step in model.graph:
        if step.op_type == "Reshape":
            step.outputs[0].shape = ir.Shape(["N", 8])
    plan = lower(model)
    assert ops(plan) == ["to_nhwc", "conv", "to_nchw"]
    assert (plan.input_rank, plan.output_rank) == (4, 2)


@pytest.mark.parametrize(
    "squeezes",
    [
        "s = Squeeze(m, both)",
        "half = Squeeze(m, last) s = Squeeze(half, last)",
        "half = Squeeze(m, height) s = Squeeze(half, height)",
        "half = Squeeze(m, last) s = Squeeze(half, height)",
    ],
)
def test_squeezes_after_the_mean_over_pixels_give_features(squeezes, graph):
    body = f"m = GlobalAveragePool(x) {squeezes} d = Dropout(s) y = MatMul(d, w)"
    axes = {"both": np.array([2, 3]), "last": np.array([-1]), "height": np.array([2])}
    plan = lower(graph("[N,2,4,4]", body, **axes, w=floats(2, 3)))
    assert ops(plan) == ["to_nhwc", "average_pool", "conv", "to_nchw"]
    assert node(plan, "average_pool").kernel == (4, 4)


def test_batch_normalization_is_one_affine_map(graph):
    gamma, beta, mean = floats(3), floats(3), floats(3)
    variance = np.abs(floats(3))
    plan = lower(
        graph(
            "[N,3,5,5]",
            "y = BatchNormalization <epsilon=0.5> (x, g, b, m, v)",
            g=gamma,
            b=beta,
            m=mean,
            v=variance,
        )
    )
    affine = node(plan, "affine")
    scale, bias = (constant(plan, index).ravel() for index in affine.inputs[1:])
    np.testing.assert_allclose(scale, gamma / np.sqrt(variance + 0.5), rtol=1e-6)
    np.testing.assert_allclose(bias, beta - mean * gamma / np.sqrt(variance + 0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("expression", "scale", "bias"),
    [
        ("Mul(x, c)", [2, 4], [0, 0]),
        ("Mul(c, x)", [2, 4], [0, 0]),
        ("Div(x, c)", [0.5, 0.25], [0, 0]),
        ("Add(c, x)", [1, 1], [2, 4]),
        ("Sub(x, c)", [1, 1], [-2, -4]),
        ("Sub(c, x)", [-1, -1], [2, 4]),
    ],
)
def test_arithmetic_with_a_constant_is_affine_by_channel(expression, scale, bias, graph):
    c = np.array([2, 4], np.float32).reshape(1, 2, 1, 1)
    plan = lower(graph("[N,2,5,5]", f"y = {expression}", c=c))
    affine = node(plan, "affine")
    assert constant(plan, affine.inputs[1]).ravel().tolist() == scale
    assert constant(plan, affine.inputs[2]).ravel().tolist() == bias


def test_the_residual_shortcut_is_one_crop_pad(graph):
    body = """
        a = Slice(x, zero, end, two, step)
        b = Slice(a, zero, end, three, step)
        y = Pad(b, pads)"""
    plan = lower(
        graph(
            "[N,4,7,8]",
            body,
            zero=np.array([0]),
            end=np.array([2**63 - 1]),
            two=np.array([2]),
            three=np.array([3]),
            step=np.array([2]),
            pads=np.array([0, 2, 0, 0, 0, 2, 0, 0]),
        )
    )
    assert ops(plan) == ["to_nhwc", "crop_pad", "to_nchw"]
    crop = node(plan, "crop_pad")
    assert (crop.strides, crop.pads, crop.channel_offset) == ((2, 2), (0, 0, 0, 0), 2)
    assert plan.tensors[crop.output].shape == (1, 4, 4, 8)


def test_crops_compose_where_the_later_one_stays_inside(graph):
    body = "a = Slice(x, s, e, axes, t) b = Slice(a, s, e, axes, t) y = Pad(b, pads)"
    plan = lower(
        graph(
            "[N,1,12,12]",
            body,
            s=np.array([1, 2]),
            e=np.array([100, 100]),
            axes=np.array([2, 3]),
            t=np.array([2, 1]),
            pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        )
    )
    crop, pad = (n for n in plan.nodes if n.op == "crop_pad")
    assert (crop.strides, crop.pads[:2]) == ((4, 1), (-3, -4))
    assert (pad.strides, pad.pads[:2]) == ((1, 1), (1, 1))
    assert plan.tensors[pad.output].shape == (1, 5, 10, 1)


def test_an_explicit_sign_is_a_binarize(graph):
    body = f"""
        t = GreaterOrEqual(x, zero)
        s = Where(t, one, minus)
        {binary("c", "s", "h", 3)}
        {binary("d", "x", "k", 3)}
        y = Add(h, k)"""
    plan = lower(
        graph(
            "[N,3,5,5]",
            body,
            zero=np.float32(0),
            one=np.float32(1),
            minus=np.float32(-1),
            scale=floats(4),
            bias=floats(4),
            bits_c=packed(4, 3, 3, 3),
            bits_d=packed(4, 3, 3, 3),
        )
    )
    assert ops(plan) == ["binarize_planes", "binary_conv", "binary_conv", "to_nchw"]


def test_nodes_that_the_output_does_not_need_are_left_out(graph):
    plan = lower(graph("[N,3,5,5]", "d = Softmax(x) y = Relu(x)"))
    assert ops(plan) == ["to_nhwc", "clip", "to_nchw"]


@pytest.mark.parametrize(
    ("size", "attributes", "pads", "out"),
    [
        (6, "kernel_shape=[3,3], strides=[2,2], ceil_mode=1", (0, 0, 1, 1), 3),
        (7, "kernel_shape=[3,3], strides=[2,2], ceil_mode=1", (0, 0, 0, 0), 3),
        (5, "kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1], ceil_mode=1", (1, 1, 1, 1), 3),
        (4, "kernel_shape=[1,1], strides=[3,3], ceil_mode=1", (0, 0, 0, 0), 2),
        (5, "kernel_shape=[1,1], strides=[3,3], ceil_mode=1", (0, 0, 0, 0), 2),
    ],
)
def test_ceil_mode_becomes_padding(size, attributes, pads, out, graph):
    plan = lower(graph(f"[N,1,{size},{size}]", f"y = MaxPool <{attributes}> (x)"))
    pool = node(plan, "max_pool")
    assert pool.pads == pads
    assert plan.tensors[pool.output].shape == (1, out, out, 1)


def test_the_ends_of_a_plan_are_named_and_shaped_as_the_caller_sees_them(graph):
    plan = lower(graph("[N,3,5,7]", "[r] y = Relu(x)"))
    source, target = plan.tensors[plan.input], plan.tensors[plan.output]
    assert (source.name, source.shape) == ("x", (1, 3, 5, 7))
    assert (target.name, target.shape) == ("y", (1, 3, 5, 7))
    assert [n.name for n in plan.nodes] == ["x/to_nhwc", "r", "y/to_nchw"]


def test_equal_constants_stand_once(graph):
    c = np.full((1, 3, 1, 1), 2, np.float32)
    plan = lower(graph("[N,3,5,5]", "h = Mul(x, c) y = Mul(h, d)", c=c, d=c.copy()))
    assert sum(tensor.constant is not None for tensor in plan.tensors) == 2
