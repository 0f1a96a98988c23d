"""Models made to harm, and models that are only strange: one line, or a conversion, no more."""

import os
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from bindeploy.convert import fold_constants, inline_functions, pipeline
from bindeploy.convert.load import checked, load
from bindeploy.emit import onnx as portable
from bindeploy.errors import BindeployError

ATTRIBUTES = dict(strides=[1, 1], pads=[1] * 4, dilations=[1, 1], group=1, pad_value=1.0)


def node(op, inputs, outputs, name="", domain="", **attributes):
    return helper.make_node(op, inputs, outputs, name, domain=domain, **attributes)


def value(name, shape=("N", 4, 6, 6), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def latent(x, y, weight="w"):
    return node("BinaryConv2d", [x, weight, "s", "b"], [y], y, "bindeploy.latent", **ATTRIBUTES)


def constants():
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((4, 4, 3, 3)).astype(np.float32)
    given = {"w": weight, "s": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    return [numpy_helper.from_array(array, name) for name, array in given.items()]


def model(*nodes, inputs=None, outputs=None, extra=(), functions=(), opset=20, domains=()):
    """A binary convolution from x to h, and whatever else, to y."""
    graph = helper.make_graph(
        [latent("x", "h"), *nodes],
        "strange",
        inputs or [value("x")],
        outputs or [value("y" if nodes else "h")],
        [*constants(), *extra],
    )
    imports = [("", opset), ("bindeploy.latent", 1), *domains]
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*each) for each in imports],
        ir_version=10,
        functions=functions,
    )


def through(proto, tmp_path):
    """Load, convert, save; the conversion."""
    path = tmp_path / "in.onnx"
    path.write_bytes(proto.SerializeToString())
    conversion = pipeline.run(load(path))
    portable.save(conversion.model, tmp_path / "out.onnx")
    return conversion


def refused(proto, tmp_path, words):
    with pytest.raises(BindeployError) as caught:
        through(proto, tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def branch(name, *nodes):
    return helper.make_graph(list(nodes), name, [], [value(nodes[-1].output[0])])


def choice(depth=0):
    """An If whose branches hold layers, one of them another If, `depth` levels of them."""
    inner = choice(depth - 1) if depth else node("Relu", ["h"], ["deepest"])
    inner.output[0] = f"then{depth}"
    other = node("Neg", ["h"], [f"else{depth}"])
    return node("If", ["c"], ["y"], then_branch=branch("t", inner), else_branch=branch("e", other))


def constant(name="k", **given):
    return node("Constant", [], [name], **given)


def sparse():
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [3])
    return helper.make_sparse_tensor(values, indices, [6])


def typed(name, numbers, kind):
    return helper.make_tensor(name, kind, [4, 1, 1], numbers)


def after(*nodes, **rest):
    return model(*nodes, node("Add", ["h", "k"], ["y"]), **rest)


