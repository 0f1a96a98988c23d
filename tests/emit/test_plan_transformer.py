"""Transformers: every spelling of their operators runs as in onnxruntime, up to float rounding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy.convert import convert, dialect, engines
from bindeploy.emit.plan import lower
from bindeploy.emit.plan_format import Plan
from bindeploy.session import Session

TOLERANCE = 1e-6
generator = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def ops(plan: Plan) -> list[str]:
    ends = {"to_nhwc", "to_nchw"}
    return [node.op for node in plan.nodes if node.op not in ends]


def agree(model: ir.Model, x: np.ndarray, tolerance: float = TOLERANCE) -> list[str]:
    """The ops of a model's plan, once it gives what onnxruntime gives, and its integers."""
    dialect.attach_functions(model)
    expected, integers = engines.run_onnxruntime(model, x)
    for isa, threads in ((None, 1), ("scalar", 3)):
        with Session(model, isa=isa, threads=threads) as opened:
            (found,) = opened.run(None, {opened.get_inputs()[0].name: x})
            seen = opened.integers(x)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
        for name, dots in integers.items():
            rows = np.moveaxis(seen[name], 1, -1).reshape(dots.shape)
            np.testing.assert_array_equal(rows, dots, err_msg=name)
    return ops(lower(model))


TOKENS, WIDTH, HEADS = 13, 21, 3
X = f"[N,{TOKENS},{WIDTH}]"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = LayerNormalization <epsilon=0.01> (x, g, b)", ["rearrange", "layer_norm"]),
        ("y = LayerNormalization (x, g)", ["rearrange", "layer_norm"]),
        ("y = Softmax (x)", ["rearrange", "softmax"]),
        ("y = Softmax <axis=1> (x)", ["softmax"]),
        ("y = LogSoftmax (x)", ["rearrange", "softmax"]),
        ("y = Gelu (x)", ["gelu"]),
        ('y = Gelu <approximate="tanh"> (x)', ["gelu_tanh"]),
        ("y = HardSwish (x)", ["hard_swish"]),
        ("y = Sigmoid (x)", ["sigmoid"]),
        ("y = Tanh (x)", ["tanh"]),
        ("y = Erf (x)", ["erf"]),
        ("s = Sigmoid (x) y = Mul (x, s)", ["silu"]),
        ("s = HardSigmoid <alpha=0.16666667> (x) y = Mul (s, x)", ["hard_swish"]),
        ("a = Add (x, three) c = Clip (a, zero, six) m = Mul (x, c) y = Div (m, six)",
         ["hard_swish"]),
        ("d = Div (x, root) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
         ["gelu"]),
        ("d = Mul (x, inverse) e = Erf (d) a = Add (one, e) h = Mul (half, x) y = Mul (h, a)",
         ["gelu"]),
        ("p = Pow (x, three) c = Mul (p, c044) i = Add (x, c) s = Mul (i, c079) t = Tanh (s) "
         "a = Add (t, one) h = Mul (x, half) y = Mul (h, a)", ["gelu_tanh"]),
        ("m = ReduceMean (x, last) d = Sub (x, m) p = Pow (d, two) v = ReduceMean (p, last) "
         "e = Add (v, small) r = Sqrt (e) q = Div (d, r) w = Mul (q, g) y = Add (w, b)",
         ["rearrange", "layer_norm"]),
        ("m = ReduceMean (x, last) d = Sub (x, m) p = Mul (d, d) v = ReduceMean (p, last) "
         "e = Add (v, small) r = Sqrt (e) y = Div (d, r)", ["rearrange", "layer_norm"]),
        ("y = MatMul (x, weights)", ["rearrange", "conv"]),
        ("m = MatMul (x, weights) y = Add (m, five)", ["rearrange", "conv"]),
        ("y = Gather <axis=1> (x, zero_index)", ["rearrange"]),
        ("y = Gather <axis=2> (x, every_third)", ["rearrange"]),
        ("t = Transpose <perm=[0,2,1]> (x) h, k = Split <axis=2, num_outputs=2> (t) "
         "y = MatMul (x, h)", ["rearrange", "matmul"]),
        ("r = Reshape (x, heads) t = Transpose <perm=[0,2,1,3]> (r) y = Relu (t)",
         ["rearrange", "clip"]),
        ("r = Reshape (x, heads) t = Transpose <perm=[0,2,3,1]> (r) y = Mul (t, half)",
         ["rearrange"]),
    ],
)  # fmt: skip
def test_an_operator_gives_the_numbers_of_onnxruntime(body, expected, graph):
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "half": 0.5, "small": 0.01,
               "root": np.sqrt(2), "inverse": 1 / np.sqrt(2), "c044": 0.044715,
               "c079": np.sqrt(2 / np.pi)}  # fmt: skip
    model = graph(
        X, body, g=normal(WIDTH), b=normal(WIDTH), weights=normal(WIDTH, 5), five=normal(5),
        last=np.array([-1]),
        zero_index=np.array(0), every_third=np.array([1, 4, 7]),
        heads=np.array([0, 0, HEADS, -1]),
        **{name: np.float32(value) for name, value in numbers.items()},
    )  # fmt: skip
    assert agree(model, 3 * normal(2, TOKENS, WIDTH)) == expected


