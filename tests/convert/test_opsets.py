"""A model of any opset from 13 on says the same in opset 20: numbers before and after are equal."""

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect
from bindeploy.convert.engines import onnxruntime_session
from bindeploy.convert.pipeline import prepare, run
from bindeploy.errors import BindeployError

NEWEST = onnx.defs.onnx_opset_version()
NEWEST_OF_ONNXRUNTIME = 26
KIND = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}


class Case:
    """One operator: its inputs (None where absent, constants where listed), its attributes."""

    def __init__(self, op, *inputs, outputs=1, constants=(), **attributes):
        self.op, self.inputs, self.attributes = op, inputs, attributes
        self.outputs, self.constants = outputs, constants

    def feeds(self):
        return {
            f"i{n}": array
            for n, array in enumerate(self.inputs)
            if array is not None and n not in self.constants
        }

    def model(self, opset):
        names = ["" if array is None else f"i{n}" for n, array in enumerate(self.inputs)]
        outputs = [f"o{n}" for n in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, "node", **self.attributes)
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(name, KIND[array.dtype], array.shape)
                for name, array in self.feeds().items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(self.inputs[n], f"i{n}") for n in self.constants],
        )
        imports = [helper.make_opsetid("", opset)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        proto = onnx.shape_inference.infer_shapes(proto)
        for value in proto.graph.output:
            if not value.type.tensor_type.elem_type:  # GroupNormalization has no rule
                value.type.CopyFrom(proto.graph.input[0].type)
        return proto


def floats(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def number(value):
    return np.array(value, np.float32)


def integers(*values):
    return np.array(values, np.int64)


X = floats(2, 4, 6, 6)
FROM_13 = {
    "Conv": Case("Conv", X, floats(3, 4, 3, 3), floats(3), pads=[1, 1, 1, 1], strides=[2, 1]),
    "ConvTranspose": Case("ConvTranspose", X, floats(4, 2, 3, 3), strides=[2, 2]),
    "BatchNormalization": Case(
        "BatchNormalization", X, floats(4), floats(4), floats(4), floats(4) ** 2
    ),
    "Gemm": Case("Gemm", floats(3, 5), floats(7, 5), floats(7), transB=1, alpha=0.5),
    "MatMul": Case("MatMul", floats(2, 3, 5), floats(5, 7)),
    "Squeeze": Case("Squeeze", floats(2, 1, 3), integers(1), constants=[1]),
    "Unsqueeze": Case("Unsqueeze", floats(2, 3), integers(1, 3), constants=[1]),
    "Pad": Case("Pad", X, integers(0, 0, 1, 2, 0, 0, 3, 0), number(1), constants=[1, 2]),
    "Clip": Case("Clip", X, number(-0.5), None),
    "Resize": Case("Resize", X, None, np.float32([1, 1, 2, 2]), constants=[2], mode="nearest"),
    "Resize linear": Case("Resize", X, None, None, integers(2, 4, 9, 5), constants=[3],
                          mode="linear"),
    "Softmax": Case("Softmax", X, axis=1),
    "Cast": Case("Cast", X, to=TensorProto.INT64),
    "Reshape": Case("Reshape", X, integers(0, -1), constants=[1]),
    "DepthToSpace": Case("DepthToSpace", X, blocksize=2, mode="CRD"),
    "SpaceToDepth": Case("SpaceToDepth", X, blocksize=2),
    "Sign": Case("Sign", X),
    "PRelu": Case("PRelu", X, floats(4, 1, 1)),
    "LeakyRelu": Case("LeakyRelu", X, alpha=0.3),
    "Split": Case("Split", floats(2, 7), integers(3, 4), outputs=2, constants=[1], axis=1),
    "Slice": Case("Slice", X, integers(1), integers(5), integers(2), integers(2)),
    "TopK": Case("TopK", X, integers(2), outputs=2, axis=1),
    "MaxPool": Case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool ceil": Case("MaxPool", X, kernel_shape=[2, 2], strides=[4, 4], ceil_mode=1),
    "AveragePool": Case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "GlobalAveragePool": Case("GlobalAveragePool", X),
    "QuantizeLinear": Case("QuantizeLinear", X, number(0.1), np.array(9, np.uint8),
                           constants=[1, 2]),
    "HardSigmoid": Case("HardSigmoid", X, alpha=0.3),
    "Transpose": Case("Transpose", X, perm=[0, 2, 3, 1]),
    "Flatten": Case("Flatten", X, axis=2),
    "Dropout": Case("Dropout", X),
    "Elu": Case("Elu", X),
    "Range": Case("Range", number(0), number(5), number(0.5)),
    "ReduceSum": Case("ReduceSum", X, integers(1, 2), constants=[1]),
    "Add": Case("Add", X, floats(4, 1, 1)),
    "Identity": Case("Identity", X),
    "Round": Case("Round", X),
}  # fmt: skip
UNTIL_17 = {
    "ReduceMean": Case("ReduceMean", X, axes=[2, 3], keepdims=0),
    "ReduceMax": Case("ReduceMax", X, axes=[1]),
    "ReduceL1 of all": Case("ReduceL1", X),
    "Split evenly": Case("Split", floats(2, 6), outputs=3, axis=1),
}
OTHERS = {
    (16, 19): {
        "GridSample": Case("GridSample", X, floats(2, 3, 3, 2) / 3, mode="bilinear"),
        "RoiAlign": Case("RoiAlign", X, np.float32([[0, 0, 4, 4]]), integers(1)),
    },
    (13, 15): {"RoiAlign": Case("RoiAlign", X, np.float32([[0, 0, 4, 4]]), integers(1))},
    (17, NEWEST): {
        "LayerNormalization": Case("LayerNormalization", X, floats(6), floats(6), axis=-1),
    },
    (18, NEWEST): {
        "ReduceMean": Case("ReduceMean", X, integers(2, 3), constants=[1], keepdims=0),
        "Split evenly": Case("Split", floats(2, 7), outputs=3, axis=1, num_outputs=3),
        "Pad axes": Case("Pad", X, integers(1, 2), None, integers(3), constants=[1, 3]),
        "Mish": Case("Mish", X),
    },
    (20, NEWEST): {"Gelu": Case("Gelu", X, approximate="tanh")},
    (21, NEWEST): {
        "GroupNormalization": Case("GroupNormalization", X, floats(4), floats(4), num_groups=2)
    },
    (23, NEWEST): {
        "RMSNormalization": Case("RMSNormalization", X, floats(6)),
        "Attention": Case("Attention", floats(1, 3, 8), floats(1, 5, 8), floats(1, 5, 8),
                          q_num_heads=2, kv_num_heads=2),
        "RotaryEmbedding": Case("RotaryEmbedding", floats(1, 2, 3, 8), floats(1, 3, 4),
                                floats(1, 3, 4)),
    },
    (24, NEWEST): {
        "Swish": Case("Swish", X, alpha=0.7),
        "Cast, rounding as ever": Case("Cast", X, to=TensorProto.INT64, round_mode="up"),
    },
    (28, NEWEST): {"SpaceToDepth, mode as ever": Case("SpaceToDepth", X, blocksize=2, mode="DCR")},
}  # fmt: skip


def cases():
    for opset in range(13, NEWEST + 1):
        for (first, last), rows in ((13, NEWEST), FROM_13), ((13, 17), UNTIL_17), *OTHERS.items():
            if first <= opset <= last:
                for name, case in rows.items():
                    yield pytest.param(case, opset, id=f"{name}-{opset}")


def outputs(proto, feeds):
    known = proto.graph.node[0].op_type != "Swish"
    if known and proto.opset_import[0].version <= NEWEST_OF_ONNXRUNTIME:
        return onnxruntime_session(proto, threads=1).run(None, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ReferenceEvaluator(proto).run(None, feeds)


@pytest.mark.parametrize(("case", "opset"), list(cases()))
def test_an_operator_computes_the_same(case, opset):
    proto = case.model(opset)
    onnx.checker.check_model(proto)
    before = outputs(proto, case.feeds())
    after = ir.to_proto(prepare(ir.from_proto(proto)))
    assert [(i.domain, i.version) for i in after.opset_import] == [("", dialect.OPSET)]
    onnx.checker.check_model(after)
    found = onnxruntime_session(after, threads=1).run(None, case.feeds())
    for expected, array in zip(before, found, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_allclose(array, expected, rtol=2e-6, atol=2e-6)


def model(nodes, opset, *, kind=TensorProto.FLOAT, domains=(), functions=()):
    """A graph from x [2, 4, 6, 6] to y, of the nodes in ONNX's text form or as protobufs."""
    graph = helper.make_graph(
        nodes,
        "several",
        [helper.make_tensor_value_info("x", kind, [2, 4, 6, 6])],
        [helper.make_tensor_value_info("y", kind, ["N", "C", "H", "W"])],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", opset), *domains)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    return ir.from_proto(proto)


def same_numbers(before):
    x = {"x": X}
    after = ir.to_proto(prepare(before))
    onnx.checker.check_model(after)
    (expected,) = onnxruntime_session(ir.to_proto(before), threads=1).run(None, x)
    (found,) = onnxruntime_session(after, threads=1).run(None, x)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    return after


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], f"{op} {output}", **attributes)


@pytest.mark.parametrize("opset", [13, 17, 18, 23, 26])
def test_nodes_inside_an_if_are_converted_with_it(opset):
    def branch(name, op):
        mean = node("ReduceMean", ["x"], f"{name}_mean", axes=[1]) if opset < 18 else None
        mean = mean or node("ReduceMean", ["x", "axes"], f"{name}_mean")
        inside = [mean, node(op, ["x", f"{name}_mean"], name)]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "C", "H", "W"])
        return helper.make_graph(inside, name, [], [value])

    nodes = [
        node("Constant", [], "axes", value_ints=[1]),
        node("Constant", [], "yes", value=numpy_helper.from_array(np.array(True))),
        node("If", ["yes"], "y", then_branch=branch("a", "Sub"), else_branch=branch("b", "Add")),
    ]
    same_numbers(model(nodes, opset))


@pytest.mark.parametrize(("opset", "inner"), [(13, 13), (13, 18), (20, 13), (18, 23), (26, 20)])
def test_a_function_may_be_written_for_another_opset_than_the_graph(opset, inner):
    reduced = node("ReduceMean", ["a"], "m", axes=[1]) if inner < 18 else None
    reduced = reduced or node("ReduceMean", ["a", "axes"], "m")
    body = [
        node("Constant", [], "axes", value_ints=[1]),
        reduced,
        helper.make_node("LeakyRelu", ["m"], ["l"]),
        node("Sub", ["a", "l"], "b"),
    ]
    body[2].attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "mine", "Center", ["a"], ["b"], body, [helper.make_opsetid("", inner)], ["slope"]
    )
    calls = [helper.make_node("Center", [a], [b], domain="mine") for a, b in ("xh", "hy")]
    calls[0].attribute.append(helper.make_attribute("slope", 0.5))
    before = model(calls, opset, domains=[("mine", 1)], functions=[function])
    after = ir.to_proto(prepare(before))
    onnx.checker.check_model(after)
    h = X
    for slope in (0.5, 0.01):  # 0.01 is the default of LeakyRelu
        mean = h.mean(axis=1, keepdims=True)
        h = h - np.where(mean >= 0, mean, slope * mean)
    (found,) = onnxruntime_session(after, threads=1).run(None, {"x": X})
    np.testing.assert_allclose(found, h, rtol=1e-5, atol=1e-6)


