"""Maps before a sign are its bounds, and not a sign changes, whatever the floats are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect
from bindeploy.emit.plan import lower
from bindeploy.emit.plan_bounds import INFINITY, bounds, float_at
from bindeploy.session import Session

CHANNELS = 70
generator = np.random.default_rng(0)
TINY = np.float32(1e-45)
LARGEST = np.finfo(np.float32).max
SPECIAL = np.float32(
    [0, -0.0, 1, -1, TINY, -TINY, 1e-38, -1e-38, LARGEST, -LARGEST, np.inf, -np.inf, np.nan]
)


def normal(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def images() -> np.ndarray:
    """Numbers of all sizes, and what is no ordinary number."""
    x = normal(3, CHANNELS, 4, 5) * np.float32(10.0) ** generator.integers(
        -3, 3, (3, CHANNELS, 4, 5)
    )
    x = x.astype(np.float32)
    chosen = generator.random(x.shape) < 0.3
    x[chosen] = generator.choice(SPECIAL, int(chosen.sum()))
    return x


def parameters() -> dict[str, np.ndarray]:
    """By channel; scales of both signs, slopes that are 0 or more, and among all some zeros."""
    made = {name: normal(CHANNELS, 1, 1) for name in "gbdt"}
    made |= {"s": np.abs(normal(CHANNELS, 1, 1)), "k": -np.abs(normal(CHANNELS, 1, 1))}
    for name in "gbst":
        made[name][generator.random((CHANNELS, 1, 1)) < 0.15] = 0
    return made | {
        "low": np.float32(-0.5),
        "high": np.float32(0.75),
        "e": normal(1, CHANNELS, 4, 5),
    }


def ops(model: ir.Model) -> list[str]:
    return [node.op for node in lower(model).nodes]


def same(model: ir.Model, x: np.ndarray) -> None:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=dialect.REFERENCE_OPS)
    with np.errstate(all="ignore"):
        expected = evaluator.run(None, {"x": x})[0]
    for isa in (None, "scalar"):
        with Session(model, isa=isa) as opened:
            np.testing.assert_array_equal(opened.run(None, {"x": x})[0], expected)


SIGN = "y = bindeploy.latent.BinarySign"
MAPS = {
    "RSign": (f"v = Add(x, b) {SIGN}(v)", []),
    "scale": (f"v = Mul(x, g) {SIGN}(v)", []),
    "scale and shift": (f"u = Mul(x, g) v = Add(u, b) {SIGN}(v)", []),
    "negated": (f"u = Neg(x) v = Add(u, b) {SIGN}(v)", []),
    "RPReLU and a shift": (
        f"a = Add(x, b) p = PRelu(a, s) q = Add(p, d) v = Sub(q, t) {SIGN}(v)",
        [],
    ),
    "two scales": (f"u = Mul(x, g) w = Add(u, b) o = Mul(w, t) v = Add(o, d) {SIGN}(v)", []),
    "limits": (f"u = Mul(x, g) c = Clip(u, low, high) v = Add(c, b) {SIGN}(v)", []),
    "never below 0": (f"r = Relu(x) {SIGN}(r)", []),
    "a slope that turns": (f"p = PRelu(x, k) v = Add(p, b) {SIGN}(v)", ["prelu"]),
    "by element": (f"v = Add(x, e) {SIGN}(v)", ["affine"]),
    "by element, then by channel": (f"u = Add(x, e) v = Mul(u, g) {SIGN}(v)", ["affine"]),
    "read twice": ("v = Add(x, b) s2 = bindeploy.latent.BinarySign(v) y = Add(v, s2)", ["affine"]),
}


@pytest.mark.parametrize(("body", "left"), MAPS.values(), ids=MAPS)
def test_maps_by_channel_before_a_sign_are_its_bounds(body, left, graph):
    made = parameters()
    read = {word.strip("(,)") for word in body.replace("(", " ").split()}
    used = {name: value for name, value in made.items() if name in read}
    model = graph(f"[N,{CHANNELS},4,5]", body, **used)
    found = ops(model)
    assert [op for op in found if op in ("affine", "prelu", "clip")] == left
    assert sum(op in ("binarize", "binarize_planes") for op in found) == 1
    assert ("to_nhwc" in found) == bool(left)
    same(model, images())


def test_what_a_shortcut_reads_stays_and_bounds_begin_behind_it(graph):
    body = """a = Add(x, b) p = PRelu(a, s) v = Add(p, d) z = Mul(v, g)
        h = bindeploy.latent.BinarySign(z) y = Add(h, v)"""
    made = {name: value for name, value in parameters().items() if name in "bsdg"}
    model = graph(f"[N,{CHANNELS},4,5]", body, **made)
    assert ops(model) == ["to_nhwc", "prelu", "binarize", "unpack", "add", "to_nchw"]
    same(model, images())


CHAINS = {
    "ordinary": lambda x: np.float32(1.1) * x - np.float32(0.3),
    "falling": lambda x: np.float32(-1e-3) * x + np.float32(1e-9),
    "a factor of 0": lambda x: np.float32(0) * x + np.float32(1),
    "a factor of 0, below": lambda x: np.float32(0) * x - np.float32(1),
    "denormal products": lambda x: np.float32(1e-42) * x - np.float32(1e-45),
    "beyond the largest, then 0": lambda x: (np.float32(3e38) * x) * np.float32(0) + np.float32(2),
    "always": lambda x: np.maximum(x, np.float32(0)),
    "never": lambda x: np.minimum(x, np.float32(-1)),
    "identity": lambda x: x,
    "only infinity": lambda x: x - np.float32(np.inf) + x,
    "an underflow that is 0": lambda x: np.float32(1e-30) * x,
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_bounds_agree_with_the_chain_at_their_ends_and_everywhere(chain):
    with np.errstate(all="ignore"):
        lowest, highest = (float(bound[0]) for bound in bounds(chain, 1))
        places = [-INFINITY, -INFINITY + 1, -1, 0, 1, INFINITY - 1, INFINITY]
        places += [*generator.integers(-INFINITY, INFINITY + 1, 20000)]
        for bound in (lowest, highest):
            bits = int(np.float32(bound).view(np.int32))
            place = bits if bits >= 0 else -(bits & 0x7FFFFFFF)
            places += [min(max(place + step, -INFINITY), INFINITY) for step in (-1, 0, 1)]
        x = np.concatenate([float_at(np.array(places, np.int64)), SPECIAL])
        assert np.array_equal((lowest <= x) & (x <= highest), chain(x) >= 0)


def test_no_number_at_0_has_no_bounds():
    assert bounds(lambda x: x * np.float32(np.nan), 2) is None
