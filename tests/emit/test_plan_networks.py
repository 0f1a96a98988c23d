"""Whole networks of the kinds that other tools write: the runtime and onnxruntime agree.

Layers that read floats have small whole numbers, so that sums are exact in any order: then every
integer, and every float that follows by the same operations, must be equal bit for bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy import bits
from bindeploy.convert import dialect, engines
from bindeploy.emit.plan import lower
from bindeploy.emit.plan_format import Plan, Type
from bindeploy.session import Session

generator = np.random.default_rng(0)


def whole(*shape: int) -> np.ndarray:
    return generator.integers(-3, 4, shape).astype(np.float32)


def packed(*shape: int) -> np.ndarray:
    return bits.pack(whole(*shape))


def normal(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def window(
    channels: int,
    group: int = 1,
    strides: str = "[1,1]",
    pads: str = "[1,1,1,1]",
    dilations: str = "[1,1]",
    pad_value: float = 0.0,
) -> str:
    return (
        f"<channels={channels}, group={group}, strides={strides}, pads={pads}, "
        f"dilations={dilations}, pad_value={pad_value}>"
    )


def thresholds(filters: int) -> tuple[np.ndarray, np.ndarray]:
    integers = generator.integers(-5, 6, filters, np.int32)
    return integers, generator.choice(np.array([-1, 1], np.int8), filters)


def ops(plan: Plan) -> list[str]:
    return [node.op for node in plan.nodes]


def agree(model: ir.Model, x: np.ndarray) -> Plan:
    """The model's plan, once its integers and its output are those of onnxruntime."""
    dialect.attach_functions(model)
    expected, integers = engines.run_onnxruntime(model, x)
    for isa in (None, "scalar"):
        with Session(model, isa=isa) as opened:
            np.testing.assert_array_equal(opened.run(None, {"x": x})[0], expected)
            found = opened.integers(x)
    assert found.keys() == integers.keys()
    for name, dots in integers.items():
        np.testing.assert_array_equal(found[name].reshape(dots.shape), dots, err_msg=name)
    return lower(model)


def test_groups_and_single_channels(graph):
    """Bits of 21 channels, then three groups of 7 of them, then each one alone."""
    t1, d1 = thresholds(21)
    t2, d2 = thresholds(42)
    body = f"""
        stem = Conv <pads=[1,1,1,1]> (x, w)
        [a] h = bindeploy.BinaryConv2dThreshold {window(9, group=1)} (stem, pa, t1, d1)
        [b] k = bindeploy.BinaryConv2dThreshold {window(7, group=3)} (h, pb, t2, d2)
        [c] l = bindeploy.BinaryConv2d {window(1, group=42, strides="[2,2]")} (k, pc, s, b)
        m = Conv <group=42, pads=[1,1,1,1]> (k, wd)
        n = MaxPool <kernel_shape=[2,2], strides=[2,2]> (m)
        y = Add(l, n)"""
    model = graph("[N,3,8,6]", body, w=whole(9, 3, 3, 3), pa=packed(21, 3, 3, 9), t1=t1, d1=d1,
                  pb=packed(42, 3, 3, 7), t2=t2, d2=d2, pc=packed(42, 3, 3, 1), s=normal(42),
                  b=normal(42), wd=whole(42, 1, 3, 3))  # fmt: skip
    plan = agree(model, whole(3, 3, 8, 6))
    assert ops(plan)[1:4] == ["conv", "binarize", "binary_conv_threshold"]
    assert plan.tensors[plan.nodes[4].output].type is Type.BITS