def test_a_domain_that_is_not_known_keeps_its_nodes_and_its_import():
    nodes = [helper.make_node("Foo", ["x"], ["h"], "foo", domain="my.domain", level=3)]
    nodes.append(node("ReduceMean", ["h"], "y", axes=[1]))
    converted = run(model(nodes, 13, domains=[("my.domain", 7)])).model
    foo = converted.graph[0]
    assert (foo.domain, foo.op_type, foo.attributes["level"].as_int()) == ("my.domain", "Foo", 3)
    assert converted.opset_imports == {"": 20, "my.domain": 7}


REFUSED = {
    "an operator that came later and is not defined by others": (
        [node("BitCast", ["x"], "y", to=TensorProto.FLOAT)], 26, TensorProto.FLOAT,
        "node `BitCast y` does not convert from opset 26 to 20"
    ),
    "a setting that came later": (
        [node("Cast", ["x"], "y", to=TensorProto.FLOAT, round_mode="nearest")], 24,
        TensorProto.FLOAT, "node `Cast y` does not convert from opset 24 to 20"
    ),
    "a type that came later": (
        [node("Elu", ["x"], "y")], 22, TensorProto.BFLOAT16,
        r"opset 22 to 20 \(Elu takes no tensor\(bfloat16\) there, as `x` is"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "opset", "kind", "line"), REFUSED.values(), ids=REFUSED)