YES = numpy_helper.from_array(np.array(True), "c")
STRANGE = {
    "a domain nobody knows": model(
        node("Foo", ["h", ""], ["f", ""], "foo", "my.domain", level=1),
        node("Add", ["h", "f"], ["y"]),
        domains=[("my.domain", 3)],
    ),
    "a branch": model(choice(), extra=[YES]),
    "branches in branches": model(choice(12), extra=[YES]),
    "no names": model(node("Relu", ["h"], ["r"]), node("Relu", ["r"], ["y"])),
    "one name": model(node("Relu", ["h"], ["r"], "h"), node("Relu", ["r"], ["y"], "h")),
    "absent inputs": model(node("Clip", ["h", "", ""], ["y"])),
    "two of each": model(
        node("Add", ["h", "z"], ["y"]),
        inputs=[value("x"), value("z")],
        outputs=[value("y"), value("h")],
    ),
    "an initializer that is an input": model(inputs=[value("x"), value("w", [4, 4, 3, 3])]),
    "an initializer that is an output": model(
        node("Relu", ["h"], ["y"]), outputs=[value("y"), value("s", [4])]
    ),
    "an input that is an output": model(outputs=[value("h"), value("x")]),
    "half floats": after(
        node("Cast", ["q"], ["k"], to=TensorProto.FLOAT),
        extra=[typed("q", [1, 2, 3, 4], TensorProto.FLOAT16)],
    ),
    "brain floats": after(
        node("Cast", ["q"], ["k"], to=TensorProto.FLOAT),
        extra=[typed("q", [1, 2, 3, 4], TensorProto.BFLOAT16)],
    ),
    "doubles": after(
        node("Cast", ["q"], ["k"], to=TensorProto.FLOAT),
        extra=[typed("q", [1, 2, 3, 4], TensorProto.DOUBLE)],
    ),
    "a float": after(constant(value_float=0.5)),
    "floats": after(constant(value_floats=[0.5] * 6)),
    "an integer": after(constant("q", value_int=2), node("Cast", ["q"], ["k"], to=1)),
    "integers": after(constant("q", value_ints=[2] * 6), node("Cast", ["q"], ["k"], to=1)),
    "a string": model(constant(value_string="a"), node("Relu", ["h"], ["y"])),
    "strings": model(constant(value_strings=["a", "b"]), node("Relu", ["h"], ["y"])),
    "a tensor": after(constant(value=numpy_helper.from_array(np.ones((4, 1, 1), np.float32)))),
    "a sparse constant": after(constant(sparse_value=sparse())),
    "a sequence": model(
        node("SequenceConstruct", ["h", "h"], ["q"]),
        constant("i", value_int=1),
        node("SequenceAt", ["q", "i"], ["y"]),
    ),
    "an optional": model(
        node("Optional", ["h"], ["q"]), node("OptionalGetElement", ["q"], ["y"])
    ),
    "numbers that are not finite": after(
        extra=[numpy_helper.from_array(np.float32([np.nan, np.inf, 0, -np.inf, 1, 2]), "k")]
    ),
    "nothing at all": after(
        constant(value_float=1.0),
        node("Shape", ["q"], ["z"]),
        extra=[numpy_helper.from_array(np.zeros((6, 0), np.float32), "q")],
    ),
    "the standard domain by its name": model(node("Relu", ["h"], ["y"], domain="ai.onnx")),
}  # fmt: skip


@pytest.mark.parametrize("proto", STRANGE.values(), ids=STRANGE)
def test_what_is_only_strange_converts_and_what_is_not_understood_stays(proto, tmp_path):
    conversion = through(proto, tmp_path)
    assert [(layer.name, layer.binarized) for layer in conversion.layers] == [("h", True)]
    kept = {each.domain: each.version for each in onnx.load(tmp_path / "out.onnx").opset_import}
    assert kept.get("my.domain") == (3 if "my.domain" in str(proto.opset_import) else None)
    assert kept[""] == 20


def function(name, *nodes, domain="mine"):
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_function(domain, name, ["a"], [nodes[-1].output[0]], list(nodes), imports)


def doubling(levels):
    """f0 calls f1 twice, which calls f2 twice, ..."""
    functions = [function(f"f{levels}", node("Relu", ["a"], ["b"]))]
    for level in range(levels):
        inner = f"f{level + 1}"
        calls = [node(inner, ["a"], ["m"], domain="mine"), node(inner, ["m"], ["b"], domain="mine")]
        functions.append(function(f"f{level}", *calls))
    call = node("f0", ["h"], ["y"], domain="mine")
    return model(call, functions=functions, domains=[("mine", 1)])


def test_functions_are_expanded_and_no_further_than_a_machine_bears(tmp_path, monkeypatch):
    conversion = through(doubling(5), tmp_path)
    assert [n.op_type for n in conversion.model.graph].count("Relu") == 32
    monkeypatch.setattr(inline_functions, "MOST_NODES", 1000)
    refused(doubling(60), tmp_path, "expand to more than 1000 nodes")


