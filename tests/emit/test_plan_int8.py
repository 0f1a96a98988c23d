"""Int8 layers in a plan give what the dialect says, bit for bit, or are refused in one line."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect
from bindeploy.emit.plan import lower
from bindeploy.emit.plan_format import Type
from bindeploy.errors import BindeployError
from bindeploy.session import Session

RANDOM = np.random.default_rng(0)
PLAIN = "<group=1, strides=[1,1], pads=[0,0,0,0], dilations=[1,1]>"
RAGGED = "<group=2, strides=[2,1], pads=[0,2,1,1], dilations=[1,2]>"
BOTH = {"": "s, b", "Threshold": "t, d"}


def constants(*shape: int) -> dict[str, np.ndarray]:
    filters = shape[0]
    return {
        "w": RANDOM.integers(-127, 128, shape).astype(np.int8),
        "i": np.float32(0.037),
        "s": RANDOM.normal(size=filters).astype(np.float32),
        "b": RANDOM.normal(size=filters).astype(np.float32),
        "t": RANDOM.integers(-5000, 5000, filters).astype(np.int32),
        "d": RANDOM.choice(np.array([-1, 1], np.int8), filters),
    }


def given(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32) * np.float32(2)


def model_of(graph, shape: str, body: str, arrays: dict[str, np.ndarray], output="float y"):
    read = {word.strip("(,) ") for word in body.replace("(", " ").split()}
    used = {name: array for name, array in arrays.items() if name in read}
    return graph(shape, body, output, **used)


def both(model: ir.Model, x: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=dialect.REFERENCE_OPS)
    (expected,) = evaluator.run(None, {"x": x})
    for isa in (None, "scalar"):
        with Session(model, isa=isa) as session:
            np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
    return expected


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("window", [PLAIN, RAGGED])
def test_convolutions(kind, window, graph):
    channels = 6 if window == PLAIN else 3
    body = f"[n] y = bindeploy.Int8Conv2d{kind} {window} (x, w, i, {BOTH[kind]})"
    model = model_of(graph, "[N,6,7,5]", body, constants(4, channels, 3, 2))
    assert len(np.unique(both(model, given(3, 6, 7, 5)))) > 1


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("shape", [(24,), (6, 2, 2), (24, 1, 1)])
def test_a_dense_layer_reads_pictures_and_features(kind, shape, graph):
    body = f"f = Flatten(x) [n] y = bindeploy.Int8Linear{kind} (f, w, i, {BOTH[kind]})"
    model = model_of(graph, f"[N,{','.join(map(str, shape))}]", body, constants(5, 24))
    assert both(model, given(3, *shape)).shape == (3, 5)


def test_signs_go_from_one_to_the_next_as_bits(graph):
    """A threshold's bits are pooled as bits, and are floats again for a layer of integers."""
    body = f"""[n] y = bindeploy.Int8Conv2dThreshold {PLAIN} (x, w, i, t, d)
        [p] z = MaxPool <kernel_shape=[2,2], strides=[2,2]> (y)
        [m] u = bindeploy.Int8Conv2d {PLAIN} (z, v, one, s, b)"""
    arrays = constants(6, 6, 2, 2)
    arrays |= {"v": RANDOM.integers(-9, 9, (6, 6, 1, 1)).astype(np.int8), "one": np.float32(1)}
    model = model_of(graph, "[N,6,5,5]", body, arrays, "float u")
    both(model, given(2, 6, 5, 5))
    ops = [node.op for node in lower(model).nodes]
    assert ops == [
        *("to_nhwc", "int8_conv_threshold", "binary_max_pool", "unpack", "int8_conv", "to_nchw")
    ]


def test_a_clamp_goes_into_the_layer(graph):
    body = f"[n] v = bindeploy.Int8Conv2d {PLAIN} (x, w, i, s, b) [r] y = Relu(v)"
    model = model_of(graph, "[N,6,5,5]", body, constants(6, 6, 2, 2))
    assert both(model, given(2, 6, 5, 5)).min() == 0
    assert [node.op for node in lower(model).nodes] == ["to_nhwc", "int8_conv", "to_nchw"]


CHAIN = f"""[a] v = bindeploy.Int8Conv2d {PLAIN} (x, w, i, s, b) [r] u = Relu(v)
    [c] y = bindeploy.Int8Conv2d {PLAIN} (u, p, i, s, b)"""


@pytest.mark.parametrize(
    ("after", "output", "type"),
    [("", "y", Type.I8), ("z = Add(y, u)", "z", Type.F32)],
    ids=["read as integers alone", "read as floats too"],
)
def test_a_layer_rounds_what_integers_alone_read(after, output, type, graph):
    arrays = constants(6, 6, 1, 1) | {"p": RANDOM.integers(-9, 9, (6, 6, 1, 1)).astype(np.int8)}
    model = model_of(graph, "[N,6,5,5]", f"{CHAIN} {after}", arrays, f"float {output}")
    both(model, given(2, 6, 5, 5))
    plan = lower(model)
    first = next(node for node in plan.nodes if node.op == "int8_conv")
    assert plan.tensors[first.output].type is type


REFUSED = {
    "channels": ((4, 5, 1, 1), {}, "1 groups of 5 channels and 4 filters in all"),
    "rank": ((4, 6), {}, r"weights \[4, 6\] do not fit 6 channels"),
    "input scale": (
        (4, 6, 1, 1),
        {"i": np.float32(0)},
        "input scale is 0.0; it must be one finite",
    ),
    "scale": ((4, 6, 1, 1), {"s": np.zeros(3, "f4")}, r"scale \[3\] does not fit 4 filters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, graph):
    shape, changed, message = REFUSED[case]
    body = f"[n] y = bindeploy.Int8Conv2d {PLAIN} (x, w, i, s, b)"
    model = model_of(graph, "[N,6,5,5]", body, constants(*shape) | changed)
    with pytest.raises(BindeployError, match=f"Int8Conv2d `n`: .*{message}"):
        lower(model)
    body = "f = Flatten(x) [n] y = bindeploy.Int8Linear (f, w, i, s, b)"
    model = model_of(graph, "[N,6,5,5]", body, constants(4, 7))
    with pytest.raises(BindeployError, match=r"Int8Linear `n`: weights \[4, 7\] do not fit 150"):
        lower(model)
