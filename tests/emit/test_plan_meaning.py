"""What a plan computes is what ONNX and the dialect say, op by op, bit for bit."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from bindeploy import bits
from bindeploy.convert import dialect
from bindeploy.session import Session

WINDOW = "group=1, strides=[1,1], dilations=[1,1]"
generator = np.random.default_rng(0)


def whole(*shape: int) -> np.ndarray:
    """Small whole numbers, of which every engine computes the same sums and products exactly."""
    return generator.integers(-3, 4, shape).astype(np.float32)


def packed(*shape: int) -> np.ndarray:
    return bits.pack(whole(*shape))


def expected(model: ir.Model, x: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=dialect.REFERENCE_OPS)
    return evaluator.run(None, {"x": x})[0]


def ours(model: ir.Model, x: np.ndarray, **options) -> np.ndarray:
    with Session(model, **options) as opened:
        return opened.run(None, {"x": x})[0]


def conv(
    op: str,
    vectors: str,
    channels: int,
    pads: str = "[1,1,1,1]",
    pad_value: float = 1.0,
    bits: str = "p",
    window: str = WINDOW,
):
    attributes = f"<channels={channels}, {window}, pads={pads}, pad_value={pad_value}>"
    return f"bindeploy.{op} {attributes} (x, {bits}, {vectors})"


def grouped(group: int) -> str:
    return WINDOW.replace("group=1", f"group={group}")


EXACT = {
    "Conv": ("Conv <pads=[1,0,2,1], strides=[2,1], dilations=[1,2]> (x, w, b)", (6, 7, 9)),
    "Conv without bias": ("Conv(x, w)", (6, 5, 5)),
    "Mul": ("Mul(x, c)", (6, 3, 4)),
    "Div": ("Div(x, c)", (6, 3, 4)),
    "Sub": ("Sub(c, x)", (6, 3, 4)),
    "Add of itself": ("Add(x, x)", (6, 3, 4)),
    "Relu": ("Relu(x)", (6, 3, 4)),
    "Clip": ("Clip(x, low, high)", (6, 3, 4)),
    "MaxPool": ("MaxPool <kernel_shape=[3,2], strides=[2,2], pads=[1,0,0,1]> (x)", (6, 7, 8)),
    "MaxPool, ceiled": ("MaxPool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x)", (6, 8, 6)),
    "AveragePool": ("AveragePool <kernel_shape=[2,2], strides=[2,2]> (x)", (6, 8, 6)),
    "AveragePool, counted pads": (
        "AveragePool <kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1> (x)",
        (6, 4, 4),
    ),
    "AveragePool, uncounted pads": (
        "AveragePool <kernel_shape=[2,1], pads=[1,0,1,0]> (x)",
        (6, 4, 4),
    ),
    "GlobalAveragePool": ("GlobalAveragePool(x)", (6, 4, 4)),
    "ReduceMean": ("ReduceMean <keepdims=0> (x, axes)", (6, 4, 4)),
    "Slice": ("Slice(x, starts, ends, axes, steps)", (6, 7, 9)),
    "Pad": ("Pad(x, around)", (6, 3, 4)),
    "Identity": ("Identity(x)", (6, 3, 4)),
    "BinarySign": ("bindeploy.latent.BinarySign(x)", (6, 3, 4)),
    "BinaryConv2d": (conv("BinaryConv2d", "s, b", 6), (6, 5, 5)),
    "BinaryConv2d, pads that add nothing": (
        conv("BinaryConv2d", "s, b", 6, pads="[2,0,1,1]", pad_value=0.0),
        (6, 5, 5),
    ),
    "BinaryConv2dThreshold": (conv("BinaryConv2dThreshold", "t, d", 6), (6, 5, 5)),
    "BinaryWeightConv2d": (conv("BinaryWeightConv2d", "s, b", 6, pad_value=0.0), (6, 5, 5)),
    "BinaryConv2d in groups": (
        conv("BinaryConv2d", "s6, b6", 3, bits="p3", window=grouped(2), pad_value=0.0),
        (6, 5, 5),
    ),
    "BinaryConv2dThreshold in groups": (
        conv("BinaryConv2dThreshold", "t6, m", 3, bits="p3", window=grouped(2)),
        (6, 5, 5),
    ),
    "BinaryConv2d, depthwise": (
        conv("BinaryConv2d", "s6, b6", 1, bits="p1", window=grouped(6)),
        (6, 5, 5),
    ),
    "BinaryWeightConv2d in groups": (
        conv("BinaryWeightConv2d", "s6, b6", 3, bits="p3", window=grouped(2), pad_value=0.0),
        (6, 5, 5),
    ),
    "BinaryWeightConv2d, depthwise": (
        conv("BinaryWeightConv2d", "s6, b6", 1, bits="p1", window=grouped(6), pad_value=0.0),
        (6, 5, 5),
    ),
    "Conv in groups": ("Conv <group=2, pads=[1,1,1,1]> (x, w3)", (6, 5, 5)),
    "Conv, depthwise": ("Conv <group=6, strides=[2,1]> (x, w1)", (6, 5, 5)),
    "Conv of a line": ("Conv <pads=[2,1], strides=[2], dilations=[2]> (x, wl, b)", (6, 11)),
    "Conv of a line, depthwise": ("Conv <group=6, pads=[1,1]> (x, wl1)", (6, 11)),
    "MaxPool of a line": ("MaxPool <kernel_shape=[3], strides=[2], pads=[1,0]> (x)", (6, 11)),
    "AveragePool of a line": ("AveragePool <kernel_shape=[2], strides=[2]> (x)", (6, 12)),
    "GlobalAveragePool of a line": ("GlobalAveragePool(x)", (6, 8)),
    "ReduceMean of a line": ("ReduceMean <keepdims=0> (x, two)", (6, 8)),
    "Slice of a line": ("Slice(x, starts, ends, lines)", (6, 9)),
    "Pad of a line": ("Pad(x, beside)", (6, 4)),
    "Unsqueeze": ("Unsqueeze(x, two)", (6, 4)),
    "Squeeze": ("Squeeze(x, two)", (6, 1, 4)),
    "Mul of a line": ("Mul(x, cl)", (6, 4)),
    "Add by element": ("Add(x, e)", (6, 3, 4)),
    "Mul by row": ("Mul(x, r)", (6, 3, 4)),
    "Sub by pixel": ("Sub(x, pixel)", (6, 3, 4)),
    "Neg": ("Neg(x)", (6, 3, 4)),
    "LeakyRelu": ("LeakyRelu <alpha=0.25> (x)", (6, 3, 4)),
    "PRelu": ("PRelu(x, c)", (6, 3, 4)),
    "PRelu by element": ("PRelu(x, e)", (6, 3, 4)),
    "PRelu of one slope": ("PRelu(x, low)", (6, 3, 4)),
    "HardSigmoid": ("HardSigmoid <alpha=0.25, beta=0.5> (x)", (6, 3, 4)),
    "Concat": ("Concat <axis=1> (x, x, x)", (6, 3, 4)),
    "Concat of more than a node takes": ("Concat <axis=-3> (x, x, x, x, x, x, x)", (6, 3, 4)),
    "DepthToSpace": ("DepthToSpace <blocksize=2> (x)", (12, 3, 4)),
    "DepthToSpace, columns first": ('DepthToSpace <blocksize=2, mode="CRD"> (x)', (12, 3, 4)),
    "SpaceToDepth": ("SpaceToDepth <blocksize=2> (x)", (3, 4, 6)),
    "Slice of channels": ("Slice(x, one, five, one)", (6, 3, 4)),
    "Slice from the end": ("Slice(x, starts, minus, axes)", (6, 7, 9)),
    "BinaryMaxPool2d": (
        "bindeploy.BinaryMaxPool2d <kernel_shape=[2,3], strides=[2,1], pads=[0,1,0,1]> (x, m)",
        (6, 6, 5),
    ),
}


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("isa", [None, "scalar"])
def test_an_op_gives_what_onnx_says(case, isa, graph):
    expression, shape = EXACT[case]
    constants = {
        "w": whole(5, 6, 3, 3), "b": whole(5), "s": whole(5), "p": packed(5, 3, 3, 6),
        "c": np.array([1, 2, 4, -8, 0.5, -0.25], np.float32).reshape(1, 6, 1, 1),
        "t": np.array([-9, 0, 3, 54, 2**31 - 1], np.int32),
        "d": np.array([1, -1, 1, -1, 1], np.int8), "m": np.array([1, -1, 1, -1, 1, -1], np.int8),
        "low": np.float32(-1), "high": np.float32(2),
        "starts": np.array([1, -3]), "ends": np.array([2**31, 2**31]), "steps": np.array([3, 2]),
        "axes": np.array([2, 3]), "around": np.array([0, 2, 1, 0, 0, 1, 0, 3]),
        "b6": whole(6), "s6": whole(6), "p3": packed(6, 3, 3, 3), "p1": packed(6, 3, 3, 1),
        "t6": np.arange(-3, 3, dtype=np.int32), "w3": whole(4, 3, 3, 3), "w1": whole(6, 1, 3, 3),
        "wl": whole(5, 6, 3), "wl1": whole(6, 1, 3), "cl": whole(6, 1), "two": np.array([2]),
        "lines": np.array([-1, 1]), "beside": np.array([0, 2, 1, 0, 0, 3]), "e": whole(1, 6, 3, 4),
        "r": whole(3, 1), "pixel": whole(1, 1, 3, 4), "one": np.array([1]), "five": np.array([5]),
        "minus": np.array([-1, -1]),
    }  # fmt: skip
    read = {word.strip("(,) ") for word in expression.replace("(", " ").split()}
    used = {name: value for name, value in constants.items() if name in read}
    sizes = ",".join(map(str, shape))
    model = graph(f"[N,{sizes}]", f"[n] y = {expression}", **used)
    x = whole(2, *shape)
    assert np.array_equal(ours(model, x, isa=isa), expected(model, x))


DENSE = {
    "Gemm": ("Gemm(f, w, b)", {"w": (24, 5)}),
    "Gemm, transposed": ("Gemm <transB=1> (f, w, b)", {"w": (5, 24)}),
    "MatMul and Add": ("MatMul(f, w) y = Add(m, b)", {"w": (24, 5)}),
    "BinaryLinear": ("bindeploy.BinaryLinear <channels=24> (f, p, b, b)", {}),
    "BinaryLinearThreshold": ("bindeploy.BinaryLinearThreshold <channels=24> (f, p, t, d)", {}),
    "BinaryWeightLinear": ("bindeploy.BinaryWeightLinear <channels=24> (f, p, b, b)", {}),
}


@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize("shape", [(24,), (6, 2, 2), (24, 1, 1)])
def test_a_dense_layer_reads_pictures_and_features(case, shape, graph):
    expression, weights = DENSE[case]
    output = "m" if expression.startswith("MatMul") else "y"
    constants = {name: whole(*size) for name, size in weights.items()} | {"b": whole(5)}
    if "bindeploy" in expression:
        constants |= {"p": packed(5, 24), "t": np.arange(-2, 3, dtype=np.int32),
                      "d": np.array([1, 1, 1, -1, -1], np.int8)}  # fmt: skip
    sizes = ",".join(map(str, shape))
    model = graph(f"[N,{sizes}]", f"f = Flatten(x) {output} = {expression}", **constants)
    x = whole(3, *shape)
    answer = ours(model, x)
    assert answer.shape == (3, 5)
    assert np.array_equal(answer, expected(model, x))


def test_batch_normalization_agrees_to_a_rounding(graph):
    constants = {name: whole(6) for name in "gbm"} | {"v": np.abs(whole(6)) + 1}
    model = graph("[N,6,3,4]", "y = BatchNormalization(x, g, b, m, v)", **constants)
    x = whole(2, 6, 3, 4)
    np.testing.assert_allclose(ours(model, x), expected(model, x), rtol=1e-5, atol=1e-6)


def test_a_negative_pad_crops(graph):
    pads = np.array([0, -2, 1, 0, 0, 1, -2, -3])
    x = whole(2, 6, 3, 4)
    expected = np.pad(x[:, 2:, :1, :1], ((0, 0), (0, 1), (1, 0), (0, 0)))
    assert np.array_equal(ours(graph("[N,6,3,4]", "y = Pad(x, pads)", pads=pads), x), expected)
