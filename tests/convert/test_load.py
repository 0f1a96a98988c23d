"""A file that is no ONNX model of ours is refused in one line that says why."""

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from bindeploy.convert.pipeline import convert, load
from bindeploy.errors import BindeployError


@pytest.fixture
def proto(sketch):
    graph = sketch((4, 6, 6))
    return ir.to_proto(graph.model(graph.conv("x", 4, 70, "a")))


def refused(path, message):
    with pytest.raises(BindeployError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_saved_model_comes_back(proto, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert ir.to_proto(load(path)).graph.node == proto.graph.node
    convert(load(str(path)))


def test_missing_empty_foreign_and_folder(tmp_path):
    refused(tmp_path / "missing.onnx", "missing.onnx` is no file")
    refused(tmp_path, "is no file")
    for content in (b"", b"\x89PNG\r\n\x1a\n" * 9, b"import torch\n", bytes(range(256))):
        (tmp_path / "foreign.onnx").write_bytes(content)
        refused(tmp_path / "foreign.onnx", "foreign.onnx` is no ONNX model")


def test_every_truncation_is_refused(proto, tmp_path):
    del proto.functions[:]  # a file without them is whole
    whole, path = proto.SerializeToString(), tmp_path / "part.onnx"
    for length in range(0, len(whole) - 1, max(1, len(whole) // 150)):
        path.write_bytes(whole[:length])
        refused(path, "part.onnx`")


def test_an_unknown_operator_of_our_domains_is_named_with_its_node(proto, tmp_path):
    path = tmp_path / "model.onnx"
    node = helper.make_node("Foo", ["x"], ["z"], name="foo", domain="my.domain")
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    path.write_bytes(proto.SerializeToString())
    assert [node.op_type for node in load(path).graph] == ["BinaryConv2d", "Foo"]
    for domain, known_as in (("", "ai.onnx"), ("bindeploy.latent", "bindeploy.latent")):
        proto.graph.node[-1].domain = domain
        path.write_bytes(proto.SerializeToString())
        refused(path, f"node `foo` uses operator `{known_as}::Foo`, which no engine here knows")


def test_a_function_in_the_file_makes_an_operator_known(proto, sketch, tmp_path):
    path = tmp_path / "model.onnx"
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function(
        "my.domain", "Foo", ["a"], ["b"], body, [helper.make_opsetid("", 20)]
    )
    proto.functions.append(function)
    output = proto.graph.output[0].name
    proto.graph.node.append(
        helper.make_node("Foo", [output], ["z"], name="foo", domain="my.domain")
    )
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    proto.graph.output[0].name = "z"
    path.write_bytes(proto.SerializeToString())
    packed = convert(load(path))
    assert [node.op_type for node in packed.graph] == ["BinaryConv2d", "Relu"]


def test_external_data_and_wrong_sizes_are_refused(proto, tmp_path):
    path = tmp_path / "model.onnx"
    broken = onnx.ModelProto.FromString(proto.SerializeToString())
    broken.graph.initializer[0].raw_data = broken.graph.initializer[0].raw_data[:-4]
    path.write_bytes(broken.SerializeToString())
    refused(path, "no valid ONNX model")
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    path.write_bytes(proto.SerializeToString())
    refused(path, "keeps tensor `a.weight` in another file")


def test_the_error_of_convert_names_the_file(sketch, saved):
    graph = sketch((4, 6, 6))
    path = saved(graph.model(graph.node("Relu", ["x"])), "floats.onnx")
    with pytest.raises(BindeployError, match="`floats.onnx` has no binary layer"):
        convert(load(path))
