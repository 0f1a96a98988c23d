"""Where signs come from and where they go, through everything that moves numbers about."""

import re

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from bindeploy.convert.sign_flow import gives_signs, only_signs_are_read

CONSTANTS = (
    "int64[2] shape = {-1, 4}, int64[4] pads = {0, 1, 0, 1}, int64[1] first = {0},"
    " int64[1] second = {1}, int64[2] many = {2, 1}, int64[2] halves = {2, 2}, float zero = {0},"
    " float one = {1}, float minus = {-1}, float two = {2}, float[1,4] signs = {1, -1, -1, 1},"
    " float[1,4] mixed = {1, 0.5, -1, 1}"
)
MOVES = [
    "y = Identity(s)",
    "y = Flatten(s)",
    "y = Reshape(s, shape)",
    "y = Transpose <perm=[1,0]> (s)",
    "t = Unsqueeze(s, first) y = Squeeze(t, first)",
    "y = Gather <axis=1> (s, second)",
    "y = Slice(s, first, second, second)",
    "y = Tile(s, many)",
    "y = Expand(s, shape)",
    "y, z = Split <axis=1> (s, halves)",
    "y = Concat <axis=1> (s, s)",
    "y = Concat <axis=0> (signs, s)",
    "y = Pad(s, pads, one)",
    "y = Pad(s, pads, minus)",
    'y = Pad <mode="edge"> (s, pads)',
    "a = Transpose(s) b = Reshape(a, shape) c = Concat <axis=1> (b, s) y = Gather(c, second)",
]
IMAGE_MOVES = [
    "y = MaxPool <kernel_shape=[2,2], pads=[1,1,0,0]> (s)",
    "y = DepthToSpace <blocksize=2> (s)",
    "y = SpaceToDepth <blocksize=2> (s)",
]
CHANGES = [
    "y = Relu(s)",
    "y = Add(s, s)",
    "y = Mul(s, two)",
    "y = Pad(s, pads)",
    "y = Pad(s, pads, two)",
    "y = Concat <axis=1> (s, mixed)",
    "y = Concat <axis=1> (s, x)",
]


def parsed(body: str, shape: str = "N,4") -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["": 20, "bindeploy.latent": 1]>
    g (float[{shape}] x) => (float[a] y) <{CONSTANTS}> {{ {body} }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def value(model: ir.Model, name: str) -> ir.Value:
    return next(out for node in model.graph for out in node.outputs if out.name == name)


@pytest.mark.parametrize("body", MOVES + IMAGE_MOVES)
def test_moved_signs_are_signs(body):
    model = parsed(f"s = bindeploy.latent.BinarySign(x) {body}")
    assert gives_signs(value(model, "y"))
    assert not gives_signs(value(parsed(f"s = Relu(x) {body}"), "y"))


@pytest.mark.parametrize("body", CHANGES)
def test_changed_signs_are_none(body):
    model = parsed(f"s = bindeploy.latent.BinarySign(x) {body}")
    assert gives_signs(value(model, "s")) and not gives_signs(value(model, "y"))


def read_again(body: str) -> str:
    """The body with tanh for its signs, and the sign of its output, now called m."""
    moved = re.sub(r"\by\b", "m", body)
    return f"s = Tanh(x) {moved} y = bindeploy.latent.BinarySign(m)"


@pytest.mark.parametrize("body", MOVES + IMAGE_MOVES + CHANGES[3:])
def test_where_a_moved_value_is_binarized_its_sign_is_all_that_is_read(body):
    model = parsed(read_again(body))
    assert only_signs_are_read(value(model, "s"))
    del model.graph.outputs[0]
    model.graph.outputs.append(value(model, "m"))
    assert not only_signs_are_read(value(model, "s"))


@pytest.mark.parametrize("body", CHANGES[:3])
def test_where_a_changed_value_is_binarized_more_is_read(body):
    model = parsed(read_again(body))
    assert not only_signs_are_read(value(model, "s"))


def test_one_of_two_halves_that_floats_read_is_too_many():
    body = "s = Tanh(x) m, n = Split <axis=1> (s, halves) y = bindeploy.latent.BinarySign(m)"
    assert only_signs_are_read(value(parsed(body), "s"))
    assert not only_signs_are_read(value(parsed(f"{body} z = Relu(n)"), "s"))


def test_the_indices_of_a_gather_are_no_signs_read():
    body = "s = Tanh(x) i = Gather(x, s) y = bindeploy.latent.BinarySign(i)"
    assert not only_signs_are_read(value(parsed(body), "s"))


def test_forks_that_join_again_cost_no_more_than_their_nodes():
    joins = " ".join(
        f"a{n} = Flatten(j{n}) b{n} = Identity(j{n}) j{n + 1} = Concat <axis=1> (a{n}, b{n})"
        for n in range(60)
    )
    model = parsed(
        f"s = bindeploy.latent.BinarySign(x) j0 = Identity(s) {joins}"
        " y = bindeploy.latent.BinarySign(j60)"
    )
    assert only_signs_are_read(value(model, "s")) and gives_signs(value(model, "j60"))