@pytest.mark.parametrize("channels", [5, 64, 70])
def test_pads_that_add_nothing_go_from_bits_to_bits(channels, graph):
    """Ragged channels, strides, dilations and a pool: no float between two thresholds."""
    t1, d1 = thresholds(channels)
    layers = f"""
        [a] h = bindeploy.BinaryConv2dThreshold {window(3)} (x, pa, t1, d1)
        [b] i = bindeploy.BinaryConv2dThreshold
            {window(channels, strides="[2,1]", pads="[2,0,1,2]", dilations="[2,1]")}
            (h, pb, t1, d1)
        p = bindeploy.BinaryMaxPool2d <kernel_shape=[3,2], strides=[2,1], pads=[1,0,2,1]> (i, d1)
        [c] j = bindeploy.BinaryConv2dThreshold {window(channels, pads="[0,2,2,0]")} (p, pc, t1, d1)
        [d] y = bindeploy.BinaryConv2d {window(channels)} (j, pc, s, s)"""
    shapes = {"pa": (channels, 3, 3, 3), "pb": (channels, 3, 3, channels),
              "pc": (channels, 3, 3, channels)}  # fmt: skip
    model = graph("[N,3,13,9]", layers, t1=t1, d1=d1, s=normal(channels),
                  **{name: packed(*shape) for name, shape in shapes.items()})  # fmt: skip
    plan = agree(model, normal(2, 3, 13, 9))
    between = plan.nodes[:-2]
    assert [node.op for node in between] == ["binarize_planes", "binary_conv_threshold",
        "binary_conv_threshold", "binary_max_pool", "binary_conv_threshold"]  # fmt: skip
    assert {plan.tensors[node.output].type for node in between} == {Type.BITS}


def test_a_network_over_a_line(graph):
    """Layers over [N, C, L]; the binary ones with a height of 1, as the converter writes them."""
    t1, d1 = thresholds(10)
    row = window(6, pads="[0,2,0,2]", strides="[1,2]")
    body = f"""
        stem = Conv <pads=[1,1]> (x, w, wb)
        shifted = Add(stem, shift)
        pooled = MaxPool <kernel_shape=[2], strides=[2]> (shifted)
        image = Unsqueeze(pooled, two)
        [a] h = bindeploy.BinaryConv2dThreshold {row} (image, pa, t1, d1)
        [b] k = bindeploy.BinaryConv2d {window(10, pads="[0,1,0,1]")} (h, pb, s, b)
        line = Squeeze(k, two)
        rectified = Relu(line)
        features = Flatten(rectified)
        y = Gemm(features, dense, db)"""
    model = graph("[N,2,32]", body, w=whole(6, 2, 3), wb=whole(6), shift=whole(6, 1),
                  two=np.array([2]), pa=packed(10, 1, 5, 6), t1=t1, d1=d1, pb=packed(10, 1, 3, 10),
                  s=np.float32(0.5) * whole(10), b=whole(10), dense=whole(80, 4), db=whole(4)
                  )  # fmt: skip
    plan = agree(model, whole(3, 2, 32))
    assert ops(plan) == ["to_nhwc", "conv", "affine", "max_pool", "binarize",
                         "binary_conv_threshold", "binary_conv", "conv", "to_nchw"]  # fmt: skip
    assert (plan.input_rank, plan.output_rank) == (3, 2)


def test_the_ends_may_be_lines(graph):
    model = graph("[N,6,9]", "y = AveragePool <kernel_shape=[2]> (x)")
    with Session(model) as opened:
        assert opened.get_inputs()[0].shape == ("N", 6, 9)
        assert opened.get_outputs()[0].shape == ("N", 6, 8)
    agree(model, whole(2, 6, 9))


def test_a_plan_alone_knows_the_axes_of_its_ends(graph):
    for sizes, body in (
        ((6, 9), "y = Relu(x)"),
        ((9, 6), "t = Transpose <perm=[0,2,1]> (x) r = Relu(t) y = Transpose <perm=[0,2,1]> (r)"),
        ((6, 1, 1), "y = Relu(x)"),
        ((6,), "y = Relu(x)"),
        ((6, 2, 1), "y = Relu(x)"),
    ):
        plan = lower(graph(f"[N,{','.join(map(str, sizes))}]", body)).to_bytes()
        x = whole(2, *sizes)
        with Session(plan) as opened:
            assert opened.get_inputs()[0].shape == opened.get_outputs()[0].shape == ("N", *sizes)
            np.testing.assert_array_equal(opened.run(None, {"x": x})[0], np.maximum(x, 0))


