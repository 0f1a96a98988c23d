"""A session computes what ONNX says, through the C library, and lets nothing wrong through."""

import gc
import shutil
import subprocess
import sys
import threading
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from bindeploy import bits, files, library
from bindeploy.convert import dialect
from bindeploy.emit.plan import lower
from bindeploy.errors import BindeployError
from bindeploy.files import resource
from bindeploy.library import library_path
from bindeploy.session import Node, Session, Value

DOMAINS = '"" : 20, "bindeploy" : 1, "bindeploy.latent" : 1'
WINDOW = "group=1, strides=[1,1], dilations=[1,1]"
generator = np.random.default_rng(0)


def graph(x: str, body: str, **constants) -> onnx.ModelProto:
    """A model of the ONNX textual syntax; `constants` are its initializers."""
    text = f"<ir_version: 10, opset_import: [{DOMAINS}]> g (float{x} x) => (float y) {{ {body} }}"
    model = parser.parse_model(text)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def whole(*shape: int) -> np.ndarray:
    """Small whole numbers, of which every engine computes the same sums and products exactly."""
    return generator.integers(-3, 4, shape).astype(np.float32)


def packed(*shape: int) -> np.ndarray:
    return bits.pack(whole(*shape))


def expected(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(model, new_ops=dialect.REFERENCE_OPS)
    return evaluator.run(None, {"x": x})[0]


def ours(model: onnx.ModelProto, x: np.ndarray, **options) -> np.ndarray:
    with Session(ir.from_proto(model), **options) as opened:
        return opened.run(None, {"x": x})[0]


NETWORK = f"""
    stem = Conv <pads=[1,1,1,1]> (x, w)
    [a] ya = bindeploy.BinaryConv2d <channels=4, {WINDOW}, pads=[1,1,1,1], pad_value=1.0>
        (stem, pa, s, b)
    ra = Relu(ya)
    sum = Add(stem, ra)
    crop = Slice(sum, zero, far, axes, two)
    wide = Pad(crop, channels)
    [t] yt = bindeploy.BinaryConv2dThreshold
        <channels=4, group=1, strides=[2,2], pads=[1,1,1,1], dilations=[1,1], pad_value=1.0>
        (sum, pt, thresholds, directions)
    [c] yc = bindeploy.BinaryConv2d <channels=8, {WINDOW}, pads=[1,1,1,1], pad_value=0.0>
        (yt, pc, s8, b8)
    joined = Add(wide, yc)
    pool = MaxPool <kernel_shape=[2,2], strides=[2,2]> (joined)
    flat = Flatten(pool)
    [l] logits = bindeploy.BinaryLinear <channels=32> (flat, pl, s10, b10)
    y = Clip(logits, low)
"""


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return graph(
        "[N,3,8,8]", NETWORK, w=whole(4, 3, 3, 3), s=whole(4), b=whole(4), s8=whole(8), b8=whole(8),
        s10=whole(10), b10=whole(10), pa=packed(4, 3, 3, 4), pt=packed(8, 3, 3, 4),
        pc=packed(8, 3, 3, 8), pl=packed(10, 32), zero=np.array([0, 0]), two=np.array([2, 2]),
        far=np.array([2**62, 2**62]), axes=np.array([2, 3]), low=np.float32(-20),
        channels=np.array([0, 2, 0, 0, 0, 2, 0, 0]),
        thresholds=generator.integers(-9, 9, 8).astype(np.int32),
        directions=np.array([1, -1] * 4, np.int8),
    )  # fmt: skip


def test_a_residual_network_agrees_with_the_reference_on_a_batch(network):
    x = whole(5, 3, 8, 8)
    assert np.array_equal(ours(network, x), expected(network, x))


def test_integers_are_those_of_every_binary_layer_in_order(network):
    x = whole(3, 3, 8, 8)
    with Session(ir.from_proto(network)) as opened:
        integers = opened.integers(x)
        assert np.array_equal(opened.run(None, {"x": x})[0], expected(network, x))
    assert list(integers) == ["a", "t", "c", "l"]
    assert {name: dots.shape for name, dots in integers.items()} == {
        "a": (3, 4, 8, 8), "t": (3, 8, 4, 4), "c": (3, 8, 4, 4), "l": (3, 10)
    }  # fmt: skip
    assert all(dots.dtype == np.int32 for dots in integers.values())
    for name, value in (("a", "ya"), ("c", "yc"), ("l", "logits")):
        watched = onnx.ModelProto()
        watched.CopyFrom(network)
        watched.graph.output[0].name = value
        node = next(node for node in network.graph.node if node.name == name)
        scale, bias = (
            next(numpy_helper.to_array(c) for c in network.graph.initializer if c.name == vector)
            for vector in node.input[2:]
        )
        shape = (1, -1) + (1,) * (integers[name].ndim - 2)
        affine = integers[name] * scale.reshape(shape) + bias.reshape(shape)
        assert np.array_equal(affine, expected(watched, x))


def test_a_plan_in_a_file_a_bundle_and_memory_runs_alike(network, tmp_path):
    model = ir.from_proto(network)
    (tmp_path / "model.bd").write_bytes(lower(model).to_bytes())
    (tmp_path / "network.onnx").write_bytes(network.SerializeToString())
    x = whole(2, 3, 8, 8)
    sources = (tmp_path / "model.bd", str(tmp_path / "network.onnx"), tmp_path, model,
               lower(model).to_bytes(), network.SerializeToString())  # fmt: skip
    for source in sources:
        with Session(source) as opened:
            assert np.array_equal(opened.run(None, {"x": x})[0], expected(network, x))


def test_latent_weights_are_converted_first():
    attributes = f"<{WINDOW}, pads=[1,1,1,1], pad_value=1.0>"
    body = f"[c] y = bindeploy.latent.BinaryConv2d {attributes} (x, u, s, b)"
    model = graph("[N,3,5,5]", body, u=whole(4, 3, 3, 3), s=whole(4), b=whole(4))
    model.graph.output[0].type.tensor_type.shape.CopyFrom(
        onnx.helper.make_tensor_value_info("y", 1, ["N", 4, 5, 5]).type.tensor_type.shape
    )
    x = whole(2, 3, 5, 5)
    assert np.array_equal(ours(model, x), expected(model, x))


def test_the_ends_are_described_as_onnxruntime_does(network):
    with Session(ir.from_proto(network)) as opened:
        assert opened.get_inputs() == [Value("x", ("N", 3, 8, 8), "tensor(float)")]
        assert opened.get_outputs() == [Value("y", ("N", 10), "tensor(float)")]
        assert opened.run(["y"], {"x": whole(0, 3, 8, 8)})[0].shape == (0, 10)


def test_one_pixel_keeps_the_rank_that_the_model_gave_it():
    model = ir.from_proto(graph("[N,3,4,4]", "y = GlobalAveragePool(x)"))
    x = whole(2, 3, 4, 4)
    with Session(model) as of_model, Session(lower(model).to_bytes()) as of_plan:
        assert of_model.run(None, {"x": x})[0].shape == (2, 3, 1, 1)
        assert of_plan.run(None, {"x": x})[0].shape == (2, 3, 1, 1)


def test_a_picture_of_one_pixel_may_come_as_features():
    model = graph("[N,6]", "y = Relu(x)")
    x = whole(2, 6)
    assert np.array_equal(ours(model, x), np.maximum(x, 0))
    assert np.array_equal(ours(model, x.reshape(2, 6, 1, 1)), np.maximum(x, 0))


def test_images_in_any_memory_order_give_the_same(network):
    x = whole(4, 3, 8, 8)
    strided = np.asfortranarray(x)[::2]
    assert not strided.flags.c_contiguous
    with Session(ir.from_proto(network)) as opened:
        assert np.array_equal(
            opened.run(None, {"x": strided})[0], opened.run(None, {"x": x})[0][::2]
        )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (whole(1, 3, 32, 32), "input `x` has shape [1, 3, 32, 32]; the model takes [N, 3, 8, 8]"),
        (whole(3, 8, 8), "input `x` has shape [3, 8, 8]; the model takes [N, 3, 8, 8]"),
        (np.float32(1), "input `x` has shape []; the model takes [N, 3, 8, 8]"),
        (np.zeros((1, 3, 8, 8)), "input `x` is float64; the model takes float32"),
        (whole(1, 3, 8, 8).astype(">f4"), "input `x` is >f4; the model takes float32"),
        ([[None]], "input `x` is object; the model takes float32"),
    ],
)
def test_a_wrong_image_never_reaches_the_library(network, x, message):
    with Session(ir.from_proto(network)) as opened:
        for call in (lambda: opened.run(None, {"x": x}), lambda: opened.integers(x),
                     lambda: opened.profile(x, 1, 0)):  # fmt: skip
            with pytest.raises(BindeployError) as error:
                call()
            assert str(error.value) == message


