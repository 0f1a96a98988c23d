"""What the runtime cannot run is refused in one line that names the node."""

import numpy as np
import onnx_ir as ir
import pytest

from bindeploy.emit.plan import lower, write_plan
from bindeploy.emit.plan_lower import LOWERINGS
from bindeploy.errors import BindeployError

BINARY = """[c] y = bindeploy.BinaryConv2d <channels=3, group=1, strides=[1,1], pads=[1,1,1,1],
            dilations=[1,1], pad_value=1.0> (x, bits_c, scale, bias)"""


def test_an_op_without_a_lowering_is_named_with_those_there_are(graph):
    with pytest.raises(BindeployError) as error:
        lower(graph("[N,3,5,5]", "[sine] y = Sin(x)"))
    message = str(error.value)
    assert message.startswith("the runtime has no `Sin` (node `sine`); it runs Conv, Gemm,")
    assert all(op in message for _, op in LOWERINGS)


@pytest.mark.parametrize(
    ("x", "body", "message"),
    [
        ("[N,4,5,5]", "[c] y = Conv <group=2> (x, w4)", "Conv `c`: 2 groups of 4 channels and"),
        ("[N,12,5,5]", "[c] y = Conv <group=3> (x, w4)", "3 groups of 4 channels and 4 filters in"),
        ("[N,3,5,5]", "[c] y = Conv (x, w4)", "do not fit 3 channels"),
        ("[N,4,5]", "[c] y = Conv (x, w4)", "weights [4, 4, 3, 3] do not fit"),
        ("[N,4,5,5]", "[c] y = Conv <strides=[2]> (x, w4)", "dilations or pads are not of 2 axes"),
        (
            "[N,4,5,5]",
            "[p] y = MaxPool <kernel_shape=[2]> (x)",
            "its kernel has 1 axes, its input 2",
        ),
        ("[N,4,5,5]", "[c] y = Conv (x, x)", "input 1 must be a constant"),
        ("[N,4,2,2]", "[c] y = Conv (x, w4)", "larger than the padded picture of 2 x 2"),
        ("[N,4,5,5]", '[c] y = Conv <auto_pad="SAME_UPPER"> (x, w4)', "auto_pad"),
        (
            "[N,4,5,5]",
            "[p] y = MaxPool <kernel_shape=[2,3], pads=[2,0,0,0]> (x)",
            "smaller than its",
        ),
        ("[N,4,5,6,7]", "y = Relu(x)", "has shape ['N', 4, 5, 6, 7]; a plan takes [N, C, H, W], "),
        ("[N,4,H,W]", "y = Relu(x)", "all but N fixed"),
        ("[N,4,5,5]", "[g] y = Gemm(x, w4)", "Gemm `g`"),
        ("[N,4,5,5]", "[g] y = MatMul(x, plane)", "weights [4, 4] do not fit 5 features"),
        (
            "[N,4,5,5]",
            "[a] y = Add(x, plane)",
            "constant [4, 4] does not fit its input [N, 4, 5, 5]",
        ),
        ("[N,4,5,5]", "[a] f = Flatten(x) y = Mul(f, pair)", "constant [2] does not fit its input"),
        ("[N,1,5,5]", "[a] y = PRelu(x, six)", "constant [2, 5, 5] does not fit its input"),
        ("[N,4,5,5]", "[a] h = GlobalAveragePool(x) y = Add(x, h)", "adds equal shapes"),
        ("[N,4,5,5]", "y = Flatten(x)", "is a picture of 5 x 5 flattened"),
        ("[N,4,5,5]", "[m] y = ReduceMean(x, one)", "mean over H and W"),
        ("[N,4,5,5]", "[f] y = Flatten <axis=2> (x)", "from axis 1"),
        ("[N,4,5,5]", '[p] y = Pad <mode="reflect"> (x, pads)', "pads with the constant 0"),
        ("[N,4,5,5]", "[c] y = Clip(x, high, low)", "are not in order"),
        ("[N,4,5,5]", "[d] y = Div(low, x)", "divides an activation by a constant"),
        (
            "[N,4,1,5]",
            "h = Squeeze(x, two) [s] y = Squeeze(h, two)",
            "axes [2] of [N, 4, 5] are not",
        ),
        ("[N,4,5,6]", "[t] y = Transpose (x)", "`y` has 4 axes; the runtime takes up to four, N"),
        (
            "[N,4,5,6]",
            "[t] y = Transpose <perm=[0,1]> (x)",
            "perm [0, 1] does not fit [N, 4, 5, 6]",
        ),
        (
            "[N,4,5,6]",
            "[u] y = Unsqueeze(x, three)",
            "`y` has 5 axes; the runtime takes up to four",
        ),
        ("[N,4,5,7]", "[r] y = Reshape(x, target)", "not the elements of [1, 5, 4, 6]"),
        ("[N,4,5]", "[s] y, z = Split <axis=1> (x, three_two)", "parts of [3, 2] are not the 4 of"),
        ("[N,4,5]", "[g] y = Gather <axis=1> (x, away)", "takes them at equal distances"),
        ("[N,4,5]", "[s] y = Softmax <axis=0> (x)", "axis 0; the runtime takes the channels or"),
        ("[N,4,5]", "[n] y = LayerNormalization <axis=1> (x, plane)", "over the last one"),
        ("[N,4,5]", "[n] y = LayerNormalization (x, pair)", "2 and 1 parameters for 5 channels"),
        ("[N,4,5]", "[m] y = MatMul(x, x)", "[1, 4, 5] and [1, 4, 5] do not fit"),
        ("[N,4,5]", "[m] y = Mul(x, x)", "one input must be a constant"),
        (
            "[N,4,5]",
            "h = Transpose <perm=[1,0,2]> (x) [m] y = MatMul(x, h)",
            "products of [1, 4, 5] by [4, 1, 5] are not supported",
        ),
        ("[N,4,5]", "[c] y = Concat <axis=0> (token, x)", "axis 0 of an activation beside"),
        (
            "[N,4,5,6]",
            "h = Transpose <perm=[0,2,3,1]> (x) [c] y = Conv (h, w4)",
            "channels last; it",
        ),
        ("[N,4,5,6]", "[c] y = Concat <axis=2> (x, x)", "axis 2; the runtime joins pictures along"),
        ("[N,4,5,6]", "f = Flatten(x) [c] y = Concat <axis=1> (f, f)", "along their channels"),
        (
            "[N,4,5,6]",
            "h = GlobalAveragePool(x) [c] y = Concat <axis=1> (x, h)",
            "in channels alone",
        ),
        ("[N,6,5,6]", "[d] y = DepthToSpace <blocksize=2> (x)", "blocks of 2 x 2 do not fit 6"),
        ("[N,6,5,6]", "[d] y = SpaceToDepth <blocksize=2> (x)", "blocks of 2 do not fit a picture"),
        ("[N,4,5,6]", "[s] y = Slice(x, one, five, zero)", "slices C, H and W, forwards"),
        ("[N,4,5,6]", "[s] y = Slice(x, five, five, two)", "5 to 5 of 5 is nothing"),
        ("[N,4,5,6]", "[p] y = Pad(x, away)", "it leaves nothing of its input"),
        ("[N,4,5,5]", "[i] y = Identity(low)", "`i`: it reads `low`, a constant"),
    ],
)
def test_what_the_runtime_cannot_do_is_refused_in_one_line(x, body, message, graph):
    constants = {
        "w4": np.ones((4, 4, 3, 3), np.float32),
        "hundred": np.ones((100), np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
        "three": np.array([3]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "six": np.ones((2, 5, 5), np.float32),
        "plane": np.ones((4, 4), np.float32),
        "pair": np.ones(2, np.float32),
        "target": np.array([0, 5, 4, 6]),
        "zero": np.array([0]),
        "five": np.array([5]),
        "away": np.array([0, 0, -2, 0, 0, 0, -3, 0]),
        "three_two": np.array([3, 2]),
        "token": np.ones((1, 4, 5), np.float32),
        "low": np.float32(-1),
        "high": np.float32(1),
    }
    with pytest.raises(BindeployError) as error:
        lower(graph(x, body, **constants))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("group=1", "group=2", "2 groups of 3 channels and 4 filters in all do not fit 3 channels"),
        ("channels=3, group=1", "channels=1, group=3", "3 groups of 1 channels and 4 filters in"),
        ("channels=3", "channels=4", "do not fit 3 channels"),
        ("scale, bias", "scale, short", "bias [1] does not fit 4 filters"),
        ("BinaryConv2d ", "BinaryWeightConv2d ", "pad_value 1 beside float activations"),
    ],
)
def test_a_binary_layer_that_does_not_fit_is_refused(old, new, message, graph):
    body = BINARY
    assert old in body
    with pytest.raises(BindeployError, match="Binary.*`c`: .*") as error:
        lower(
            graph(
                "[N,3,5,5]",
                body.replace(old, new),
                scale=np.ones((4), np.float32),
                bias=np.ones((4), np.float32),
                short=np.ones((1), np.float32),
                bits_c=np.zeros((4, 3, 3, 4), np.uint8),
            )
        )
    assert message in str(error.value)