SPLITS = {
    "split, then heads": """
        q, k, v = Split <axis=2, num_outputs=3> (x)
        qh = Reshape (q, heads) kh = Reshape (k, heads) vh = Reshape (v, heads)
        qt = Transpose <perm=[0,2,1,3]> (qh) kt = Transpose <perm=[0,2,3,1]> (kh)
        vt = Transpose <perm=[0,2,1,3]> (vh)""",
    "heads, then gather": """
        r = Reshape (x, three_heads) t = Transpose <perm=[2,0,3,1,4]> (r)
        qt = Gather <axis=0> (t, i0) kh = Gather <axis=0> (t, i1) vt = Gather <axis=0> (t, i2)
        kt = Transpose <perm=[0,1,3,2]> (kh)""",
    "heads, then slice": """
        r = Reshape (x, three_heads) t = Transpose <perm=[2,0,3,1,4]> (r)
        qs = Slice (t, l0, l1, l0) ks = Slice (t, l1, l2, l0) vs = Slice (t, l2, l3, l0)
        qt = Squeeze (qs, l0) kh = Squeeze (ks, l0) vt = Squeeze (vs, l0)
        kt = Transpose <perm=[0,1,3,2]> (kh)""",
}
SCALES = {
    "after": "s = MatMul (qt, kt) m = Mul (s, scale) w = Softmax (m)",
    "divided": "s = MatMul (qt, kt) m = Div (s, unscale) w = Softmax (m)",
    "before": "qs2 = Mul (qt, scale) s = MatMul (qs2, kt) w = Softmax (s)",
    "both": "qs2 = Mul (qt, root) ks2 = Mul (kt, root) s = MatMul (qs2, ks2) w = Softmax (s)",
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (7, 5), (17, 64), (50, 33)])
def test_attention_copies_nothing_but_its_input(split, scale, tokens, width, graph):
    """Queries, keys and values are read where the dense layer wrote them, heads written side by
    side; the factor is that of the softmax or of the product."""
    body = f"""{SPLITS[split]} {SCALES[scale]} o = MatMul (w, vt)
        u = Transpose <perm=[0,2,1,3]> (o) y = Reshape (u, joined)"""
    model = graph(
        f"[N,{tokens},{9 * width}]", body, heads=np.array([0, 0, HEADS, width]),
        three_heads=np.array([0, 0, 3, HEADS, width]), joined=np.array([0, 0, HEADS * width]),
        scale=np.float32(0.25), unscale=np.float32(4), root=np.float32(0.5),
        **{f"i{i}": np.array(i) for i in range(3)}, **{f"l{i}": np.array([i]) for i in range(4)},
    )  # fmt: skip
    found = agree(model, normal(2, tokens, 9 * width))
    assert [op for op in found if op != "rearrange"] == ["matmul", "softmax", "matmul"]
    assert found.count("rearrange") <= 1