def test_wrong_names_are_refused(network):
    x = whole(1, 3, 8, 8)
    with Session(ir.from_proto(network)) as opened:
        with pytest.raises(BindeployError, match="unknown output `z`: choose from y"):
            opened.run(["z"], {"x": x})
        with pytest.raises(BindeployError, match="unknown input `image`: choose from x"):
            opened.run(None, {"image": x})
        with pytest.raises(BindeployError, match="input `x` is missing"):
            opened.run(None, {})


def test_a_profile_times_every_node_of_every_run(network):
    with Session(ir.from_proto(network)) as opened:
        times = opened.profile(whole(2, 3, 8, 8), runs=3, warmup=1)
        assert [len(run) for run in times] == [len(opened.nodes)] * 3
        assert all(sum(run) > 0 for run in times)
        for x, runs, warmup in ((whole(0, 3, 8, 8), 1, 0), (whole(1, 3, 8, 8), 0, 0)):
            with pytest.raises(BindeployError, match="take at least one image and one run"):
                opened.profile(x, runs, warmup)


def test_nodes_tell_their_op_kernel_work_and_shape(network):
    with Session(ir.from_proto(network), isa="scalar") as opened:
        assert opened.isa == "scalar"
        nodes = {node.name: node for node in opened.nodes}
    assert nodes["t"].op == "binary_conv_threshold"
    assert nodes["t"].macs == 4 * 4 * 8 * 9 * 4
    assert nodes["t"].output_shape == (1, 4, 4, 8)
    assert nodes["t"].kernel.endswith("__scalar")
    assert nodes["x/to_nhwc"] == Node("x/to_nhwc", "to_nhwc", "", 0, (1, 8, 8, 3))