@pytest.mark.parametrize("rank", [2, 3])
def test_a_rank_that_cannot_be_changes_no_size(rank, graph):
    """Whatever a plan says there, what is read and written is what its tensors hold."""
    plan = lower(graph("[N,3,4,5]", "y = Relu(x)"))
    plan.input_rank = plan.output_rank = rank
    with Session(plan.to_bytes()) as opened:
        assert opened.get_inputs()[0].shape == opened.get_outputs()[0].shape == ("N", 3, 4, 5)


@pytest.mark.parametrize("weave", ["DepthToSpace", "Reshape"])
def test_a_transposed_convolution_in_phases(weave, graph):
    """Four phases of stride 2, side by side, woven together, cropped."""
    phases = "\n".join(
        f"[p{i}] h{i} = bindeploy.BinaryConv2d {window(5, pads=pads)} (x, p{i}, s, b)"
        for i, pads in enumerate(["[1,1,0,0]", "[1,0,0,1]", "[0,1,1,0]", "[0,0,1,1]"])
    )
    if weave == "DepthToSpace":
        rows = "wide = DepthToSpace <blocksize=2> (all)"
    else:
        rows = """split = Reshape(all, blocks)
            turned = Transpose <perm=[0,3,4,1,5,2]> (split)
            wide = Reshape(turned, pixels)"""
    body = f"""{phases} all = Concat <axis=1> (h0, h1, h2, h3) {rows}
        y = Slice(wide, begin, end, axes)"""
    inputs = {f"p{i}": packed(3, 2, 2, 5) for i in range(4)}
    model = graph("[N,5,6,4]", body, **inputs, s=normal(3), b=normal(3), begin=np.array([1, 0]),
                  blocks=np.array([0, 2, 2, 3, 6, 4]), pixels=np.array([0, 3, 12, 8]),
                  end=np.array([12, 7]), axes=np.array([2, 3]))  # fmt: skip
    plan = agree(model, normal(3, 5, 6, 4))
    assert ops(plan)[-4:] == ["concat", "depth_to_space", "crop_pad", "to_nchw"]
    assert ops(plan).count("binarize_planes") == 1


def test_phases_over_a_line(graph):
    body = f"""image = Unsqueeze(x, two)
        [a] h = bindeploy.BinaryConv2d {window(5, pads="[0,1,0,0]")} (image, pa, s, b)
        [b] k = bindeploy.BinaryConv2d {window(5, pads="[0,0,0,1]")} (image, pb, s, b)
        all = Concat <axis=1> (h, k)
        line = Squeeze(all, two)
        split = Reshape(line, blocks)
        turned = Transpose <perm=[0,2,3,1]> (split)
        wide = Reshape(turned, pixels)
        y = Slice(wide, begin, end, two)"""
    model = graph("[N,5,8]", body, two=np.array([2]), pa=packed(3, 1, 2, 5), s=normal(3),
                  pb=packed(3, 1, 2, 5), b=normal(3), blocks=np.array([0, 2, 3, 8]),
                  pixels=np.array([0, 3, 16]), begin=np.array([1]), end=np.array([-1]),
                  )  # fmt: skip
    plan = agree(model, normal(3, 5, 8))
    assert ops(plan)[-4:] == ["concat", "depth_to_space", "crop_pad", "to_nchw"]
    assert plan.nodes[-3].kernel == (1, 2)


def test_a_block_of_reactnet(graph):
    """Shifted signs, shortcuts, RPReLU, and channels doubled by two layers side by side."""
    body = f"""
        a = Add(x, shift1)
        [c1] h = bindeploy.BinaryConv2d {window(6, pad_value=1.0)} (a, p1, s1, b1)
        r = Add(h, x)
        m = Add(r, before)
        q = PRelu(m, slope)
        o = Add(q, after)
        e = Add(o, shift2)
        [c2] k = bindeploy.BinaryConv2d {window(6, pads="[0,0,0,0]")} (e, p2, s1, b1)
        u = Add(k, o)
        [c3] l = bindeploy.BinaryConv2d {window(6, pads="[0,0,0,0]")} (e, p3, s1, b1)
        v = Add(l, o)
        both = Concat <axis=1> (u, v)
        twice = Concat <axis=1> (both, both)
        y = PRelu(twice, slope2)"""
    channels = ("shift1", "before", "slope", "after", "shift2")
    model = graph("[N,6,7,5]", body, **{name: normal(6, 1, 1) for name in channels}, s1=normal(6),
                  b1=normal(6), p1=packed(6, 3, 3, 6), p2=packed(6, 1, 1, 6), p3=packed(6, 1, 1, 6),
                  slope2=normal(24, 1, 1))  # fmt: skip
    plan = agree(model, normal(3, 6, 7, 5))
    assert ops(plan) == ["to_nhwc", "binarize_planes", "binary_conv", "binarize", "binary_conv",
                         "binary_conv", "concat", "concat", "prelu", "to_nchw"]  # fmt: skip


