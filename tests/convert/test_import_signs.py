"""Every spelling of sign by numbers, zeros among them; what stays, and what is said of it."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from bindeploy.convert import dialect
from bindeploy.convert.engines import onnxruntime_run
from bindeploy.convert.import_signs import ASSUMPTION, ImportSigns, assumption, why_not_binary

CONSTANTS = (
    "float zero = {0}, float one = {1}, float two = {2}, float half = {0.5}, float tenth = {0.1},"
    " float minus = {-1}, int64 izero = {0}, int64[1] last = {1}"
)
AS_OURS = [
    "c = GreaterOrEqual(x, zero) y = Where(c, one, minus)",
    "c = LessOrEqual(zero, x) y = Where(c, one, minus)",
    "c = Less(x, zero) y = Where(c, minus, one)",
    "c = Less(x, zero) n = Not(c) y = Where(n, one, minus)",
    "c = Greater(zero, x) f = Cast <to=1> (c) g = Mul(two, f) y = Sub(one, g)",
    "c = GreaterOrEqual(x, zero) f = Cast <to=1> (c) g = Mul(f, two) y = Sub(g, one)",
    "c = GreaterOrEqual(x, zero) f = CastLike(c, x) g = Add(f, f) y = Add(g, minus)",
    "c = GreaterOrEqual(x, zero) f = Cast <to=1> (c) g = Sub(f, half) y = Div(g, half)",
    "c = GreaterOrEqual(x, zero) i = Cast <to=7> (c) j = Add(i, i) k = Cast <to=1> (j) "
    "y = Sub(k, one)",
    "s = Sign(x) a = Add(s, tenth) y = Sign(a)",
    "s = Sign(x) a = Add(tenth, s) b = Identity(a) y = Sign(b)",
    "s = Sign(x) c = Equal(x, zero) y = Where(c, one, s)",
    "s = Sign(x) c = Equal(s, zero) y = Where(c, one, s)",
    "s = Sign(x) c = Equal(s, zero) f = Cast <to=1> (c) y = Add(s, f)",
    "s = Sign(x) h = Shape(x) o = ConstantOfShape <value = float[1] {1}> (h) c = Equal(s, zero) "
    "y = Where(c, o, s)",
    "h = Shape(x) o = Expand(one, h) m = Neg(o) c = GreaterOrEqual(x, zero) y = Where(c, o, m)",
    "a = GreaterOrEqual(x, zero) b = Greater(x, zero) c = Or(a, b) y = Where(c, one, minus)",
]


def parsed(
    body: str, types="(float[N,6] x) => (float[N,6] y)", constants=CONSTANTS, **arrays: np.ndarray
) -> ir.Model:
    """The model of a text, with every type and shape that can be known.

    `arrays` are the initializers too large for a text, which has one of one number for each.
    """
    text = f'<ir_version: 10, opset_import: ["": 20]> g {types} <{constants}> {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    model = model.clone()
    dialect.attach_functions(model)
    return onnxruntime_run(ir.to_proto(model))(x)[0]


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


@pytest.fixture
def x() -> np.ndarray:
    """[50, 6]: a third of it 0, half of these -0."""
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 6)).astype(np.float32)
    return np.where(random.uniform(size=x.shape) < 1 / 3, np.copysign(np.float32(0), x), x)


@pytest.mark.parametrize("body", AS_OURS)
def test_a_spelling_that_is_plus_one_at_zero_is_our_sign(x, body):
    model = parsed(body)
    before = run(model, x)
    assert ImportSigns()(model).modified
    assert kinds(model) == ["BinarySign"]
    np.testing.assert_array_equal(run(model, x), before)
    np.testing.assert_array_equal(before, np.where(x >= 0, 1, -1))
    assert assumption(model.graph.outputs[0]) is None
    assert not ImportSigns()(model).modified


@pytest.mark.parametrize(
    ("body", "scale"),
    [
        ("m = Neg(half) c = GreaterOrEqual(x, zero) y = Where(c, half, m)", 0.5),
        ("c = GreaterOrEqual(x, zero) y = Where(c, minus, one)", -1),
        ("c = Less(x, zero) s = Where(c, minus, one) t = Mul(s, two) y = Neg(t)", -2),
    ],
)
def test_a_sign_of_other_numbers_keeps_them_as_its_scale(x, body, scale):
    model = parsed(body)
    ImportSigns()(model)
    assert kinds(model) == ["BinarySign", "Mul"]
    np.testing.assert_array_equal(run(model, x), scale * np.where(x >= 0, 1, -1))
    assert not ImportSigns()(model).modified


def test_a_scale_per_channel_stays_behind_the_sign(x):
    model = parsed(
        "c = GreaterOrEqual(x, zero) s = Where(c, one, minus) y = Mul(s, k)",
        constants=f"{CONSTANTS}, float[6] k = {{1, 2, 3, 4, 5, 6}}",
    )
    ImportSigns()(model)
    assert kinds(model) == ["BinarySign", "Mul"]
    np.testing.assert_array_equal(run(model, x), np.where(x >= 0, 1, -1) * np.arange(1, 7))
    assert why_not_binary(model.graph.outputs[0]) == "signs times a scale"


def test_sign_of_a_float_reads_zero_as_plus_one_and_says_so(x):
    model = parsed("y = Sign(x)")
    ImportSigns()(model)
    assert kinds(model) == ["BinarySign"]
    assert assumption(model.graph.outputs[0]) == ASSUMPTION
    np.testing.assert_array_equal(run(model, x)[x != 0], np.sign(x)[x != 0])
    np.testing.assert_array_equal(run(model, x)[x == 0], 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("r = Relu(x)", "follows Relu"),
        ("r = Clip(x, zero, one)", "follows Clip"),
        ("r = Round(x)", "follows Round, whose numbers are whole"),
        ("a = Relu(x) r = Neg(a)", "follows Relu"),
        ("a = Relu(x) b = Relu(x) r = Add(a, b)", "follows Relu"),
        ("a = Cast <to=7> (x) r = Cast <to=1> (a)", "follows Cast, whose numbers are whole"),
        ("r = Max(x, zero)", "follows a constant 0"),
    ],
)
def test_sign_of_what_is_often_zero_stays_and_says_why(x, body, reason):
    model = parsed(f"{body} y = Sign(r)")
    before = run(model, x)
    assert not ImportSigns()(model).modified
    np.testing.assert_array_equal(run(model, x), before)
    said = why_not_binary(model.graph.outputs[0])
    assert said == f"Sign gives 0 at 0 and {reason}"


@pytest.mark.parametrize("body", ["r = Tanh(x)", "r = Clip(x, minus, one)", "r = Add(x, half)"])
def test_sign_of_what_is_seldom_zero_is_taken(x, body):
    model = parsed(f"{body} y = Sign(r)")
    assert ImportSigns()(model).modified
    assert assumption(model.graph.outputs[0]) == ASSUMPTION


def test_greater_than_zero_is_exact_where_zeros_are_common(x):
    body = "r = Relu(x) c = Greater(r, zero) y = Where(c, one, minus)"
    model = parsed(body)
    ImportSigns()(model)
    assert kinds(model) == ["Relu", "Neg", "BinarySign", "Mul"]
    np.testing.assert_array_equal(run(model, x), np.where(x > 0, 1, -1))
    assert assumption(model.graph.outputs[0]) is None
    assert not ImportSigns()(model).modified


def test_greater_than_zero_of_a_float_is_one_node_and_says_what_zero_is_read_as(x):
    model = parsed("c = Greater(x, zero) y = Where(c, one, minus)")
    ImportSigns()(model)
    assert kinds(model) == ["BinarySign"]
    assert assumption(model.graph.outputs[0]) == ASSUMPTION


def test_the_signs_of_two_values_make_no_sign_of_one():
    model = parsed(
        "a = Less(x, zero) t = Neg(x) b = Less(t, zero) c = And(a, b) y = Where(c, one, minus)"
    )
    assert not ImportSigns()(model).modified


def test_zeros_and_ones_are_no_signs():
    model = parsed("c = GreaterOrEqual(x, zero) y = Cast <to=1> (c)")
    assert not ImportSigns()(model).modified
    assert why_not_binary(model.graph.outputs[0]) == "0 or 1"


def test_a_constant_larger_than_x_makes_no_sign_of_x():
    types = "(float[1,6] x) => (float[5,6] y)"
    ones = f"{CONSTANTS}, float[5,1] ones = {{1, 1, 1, 1, 1}}"
    body = "c = GreaterOrEqual(x, zero) y = Where(c, ones, minus)"
    assert not ImportSigns()(parsed(body, types, ones)).modified
    types = "(float[5,6] x) => (float[5,6] y)"
    assert ImportSigns()(parsed(body, types, ones)).modified


@pytest.mark.parametrize("kind", ["double", "float16"])
def test_signs_of_other_floats_stay(kind):
    types = f"({kind}[N,6] x) => ({kind}[N,6] y)"
    model = parsed("y = Sign(x)", types)
    assert not ImportSigns()(model).modified
    words = "a sign of numbers not known to be float32"
    assert why_not_binary(model.graph.outputs[0]) == words


LAYER = "(float[N,{channels},5,5] x) => (float[N,4,h,w] y)"


def summed(channels: int, pads: int = 0, weight: float = 0.5, bias: str = "", after: str = ""):
    """sign(conv(sign(x), w)), w = +-weight over channels * 9 terms."""
    random = np.random.default_rng(channels)
    signs = random.choice([-weight, weight], (4, channels, 3, 3)).astype(np.float32)
    constants = f"{CONSTANTS}, float[1] w = {{1}}, float[4] b = {{0, 0, 0, 0}}"
    constants += ", float[4] m = {0, 1, 2, 3}, float[4] v = {1, 1, 1, 1}, float[4] n = {1, 2, 3, 4}"
    body = (
        "c = GreaterOrEqual(x, zero) s = Where(c, one, minus) "
        f"z = Conv <pads=[{pads},{pads},{pads},{pads}]> (s, w{bias}) {after or 'o = Identity(z)'} "
        "y = Sign(o)"
    )
    return parsed(body, LAYER.format(channels=channels), constants, w=signs)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"channels": 3}, None),
        ({"channels": 2}, "a sum of 18 terms, which can be 0"),
        ({"channels": 3, "pads": 1}, "a sum of 27 terms, which can be 0"),
        ({"channels": 2, "bias": ", b"}, "a sum of 18 terms, which can be 0"),
        ({"channels": 2, "bias": ", n"}, ASSUMPTION),
        ({"channels": 2, "after": "o = MaxPool <kernel_shape=[2,2]> (z)"}, "a sum of 18 terms"),
        ({"channels": 3, "after": "o = MaxPool <kernel_shape=[2,2]> (z)"}, None),
        ({"channels": 3, "after": "t = Mul(z, half) o = Neg(t)"}, None),
        ({"channels": 3, "after": "o = Add(z, z)"}, "a sum of whole numbers"),
        ({"channels": 3, "after": "o = GlobalAveragePool(z)"}, "a sum that can be 0"),
        ({"channels": 2, "after": "o = BatchNormalization(z, v, b, b, v)"}, "a sum of 18 terms"),
        ({"channels": 2, "after": "o = BatchNormalization(z, v, n, m, v)"}, ASSUMPTION),
        ({"channels": 2, "after": "o = BatchNormalization(z, b, b, m, v)"}, "a channel is all 0"),
    ],
)
def test_a_sum_of_signs_is_zero_by_its_number_of_terms(given, outcome):
    model = summed(**given)
    before, x = kinds(model).count("Sign"), np.zeros((2, given["channels"], 5, 5), np.float32)
    x[1] = np.random.default_rng(5).normal(size=x[1].shape)
    expected = run(model, x)
    ImportSigns()(model)
    output = model.graph.outputs[0]
    assert before == 1 and kinds(model).count("BinarySign") == 1 + (why_not_binary(output) == "")
    if outcome is None:
        assert why_not_binary(output) == "" and assumption(output) is None
        np.testing.assert_array_equal(run(model, x), expected)
    elif outcome == ASSUMPTION:
        assert why_not_binary(output) == "" and assumption(output) == ASSUMPTION
    else:
        assert outcome in why_not_binary(output)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = Relu(x)", "preceded by Relu"),
        ("r = Relu(x) f = Flatten(r) y = Reshape(f, shape)", "preceded by Relu"),
        ("y = MatMul(x, w)", "computed by MatMul `layer`"),
        ("y = Identity(x)", "the input of the network"),
        ("s = Sign(x) y = Pad(s, pads)", "signs padded with 0"),
        ("s = Sign(x) y = Pad(s, pads, one)", ""),
        ("s = Sign(x) r = Relu(x) y = Concat <axis=1> (s, r)", "preceded by Relu"),
        ("s = Sign(x) y = Tanh(s)", "preceded by Tanh"),
    ],
)
def test_why_a_value_is_not_binary_is_said_in_words(body, words):
    constants = f"{CONSTANTS}, float[6,6] w = {{{','.join(['0.5'] * 36)}}}"
    constants += ", int64[2] shape = {-1, 6}, int64[4] pads = {0, 1, 0, 1}"
    model = parsed(body, "(float[N,6] x) => (float[N,k] y)", constants)
    for node in model.graph:
        node.name = "layer" if node.op_type == "MatMul" else node.op_type
    ImportSigns()(model)
    assert why_not_binary(model.graph.outputs[0]) == words


def test_what_larq_layers_become_in_onnx():
    """ste_sign before a one-padded convolution, NHWC between layers, magnitude-aware weights."""
    random = np.random.default_rng(1)
    kernel = random.choice([-1, 1], (8, 6, 3, 3)) * random.uniform(0.1, 2, (8, 1, 1, 1))
    constants = f"{CONSTANTS}, float[1] kernel = {{1}}, int64[8] pads = {{0,1,1,0,0,1,1,0}}"
    constants += ", float[6] gamma = {1,-1,2,1,-2,1}, float[6] beta = {0.1,0.2,-0.3,0.1,0.2,0.5}"
    constants += ", float[6] mean = {0,1,0,1,2,1}, float[6] variance = {1,2,1,2,1,3}"
    model = parsed(
        """n = Transpose <perm=[0,3,1,2]> (x)
            b = BatchNormalization(n, gamma, beta, mean, variance)
            t = Transpose <perm=[0,2,3,1]> (b)
            s = Sign(t) a = Add(s, tenth) q = Sign(a)
            p = Pad(q, pads, one)
            u = Transpose <perm=[0,3,1,2]> (p)
            c = Conv <kernel_shape=[3,3]> (u, kernel)
            y = Transpose <perm=[0,2,3,1]> (c)""",
        "(float[N,7,7,6] x) => (float[N,h,w,8] y)",
        constants,
        kernel=kernel.astype(np.float32),
    )
    x = random.normal(size=(2, 7, 7, 6)).astype(np.float32)
    before = run(model, x)
    ImportSigns()(model)
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert why_not_binary(conv.inputs[0]) == "" and assumption(conv.inputs[0]) is None
    np.testing.assert_array_equal(run(model, x), before)


def test_a_weight_that_is_not_folded_yet_is_left_to_folding():
    constants = f"{CONSTANTS}, float[2] w = {{0.5, -0.25}}"
    types = "(float[N,2] x) => (float[N,2] y)"
    model = parsed("s = Sign(w) y = Mul(x, s)", types, constants)
    assert not ImportSigns()(model).modified


def test_a_long_chain_takes_no_recursion():
    body = " ".join(f"v{n + 1} = Neg(v{n})" for n in range(3000))
    model = parsed(f"v0 = Relu(x) {body} y = Sign(v3000)")
    ImportSigns()(model)
    assert why_not_binary(model.graph.outputs[0]).endswith("follows Relu")


UNARY = ("Sign({})", "Neg({})", "Abs({})", "Identity({})")
BINARY = ("Add({}, {})", "Sub({}, {})", "Mul({}, {})")
NUMBERS = ("zero", "one", "two", "half", "tenth", "minus")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_made_of_a_sign_keeps_its_numbers(x, seed):
    """Random expressions of comparisons and constants; x is a float, so only Sign(0) may differ."""
    random = np.random.default_rng(seed)
    values = ["s0"]
    body = ["c = GreaterOrEqual(x, zero) f = Cast <to=1> (c) s0 = Sub(f, half)"]
    for number in range(1, 8):
        kinds_of = UNARY if random.integers(2) else BINARY
        form = str(random.choice(kinds_of))
        names = [str(random.choice([values[-1], *NUMBERS])) for _ in range(form.count("{"))]
        names[int(random.integers(len(names)))] = values[-1]
        values.append(f"s{number}")
        body.append(f"s{number} = {form.format(*names)}")
    model = parsed(" ".join([*body, f"y = Tanh({values[-1]})"]))
    before = run(model, x)
    ImportSigns()(model)
    np.testing.assert_array_equal(run(model, x), before)