def test_memory_is_told_in_bytes(network):
    plan = lower(ir.from_proto(network))
    with Session(plan.to_bytes()) as opened:
        assert opened.memory["plan_bytes"] == len(plan.to_bytes())
        assert opened.memory["arena_bytes"] == plan.arena_bytes
        assert set(opened.memory) == {"plan_bytes", "arena_bytes", "weights_bytes", "scratch_bytes"}


def test_the_isa_is_one_that_kernels_have_unless_asked_for(network):
    with Session(ir.from_proto(network)) as opened:
        kernels = [node.kernel for node in opened.nodes if node.op == "binary_conv"]
        assert kernels and all(name.endswith(f"__{opened.isa}") for name in kernels)
    with pytest.raises(BindeployError, match="the model: .*`?mmx"):
        Session(ir.from_proto(network), isa="mmx")


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_number_of_threads_that_cannot_be_is_refused(network, threads):
    with pytest.raises(BindeployError, match=rf"`threads={threads}`: 1 to 256 are possible"):
        Session(ir.from_proto(network), threads=threads)


def test_a_closed_session_runs_nothing(network):
    opened = Session(ir.from_proto(network))
    opened.close()
    opened.close()
    for call in (lambda x: opened.run(None, {"x": x}), opened.integers, opened.profile):
        with pytest.raises(BindeployError, match="the session is closed"):
            call(whole(1, 3, 8, 8))