def test_functions_that_call_themselves_are_refused(tmp_path):
    calls = {"f": "g", "g": "f"}
    functions = [function(a, node(b, ["a"], ["b"], domain="mine")) for a, b in calls.items()]
    proto = model(
        node("f", ["h"], ["y"], domain="mine"), functions=functions, domains=[("mine", 1)]
    )
    refused(proto, tmp_path, "mine::g -> mine::f -> mine::g")
    with pytest.raises(BindeployError, match="the model's functions call themselves \\(`"):
        pipeline.prepare(ir.from_proto(proto))


def grown(*nodes, **given):
    extra = [numpy_helper.from_array(np.asarray(array), name) for name, array in given.items()]
    return model(*nodes, node("Add", ["h", "k"], ["y"]), extra=extra)


BOMBS = {
    "Expand": grown(node("Expand", ["o", "n"], ["k"]), o=np.float32(1), n=[2**14, 4, 6, 6 * 2**9]),
    "ConstantOfShape": grown(node("ConstantOfShape", ["n"], ["k"]), n=[2**14, 4, 6, 6 * 2**9]),
    "Tile": grown(node("Tile", ["o", "n"], ["k"]), o=np.ones((1, 1, 1, 1), np.float32),
                  n=[2**14, 4, 6, 6 * 2**9]),
    "Range": grown(node("Range", ["a", "e", "d"], ["k"]), a=np.float32(0), e=np.float32(2**27),
                   d=np.float32(1)),
    "Pad": grown(node("Pad", ["o", "n"], ["k"]), o=np.ones(6, np.float32), n=[0, 2**27]),
    "outer product": grown(node("Expand", ["o", "n"], ["l"]), node("Expand", ["o", "m"], ["r"]),
                           node("Add", ["l", "r"], ["k"]), o=np.float32(1), n=[2**13, 1],
                           m=[1, 2**13]),
}  # fmt: skip


@pytest.mark.parametrize("proto", BOMBS.values(), ids=BOMBS)
def test_a_small_file_does_not_become_a_large_one(proto, tmp_path):
    try:
        through(proto, tmp_path)
    except BindeployError as error:
        assert "numbers (1 GiB)" in str(error)
    else:
        assert (tmp_path / "out.onnx").stat().st_size < 2**17


def test_thousands_of_constant_products_are_not_all_computed(monkeypatch):
    monkeypatch.setattr(fold_constants, "HANDLED", (2**16, 0))
    size, count = 32, 50
    nodes = [node("MatMul", [f"k{n}", "o"], [f"k{n + 1}"]) for n in range(count)]
    proto = model(
        *nodes,
        node("Slice", [f"k{count}", "a", "e"], ["k"]),
        node("Add", ["h", "k"], ["y"]),
        extra=[
            numpy_helper.from_array(np.ones((size, size), np.float32), "k0"),
            numpy_helper.from_array(np.eye(size, dtype=np.float32), "o"),
            numpy_helper.from_array(np.array([0, 0]), "a"),
            numpy_helper.from_array(np.array([6, 6]), "e"),
        ],
    )
    kinds = [n.op_type for n in pipeline.run(checked(proto, "`m`")).model.graph]
    assert count - 3 < kinds.count("MatMul") < count


def changed(change):
    proto = model(node("Relu", ["h"], ["y"], "relu"))
    change(proto.graph)
    return proto


def dims(*sizes):
    def change(graph):
        graph.initializer[0].dims[:] = sizes

    return change


def renamed(index, to):
    def change(graph):
        graph.node[index].input[0] = to

    return change


def nested(levels):
    inner = AttributeProto(name="g", type=AttributeProto.GRAPH)
    for _ in range(levels):
        outer = AttributeProto(name="g", type=AttributeProto.GRAPH)
        outer.g.node.add(op_type="If", output=["o"]).attribute.append(inner)
        inner = outer
    return inner