def test_heads_beside_the_images_are_taken_for_what_they_are(graph):
    """Tokens first, images times heads as one axis, rows of all images at once: as
    nn.MultiheadAttention writes it."""
    body = """
        t = Transpose <perm=[1,0,2]> (x) m = MatMul (t, weights) a = Add (m, bias)
        r = Reshape (a, thirds) q, k, v = Split <axis=2, num_outputs=3> (r)
        qs = Squeeze (q, two) ks = Squeeze (k, two) vs = Squeeze (v, two)
        qr = Reshape (qs, beside) kr = Reshape (ks, beside) vr = Reshape (vs, beside)
        qt = Transpose <perm=[1,0,2]> (qr) kt = Transpose <perm=[1,2,0]> (kr)
        vt = Transpose <perm=[1,0,2]> (vr)
        s = MatMul (qt, kt) w = Softmax (s) o = MatMul (w, vt)
        u = Transpose <perm=[1,0,2]> (o) j = Reshape (u, rows)
        g = Gemm <transB=1> (j, square, short)
        e = Reshape (g, tokens) y = Transpose <perm=[1,0,2]> (e)"""
    model = graph(
        X, body, weights=normal(WIDTH, 3 * WIDTH), bias=normal(3 * WIDTH),
        square=normal(WIDTH, WIDTH), short=normal(WIDTH), two=np.array([2]),
        thirds=np.array([TOKENS, -1, 3, WIDTH]), beside=np.array([TOKENS, -1, WIDTH // HEADS]),
        rows=np.array([-1, WIDTH]), tokens=np.array([TOKENS, -1, WIDTH]),
    )  # fmt: skip
    found = agree(model, 0.2 * normal(3, TOKENS, WIDTH))
    assert found.count("conv") == found.count("matmul") == 2


def test_shapes_computed_from_the_input_are_numbers(graph):
    """As torch's exporters write heads: [N, T, 3, H, D] and sqrt(D) from Shape."""
    body = """
        sh = Shape (x) n = Slice (sh, l0, l2) hs = Concat <axis=0> (n, l3, lh, lm)
        r = Reshape (x, hs) t = Transpose <perm=[2,0,3,1,4]> (r)
        qg = Gather <axis=0> (t, i0) kg = Gather <axis=0> (t, i1) vg = Gather <axis=0> (t, i2)
        qsh = Shape (qg) d = Slice (qsh, lm, big) f = Cast <to=1> (d) root = Sqrt (f)
        qs = Div (qg, root) kt = Transpose <perm=[0,1,3,2]> (kg)
        s = MatMul (qs, kt) w = Softmax (s) o = MatMul (w, vg)
        u = Transpose <perm=[0,2,1,3]> (o) flat = Concat <axis=0> (n, lm) y = Reshape (u, flat)"""
    model = graph(
        f"[N,{TOKENS},{9 * 7}]", body, **{f"i{i}": np.array(i) for i in range(3)},
        l0=np.array([0]), l2=np.array([2]), l3=np.array([3]), lh=np.array([HEADS]),
        lm=np.array([-1]), big=np.array([np.iinfo(np.int64).max]),
    )  # fmt: skip
    assert agree(model, normal(2, TOKENS, 63)) == ["rearrange", "matmul", "softmax", "matmul"]


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, WIDTH)), (2, (TOKENS, 2))])
def test_a_token_stands_before_the_others_of_every_image(axis, shape, graph):
    """A constant that Expand repeats for N images, and one activation."""
    body = f"""sh = Shape (x) n = Slice (sh, l0, l1) es = Concat <axis=0> (n, sizes)
        e = Expand (token, es) y = Concat <axis={axis}> (e, x, e)"""
    model = graph(
        X, body, token=normal(1, *shape), sizes=np.array(shape), l0=np.array([0]),
        l1=np.array([1]),
    )  # fmt: skip
    expand = next(node for node in model.graph if node.op_type == "Expand")
    expand.outputs[0].shape = ir.Shape(["N", *shape])
    assert agree(model, normal(2, TOKENS, WIDTH)) == ["crop_pad", "affine"]


@pytest.mark.parametrize("mode", ["bw", "bwa"])
def test_a_vision_transformer_runs_whole_from_torch(mode):
    torch = pytest.importorskip("torch")
    from bindeploy.train.binarization import binarize
    from bindeploy.train.models.vit import VisionTransformer
    from bindeploy.train.to_onnx import export

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(3, 7, 48, "relu", width=192, depth=2)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 0.5, 0.2)
        x = torch.randn(3, 3, 48, 48)
        model = convert(export(binarize(network, "bnn++", mode).eval(), x))
    layer = "binary_weight_conv" if mode == "bw" else "binary_conv"
    found = agree(model, x.numpy(), tolerance=1e-5)
    assert [op for op in found if op not in ("rearrange", "binarize")] == [
        "conv", "crop_pad", "affine",
        *["layer_norm", layer, "matmul", "softmax", "matmul", layer,
          "layer_norm", layer, "gelu", layer] * 2,
        "layer_norm", "conv",
    ]  # fmt: skip
    assert found.count("rearrange") == 2  # patches become tokens; the class token is taken