def test_the_plan_outlives_the_bytes_it_came_from(network):
    content = bytearray(lower(ir.from_proto(network)).to_bytes())
    x = whole(2, 3, 8, 8)
    with Session(bytes(content)) as opened:
        content[:] = bytes(len(content))
        del content
        gc.collect()
        assert np.array_equal(opened.run(None, {"x": x})[0], expected(network, x))


def test_threads_share_a_session(network):
    x = whole(4, 3, 8, 8)
    answers = {}
    with Session(ir.from_proto(network)) as opened:

        def work(index: int) -> None:
            answers[index] = [opened.run(None, {"x": x[index : index + 1]})[0] for _ in range(50)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, answer in enumerate(expected(network, x)):
        assert all(np.array_equal(one[0], answer) for one in answers[index])


def test_a_damaged_plan_is_refused_in_one_line(network, tmp_path):
    content = bytearray(lower(ir.from_proto(network)).to_bytes())
    content[200] ^= 1
    for damaged in (bytes(content), bytes(content[:-1]), bytes(content[:20]), b""):
        path = tmp_path / "model.bd"
        path.write_bytes(damaged)
        with pytest.raises(BindeployError) as error:
            Session(path)
        assert str(error.value).startswith(f"`{path}`: ")
        assert "\n" not in str(error.value)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BindeployError, match=r"`.*text\.onnx` is no ONNX model"):
        Session(tmp_path / "text.onnx")
    with pytest.raises(BindeployError, match=r"`.*model\.bd` is no file"):
        Session(tmp_path)
    with pytest.raises(BindeployError, match=r"`.*absent\.bd` is no file"):
        Session(tmp_path / "absent.bd")
    with pytest.raises(BindeployError, match="the model is no ONNX model"):
        Session(b"no model")
    with pytest.raises(BindeployError, match="`int` is no model"):
        Session(3)


class Installed(PurePosixPath):
    """A file as importlib.metadata lists it."""

    def locate(self) -> PurePath:
        return self


def test_a_missing_library_is_told_with_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.delenv(library.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(files, "PACKAGE", tmp_path)
    elsewhere = PurePath(tmp_path / "site" / "lib" / library.LIBRARY)
    monkeypatch.setattr(files.importlib.metadata, "files", lambda name: [Installed(elsewhere)])
    with pytest.raises(BindeployError, match=r"`libbindeploy\.\w+` is not built: run `pip install"):
        library_path()
    installed = Path(elsewhere)
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert library_path() == installed
    packaged = tmp_path / "lib" / library.LIBRARY
    packaged.parent.mkdir()
    packaged.touch()
    assert library_path() == packaged


def test_the_variable_names_the_library_first_of_all(monkeypatch, network, tmp_path):
    plan = lower(ir.from_proto(network)).to_bytes()
    named = tmp_path / "other.so"
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(named))
    with pytest.raises(BindeployError, match=r"BINDEPLOY_LIBRARY names `.*other\.so`, which is no"):
        library_path()
    named.write_text("no library")
    assert library_path() == named
    with pytest.raises(BindeployError, match=r"`.*other\.so` is no runtime library"):
        Session(plan)


def test_a_library_of_another_version_is_refused(monkeypatch, network, tmp_path):
    copy = Path(shutil.copy(library_path(), tmp_path / "copy.so"))
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(copy))
    monkeypatch.setattr(library, "__version__", "0.0.0")
    with pytest.raises(BindeployError, match="this is bindeploy 0.0.0: run `pip install"):
        Session(lower(ir.from_proto(network)).to_bytes())


def test_a_plan_runs_with_numpy_alone(network, tmp_path):
    plan = tmp_path / "model.bd"
    plan.write_bytes(lower(ir.from_proto(network)).to_bytes())
    script = f"""
import sys
import numpy as np
from bindeploy.session import Session
with Session({str(plan)!r}) as session:
    session.run(None, {{"x": np.ones((1, 3, 8, 8), np.float32)}})
print(*sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                             check=True, cwd=resource("runtime").parent)  # fmt: skip
    loaded = {module.split(".")[0] for module in process.stdout.split()}
    assert not loaded & {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "google"}
    assert "numpy" in loaded