def test_a_model_has_one_input_and_one_output(graph):
    with pytest.raises(BindeployError, match=r"2 outputs \(`y`, `z`\); a plan has one"):
        lower(graph("[N,3,5,5]", "y = Relu(x) z = Relu(y)", output="float y, float z"))


def test_an_output_must_come_from_the_input(graph):
    body = "y, m = MaxPool <kernel_shape=[1,1]> (x)"
    with pytest.raises(BindeployError, match="output `m` does not depend on the input"):
        lower(graph("[N,3,5,5]", body, output="int64 m"))


def test_an_input_of_another_type_is_refused(graph):
    model = graph("[N,3,5,5]", "y = Relu(x)")
    model.graph.inputs[0].dtype = ir.DataType.UINT8
    with pytest.raises(BindeployError, match="input `x` is UINT8; a plan takes FLOAT"):
        lower(model)


def test_a_refused_model_writes_no_file(tmp_path, graph):
    with pytest.raises(BindeployError):
        write_plan(graph("[N,3,5,5]", "y = Sin(x)"), tmp_path / "model.bd")
    assert list(tmp_path.iterdir()) == []
    write_plan(graph("[N,3,5,5]", "y = Relu(x)"), tmp_path / "model.bd")
    expected = lower(graph("[N,3,5,5]", "y = Relu(x)")).to_bytes()
    assert (tmp_path / "model.bd").read_bytes() == expected


def test_shapes_that_contradict_each_other_are_refused_by_node(graph):
    with pytest.raises(BindeployError, match="`r`: its inputs and attributes do not fit together"):
        lower(graph("[N,4,5,5]", "[r] y = Reshape (x, k)", k=np.int64(3)))