def test_channels_last_at_both_ends_cost_nothing(graph):
    body = f"""
        first = Transpose <perm=[0,3,1,2]> (x)
        [a] h = bindeploy.BinaryConv2d {window(3)} (first, p, s, b)
        y = Transpose <perm=[0,2,3,1]> (h)"""
    model = graph("[N,7,5,3]", body, p=packed(4, 3, 3, 3), s=normal(4), b=normal(4))
    plan = agree(model, normal(3, 7, 5, 3))
    assert ops(plan) == ["binarize", "binary_conv"]
    with Session(model) as opened:
        ends = opened.get_inputs()[0], opened.get_outputs()[0]
    assert [(end.name, end.shape) for end in ends] == [("x", ("N", 7, 5, 3)), ("y", ("N", 7, 5, 4))]


def test_dense_weights_listed_with_channels_last(graph):
    """Of floats and of bits, after a picture that is flattened by (h, w, c)."""
    t, d = thresholds(9)
    body = """
        first = Transpose <perm=[0,3,1,2]> (x)
        m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (first)
        last = Transpose <perm=[0,2,3,1]> (m)
        f = Reshape(last, flat)
        [a] h = bindeploy.BinaryLinearThreshold <channels=18> (f, p, t, d)
        [b] k = bindeploy.BinaryLinear <channels=9> (h, q, s, s)
        g = MatMul(f, w)
        y = Add(k, g)"""
    model = graph("[N,6,4,3]", body, flat=np.array([-1, 18]), p=packed(9, 18), t=t, d=d,
                  q=packed(5, 9), s=whole(5), w=whole(18, 5))  # fmt: skip
    plan = agree(model, whole(3, 6, 4, 3))
    assert "to_nhwc" not in ops(plan)


def test_an_input_turned_and_turned_back_is_copied(graph):
    body = "t = Transpose <perm=[0,3,1,2]> (x) y = Transpose <perm=[0,2,3,1]> (t)"
    assert ops(agree(graph("[N,6,4,3]", body), normal(2, 6, 4, 3))) == ["clip"]


def test_an_input_read_in_two_orders_is_refused_by_name(graph):
    body = "[t] t = Transpose <perm=[0,3,1,2]> (x) m = GlobalAveragePool(t) y = Add(x, x)"
    assert ops(lower(graph("[N,6,4,3]", body))) == ["to_nhwc", "add", "to_nchw"]


@pytest.mark.parametrize("gone", ["f = Flatten(h)", "f = Squeeze(h, both)", "f = Reshape(h, flat)"])
def test_bits_of_one_pixel_stay_bits_when_they_are_flattened(gone, graph):
    t, d = thresholds(70)
    body = f"""
        [a] g = bindeploy.BinaryConv2dThreshold {window(3, pads="[0,0,0,0]")} (x, p, t, d)
        h = bindeploy.BinaryMaxPool2d <kernel_shape=[3,2], strides=[5,7], pads=[0,0,0,0]> (g, d)
        {gone}
        [b] y = bindeploy.BinaryLinear <channels=70> (f, q, s, s)"""
    model = graph("[N,3,5,4]", body, p=packed(70, 3, 3, 3), q=packed(5, 70), t=t, d=d, s=normal(5),
                  both=np.array([2, 3]), flat=np.array([0, -1]))  # fmt: skip
    plan = agree(model, normal(2, 3, 5, 4))
    assert ops(plan) == ["binarize_planes", "binary_conv_threshold", "binary_max_pool",
                         "binary_conv", "to_nchw"]  # fmt: skip
