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


def conv(op: str, vectors: str, channels: int, pads: str = "[1,1,1,1]", pad_value: float = 1.0):
    attributes = f"<channels={channels}, {WINDOW}, pads={pads}, pad_value={pad_value}>"
    return f"bindeploy.{op} {attributes} (x, p, {vectors})"


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
    }  # fmt: skip
    read = {word.strip("(,) ") for word in expression.replace("(", " ").split()}
    used = {name: value for name, value in constants.items() if name in read}
    model = graph(f"[N,{shape[0]},{shape[1]},{shape[2]}]", f"[n] y = {expression}", **used)
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