BROKEN = {
    "more numbers than there are": (changed(dims(2**20, 4, 3, 3)), "tensor `w`"),
    "numbers without end": (changed(dims(2**62, 2**62, 3, 3)), "tensor `w` of"),
    "empty and endless": (changed(dims(0, 2**62, 2**62)), "tensor `w` of"),
    "a negative size": (changed(dims(-4, 4, -3, 3)), "tensor `w` of"),
    "another rank": (changed(dims(4, 36)), "node `h`"),
    "an endless image": (
        changed(lambda g: g.input[0].CopyFrom(value("x", ["N", 4, 2**40, 6]))), "tensor `x` of"
    ),
    "a circle": (changed(renamed(0, "y")), "topologically sorted"),
    "a loop of one": (changed(renamed(1, "y")), "topologically sorted"),
    "an input of nothing": (changed(renamed(1, "ghost")), "ghost"),
    "a missing initializer": (changed(lambda g: g.initializer.pop(0)), "input 'w'"),
    "an output twice": (changed(lambda g: g.node[1].output.__setitem__(0, "h")), "h"),
    "an output of nothing": (changed(lambda g: g.output[0].__setattr__("name", "ghost")), "ghost"),
    "a node that gives nothing": (
        changed(lambda g: g.node[1].__setattr__("domain", "my") or g.node[1].output.pop()),
        "node `relu` (Relu) has no output",
    ),
    "a scale that is not finite": (
        changed(lambda g: g.initializer[1].CopyFrom(
            numpy_helper.from_array(np.full(4, np.nan, np.float32), "s"))), "node `h`"
    ),
    "no filters": (
        changed(lambda g: g.initializer[0].CopyFrom(
            numpy_helper.from_array(np.zeros((0, 4, 3, 3), np.float32), "w"))), "node `h`"
    ),
    "parts without end": (
        changed(lambda g: g.node[1].CopyFrom(
            node("Split", ["h"], ["y"], "split", num_outputs=2**40))), "node `split` splits into"
    ),
    "slices without end": (
        changed(lambda g: [
            g.input[0].CopyFrom(value("x", ["N", 4, 6, 60_000])),
            g.node[1].CopyFrom(node("SplitToSequence", ["h"], ["y"], "slices", axis=3)),
            g.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", 1, None)),
        ]), "node `slices` splits a tensor of 60000 slices"
    ),
    "a name that no terminal takes": (
        changed(lambda g: g.node[1].__setattr__("name", "a\x1b[31m")), "printable"
    ),
    "two versions of a domain": (
        model(domains=[("my", 1), ("my", 2)]), "versions 1 and 2 of domain `my`"
    ),
    "graphs in graphs": (
        changed(lambda g: g.node[1].attribute.append(nested(20))), "no valid ONNX model"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("proto", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_refused_in_one_line_that_names_it(proto, words, tmp_path):
    refused(proto, tmp_path, words)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    "attributes",
    [
        dict(strides=[0, 0]),
        dict(strides=[-1, 1]),
        dict(dilations=[0, 1]),
        dict(group=0),
        dict(group=-1),
        dict(group=3),
        dict(pads=[-1] * 4),
        dict(pads=[2**62] * 4),
        dict(pads=[1, 1]),
        dict(pad_value=float("nan")),
        dict(pad_value=0.5),
    ],
    ids=str,
)
def test_a_window_that_makes_no_sense_is_refused_by_name(attributes, tmp_path):
    proto = model()
    del proto.graph.node[0].attribute[:]
    for name, given in {**ATTRIBUTES, **attributes}.items():
        proto.graph.node[0].attribute.append(helper.make_attribute(name, given))
    with pytest.raises(BindeployError, match="`h`"):
        through(proto, tmp_path)


def test_messages_nested_without_end_are_refused(tmp_path):
    content = b""
    for _ in range(20_000):
        content = bytes([0x0A]) + varint(len(content)) + content  # a node in a graph, and so on
    (tmp_path / "in.onnx").write_bytes(bytes([0x3A]) + varint(len(content)) + content)
    with pytest.raises(BindeployError, match="is no ONNX model"):
        load(tmp_path / "in.onnx")


def varint(number):
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def test_text_that_is_no_utf8_is_refused(tmp_path):
    content = model(node("Relu", ["h"], ["y"], "relu")).SerializeToString()
    (tmp_path / "in.onnx").write_bytes(content.replace(b"relu", b"re\xff\xfe"))
    with pytest.raises(BindeployError, match="no UTF-8|no ONNX model"):
        load(tmp_path / "in.onnx")


def test_every_truncation_is_refused(tmp_path):
    content, path = model(node("Relu", ["h"], ["y"])).SerializeToString(), tmp_path / "in.onnx"
    outcomes = set()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(BindeployError) as caught:
            load(path)
        outcomes.add(str(caught.value).partition("(")[0])
    assert len(outcomes) >= 2


def test_thousands_of_nodes_of_one_name_take_seconds(tmp_path):
    count = 3000
    nodes = [node("Relu", [f"r{n}"], [f"r{n + 1}"], "same") for n in range(count)]
    nodes[0].input[0], nodes[-1].output[0] = "h", "y"
    start = time.process_time()
    conversion = through(model(*nodes), tmp_path)
    assert time.process_time() - start < 20
    assert len(conversion.model.graph) == count + 1


def with_weight_outside(folder, location, *, offset=None, length=None, content=None):
    """The model's weight moved to a file, and the file's claims about where in it."""
    proto = model()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data if content is None else content
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, given in {"location": location, "offset": offset, "length": length}.items():
        if given is not None:
            tensor.external_data.add(key=key, value=str(given))
    return proto, data


def test_tensors_in_files_of_the_folder_are_read(tmp_path):
    expected = model().graph.initializer[0].raw_data
    proto, data = with_weight_outside(tmp_path, "part/w.bin", offset=8, length=len(expected))
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "w.bin").write_bytes(bytes(8) + data + bytes(5))
    whole, parted = pipeline.run(checked(model(), "`m`")), through(proto, tmp_path)
    bits = [c.model.graph.initializers["h.bits"].const_value for c in (whole, parted)]
    np.testing.assert_array_equal(bits[0].numpy(), bits[1].numpy())
    assert parted.layers == whole.layers


SIZE = 4 * 4 * 4 * 9
OUTSIDE = {
    "absolute": (dict(location="/etc/hostname"), "leads out of its folder"),
    "above": (dict(location="../w.bin"), "leads out of its folder"),
    "above and back": (dict(location="../model/w.bin"), "leads out of its folder"),
    "a drive": (dict(location="C:\\w.bin"), "leads out of its folder"),
    "nameless": (dict(location=""), "leads out of its folder"),
    "a link out": (dict(location="out.bin"), "leads out of its folder"),
    "a link to itself": (dict(location="circle"), "its folder"),
    "a zero byte": (dict(location="a\0b"), "leads out of its folder"),
    "absent": (dict(location="ghost.bin"), "is no file of its folder"),
    "a folder": (dict(location="inner"), "no file of its folder"),
    "the folder": (dict(location="."), "leads out of its folder"),
    "a pipe": (dict(location="pipe"), "no file of its folder"),
    "before the start": (dict(location="w.bin", offset=-4, length=SIZE), "beyond its 576 bytes"),
    "past the end": (dict(location="w.bin", offset=4, length=SIZE), "beyond its 576 bytes"),
    "without end": (dict(location="w.bin", offset=0, length=10**30), "beyond its 576 bytes"),
    "no number": (dict(location="w.bin", offset="x"), "beyond its 576 bytes"),
    "too few": (dict(location="w.bin", offset=0, length=8), "where 8 bytes are, and its shape"),
    "the rest is too few": (dict(location="w.bin", offset=64), "where 512 bytes are"),
}


@pytest.mark.parametrize(("claims", "words"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_tensor_is_read_from_nowhere_but_the_folder(claims, words, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    proto, data = with_weight_outside(folder, **claims)
    (tmp_path / "w.bin").write_bytes(data)
    (folder / "w.bin").write_bytes(data)
    (folder / "out.bin").symlink_to(tmp_path / "w.bin")
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")
    (folder / "inner").mkdir()
    with pytest.raises(BindeployError, match="keeps tensor `w` in another file, `") as caught:
        through(proto, folder)
    assert words in str(caught.value)