def test_what_opset_20_cannot_say_is_refused_by_the_name_of_the_node(nodes, opset, kind, line):
    with pytest.raises(BindeployError, match=line) as caught:
        prepare(model(nodes, opset, kind=kind))
    assert "export the model with opset 20" in str(caught.value)


def test_thousands_of_old_nodes_are_converted_at_once():
    nodes = [node("ReduceMean", [f"h{n}"], f"h{n + 1}", axes=[1]) for n in range(3_000)]
    nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    converted = prepare(model(nodes, 13))
    assert [n.op_type for n in converted.graph].count("ReduceMean") == 3_000


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(8)
        self.up = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = torch.nn.LayerNorm(12)
        self.group = torch.nn.GroupNorm(2, 4)
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x):
        x = torch.nn.functional.gelu(self.bn(self.conv(x)))
        x = self.norm(torch.nn.functional.hardtanh(self.up(x)))
        a, b = torch.nn.functional.avg_pool2d(self.group(x), 2).split(3, dim=2)
        x = torch.nn.functional.scaled_dot_product_attention(a, b, b) + torch.where(a > 0, a, -b)
        return torch.softmax(self.linear(x.mean(dim=(2, 3))), dim=1)


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("opset", [18, 20, 23, 26])
def test_what_torch_exports_by_default_converts(opset):
    torch.manual_seed(0)
    network = Net().eval()
    exported = torch.onnx.export(
        network, (torch.from_numpy(X),), dynamo=True, opset_version=opset, verbose=False
    )
    after = ir.to_proto(prepare(exported.model))
    onnx.checker.check_model(after)
    name = after.graph.input[0].name
    (found,) = onnxruntime_session(after, threads=1).run(None, {name: X})
    with torch.no_grad():
        expected = network(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
