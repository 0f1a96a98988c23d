"""A bundle is whole or absent, and its verification sees every wrong bit."""

import importlib.util
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bindeploy import bits
from bindeploy.build import PROGRAM
from bindeploy.bundle import Bundle, Golden, create, from_source, inspect, verify
from bindeploy.bundle import formats as formats_of_bundles
from bindeploy.bundle.verification import compare
from bindeploy.convert import dialect
from bindeploy.convert.engines import run_numpy
from bindeploy.emit.onnx import save
from bindeploy.emit.plan_format import HEADER
from bindeploy.errors import BindeployError
from bindeploy.library import library_path
from bindeploy.on import transport
from bindeploy.target import load

IMAGES, CHANNELS, SIZE, CLASSES = 4, 3, 8, 5
INTEGER_SHAPES = {"stem": (40, 8, 8), "body": (6, 4, 4), "head": (CLASSES,)}


def library_is_here() -> bool:
    try:
        return library_path().is_file()
    except BindeployError:
        return False


needs_library = pytest.mark.skipif(not library_is_here(), reason="the runtime is not built")
needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"
)


def network() -> ir.Model:
    """Threshold convolution, convolution with stride, dense layer: 3 binary layers, 8x8 images."""
    generator = np.random.default_rng(5)

    def random_bits(*shape: int) -> np.ndarray:
        return bits.pack(generator.choice([-1.0, 1.0], shape))

    def affine(filters: int) -> dict[str, np.ndarray]:
        scale = generator.uniform(0.05, 0.2, filters).astype(np.float32)
        return {"scale": scale, "bias": generator.normal(size=filters).astype(np.float32)}

    constants = {
        "stem": {
            "bits": random_bits(40, 3, 3, CHANNELS),
            "threshold": generator.integers(-4, 5, 40).astype(np.int32),
            "direction": generator.choice([-1, 1], 40).astype(np.int8),
        },
        "body": {"bits": random_bits(6, 3, 3, 40), **affine(6)},
        "head": {"bits": random_bits(CLASSES, 6 * 4 * 4), **affine(CLASSES)},
    }

    def layer(op: str, name: str, x: str, y: str, **attributes: object):
        inputs = [x, *(f"{name}.{constant}" for constant in constants[name])]
        return helper.make_node(op, inputs, [y], name, domain="bindeploy", **attributes)

    window = {"group": 1, "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    same = {**window, "strides": [1, 1], "pad_value": 1.0}
    half = {**window, "strides": [2, 2], "pad_value": 0.0}
    nodes = [
        layer("BinaryConv2dThreshold", "stem", "image", "a", channels=CHANNELS, **same),
        layer("BinaryConv2d", "body", "a", "b", channels=40, **half),
        helper.make_node("Flatten", ["b"], ["c"], "flatten"),
        layer("BinaryLinear", "head", "c", "logits", channels=6 * 4 * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "three_layers",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(array, f"{name}.{constant}")
            for name, arrays in constants.items()
            for constant, array in arrays.items()
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("bindeploy", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    dialect.attach_functions(model)
    return model


@pytest.fixture(scope="module")
def packed() -> ir.Model:
    return network()


@pytest.fixture(scope="module")
def golden(packed) -> Golden:
    images = np.random.default_rng(6).normal(size=(IMAGES, CHANNELS, SIZE, SIZE))
    logits, integers = run_numpy(packed, images.astype(np.float32))
    return Golden(images.astype(np.float32), logits, integers, "numpy", skipped=2)


@pytest.fixture(scope="module")
def made(packed, golden, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    return create(packed, golden, load("host"), out, {"source": "by hand"}).path


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def row(report: dict, name: str) -> dict:
    return next(row for row in report["engines"] if row["name"] == name)


def test_an_opened_bundle_gives_back_what_went_in(made, golden):
    bundle = Bundle.open(made)
    again = bundle.golden
    assert (bundle.target, bundle.format) == ("host", "runtime")
    assert bundle.built_for == load("host")
    assert bundle.layers == INTEGER_SHAPES
    assert list(bundle.layers) == list(INTEGER_SHAPES)
    assert bundle.output_shape == (CLASSES,)
    assert bundle.manifest["provenance"] == {"source": "by hand"}
    assert (again.source, again.skipped) == ("numpy", 2)
    np.testing.assert_array_equal(again.inputs, golden.inputs)
    np.testing.assert_array_equal(again.logits, golden.logits)
    for name, integers in golden.integers.items():
        np.testing.assert_array_equal(again.integers[name], integers)


def test_every_engine_agrees_with_the_golden_vectors(made):
    lines = []
    report = verify(Bundle.open(made), progress=lines.append)
    assert report["ok"], report
    names = [row["name"] for row in report["engines"]]
    assert names[:3] == ["numpy", "onnxruntime", "numpy"]
    assert ("runtime" in names) == library_is_here()
    assert "qemu" not in {row["name"] for row in report["skipped"]}
    assert len(lines) == len(names) - 1
    assert json.loads(json.dumps(report)) == report


def change_integer(folder: Path, image: int = 1) -> None:
    path = folder / "golden" / "integers.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["body"][image, 2, 3, 0] += 2
    np.savez(path, **arrays)


def test_a_changed_golden_integer_fails_and_is_found(copy):
    change_integer(copy)
    report = verify(Bundle.open(copy))
    assert not report["ok"]
    wrong = row(report, "onnxruntime")
    assert not wrong["integers_equal"] and wrong["classes_equal"]
    assert wrong["difference"].startswith("layer `body`, image 1, filter 2, row 3, column 0: ")
    assert wrong["difference"].endswith("(1 of 384 differ)")
    assert row(report, "numpy")["integers_equal"]  # the first row: the golden vectors themselves


def test_a_changed_golden_logit_fails_and_is_found(copy):
    path = copy / "golden" / "logits.npy"
    logits = np.load(path)
    logits[2, 3] += 0.01
    np.save(path, logits)
    report = verify(Bundle.open(copy))
    assert not report["ok"]
    assert row(report, "onnxruntime")["integers_equal"]
    assert row(report, "onnxruntime")["max_logit_difference"] == pytest.approx(0.01, rel=1e-3)
    assert row(report, "onnxruntime")["difference"] == "logits: image 2, class 3 is off by 1.0e-02"


def flip_weight(plan: Path, packed: ir.Model) -> None:
    """Flip the first weight of `body` in a plan, checksum and all."""
    weights = packed.graph.initializers["body.bits"].const_value.numpy().tobytes()
    content = bytearray(plan.read_bytes())
    assert content.count(weights) == 1
    content[content.index(weights)] ^= 1
    header = np.frombuffer(content, HEADER, 1)
    header["checksum"] = zlib.crc32(content[HEADER.itemsize :])
    plan.write_bytes(content)


@needs_library
def test_a_flipped_bit_of_the_plan_fails_in_its_layer(copy, packed):
    flip_weight(copy / "model.bd", packed)
    report = verify(Bundle.open(copy))
    assert not report["ok"]
    assert row(report, "onnxruntime")["integers_equal"]
    assert not row(report, "runtime")["integers_equal"]
    assert "layer `body`, image 0, filter 0, " in row(report, "runtime")["difference"]


@needs_library
def test_a_damaged_plan_fails_in_words(copy):
    plan = copy / "model.bd"
    content = bytearray(plan.read_bytes())
    content[-100] ^= 1
    plan.write_bytes(content)
    report = verify(Bundle.open(copy))
    assert not report["ok"]
    assert row(report, "runtime")["max_logit_difference"] is None
    assert "checksum" in row(report, "runtime")["difference"]


def test_a_flipped_bit_of_the_portable_file_fails_in_its_layer(copy, packed):
    weights = packed.graph.initializers["stem.bits"].const_value.numpy().tobytes()
    content = bytearray((copy / "model.onnx").read_bytes())
    content[content.index(weights)] ^= 1
    (copy / "model.onnx").write_bytes(content)
    report = verify(Bundle.open(copy))
    assert not report["ok"]
    assert "layer `stem`" in row(report, "onnxruntime")["difference"]


def test_a_damaged_portable_file_fails_in_words(copy):
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-20])
    report = verify(Bundle.open(copy))
    assert not report["ok"]
    assert "model.onnx" in row(report, "onnxruntime")["difference"]


def replace_array(name: str, **changes: object):
    """Write another array over a golden file: of another dtype, or cut to `keep` images."""

    def damage(folder: Path) -> None:
        array = np.load(folder / "golden" / name)
        array = array.astype(changes.get("dtype", array.dtype))
        array[:1] = changes.get("fill", array[:1])
        np.save(folder / "golden" / name, array[: changes.get("keep", len(array))])

    return damage


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def drop_layer(folder: Path) -> None:
    with np.load(folder / "golden" / "integers.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "body"}
    np.savez(folder / "golden" / "integers.npz", **arrays)


def pickled(folder: Path) -> None:
    np.save(folder / "golden" / "input.npy", np.array([{}], object), allow_pickle=True)


DAMAGED_GOLDEN = {
    "no array": (write("golden/input.npy", b"text"), "golden/input.npy"),
    "an array that would run code": (pickled, "golden/input.npy"),
    "cut off": (write("golden/logits.npy", b"\x93NUMPY\x01\x00"), "golden/logits.npy"),
    "no archive": (write("golden/integers.npz", b"PK\x03\x04"), "golden/integers.npz"),
    "another type": (replace_array("input.npy", dtype=np.float64), "golden/input.npy"),
    "no images": (replace_array("input.npy", keep=0), "golden/input.npy"),
    "fewer logits": (replace_array("logits.npy", keep=2), "golden/logits.npy"),
    "not a number": (replace_array("logits.npy", fill=np.nan), "golden/logits.npy"),
    "a layer missing": (drop_layer, "golden/integers.npz"),
}


@pytest.mark.parametrize(("damage", "name"), DAMAGED_GOLDEN.values(), ids=DAMAGED_GOLDEN)
def test_damaged_golden_vectors_are_one_line(damage, name, copy):
    damage(copy)
    with pytest.raises(BindeployError) as caught:
        verify(Bundle.open(copy))
    assert str(caught.value).startswith(f"`{name}` of bundle")
    assert str(caught.value).endswith("export it again")
    assert "\n" not in str(caught.value)


def edit(**changes: object):
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text()) | changes
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def forget(name: str):
    return lambda folder: (folder / name).unlink()


NO_BUNDLE = {
    "no manifest": (forget("manifest.json"), "is no bundle"),
    "no JSON": (write("manifest.json", b"{"), "is damaged"),
    "no text": (write("manifest.json", b"\xff\xfe"), "is damaged"),
    "another manifest": (write("manifest.json", b'{"version": 1}'), "not written by bindeploy"),
    "a list": (write("manifest.json", b"[]"), "not written by bindeploy"),
    "a newer layout": (edit(bundle=99), "has layout 99"),
    "unknown format": (edit(format="word"), "unknown bundle format `word`: choose from runtime"),
    "no target": (edit(target=None), "is damaged"),
    "half a target": (edit(target={"name": "x"}), "key `title` is missing"),
    "layers of another kind": (edit(layers=[3]), "is damaged"),
    "shape of another kind": (edit(output_shape=["x"]), "is damaged"),
    "no golden": (edit(golden=7), "is damaged"),
    "model lost": (forget("model.onnx"), "has lost its `model.onnx`"),
    "plan lost": (forget("model.bd"), "has lost its `model.bd`"),
    "golden lost": (forget("golden/input.npy"), "has lost its `golden/input.npy`"),
}


@pytest.mark.parametrize(("damage", "complaint"), NO_BUNDLE.values(), ids=NO_BUNDLE)
def test_what_is_no_bundle_is_refused_in_a_line(damage, complaint, copy):
    damage(copy)
    with pytest.raises(BindeployError) as caught:
        Bundle.open(copy)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_is_no_bundle(tmp_path):
    (tmp_path / "file").write_text("text")
    for name in ("file", "none"):
        with pytest.raises(BindeployError, match="is no bundle"):
            Bundle.open(tmp_path / name)


def test_an_unknown_place_lists_those_there_are(made):
    with pytest.raises(
        BindeployError, match="unknown place to run `mars`: choose from local, qemu"
    ):
        verify(Bundle.open(made), on="mars")


def test_a_place_that_was_asked_for_must_run(made):
    with pytest.raises(BindeployError, match="does not run on `qemu`: target `host` names no"):
        verify(Bundle.open(made), on="qemu")


def test_a_failed_creation_leaves_nothing_behind(packed, golden, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise BindeployError("no compiler")

    monkeypatch.setattr(formats_of_bundles, "build", fail)
    with pytest.raises(BindeployError, match="no compiler"):
        create(packed, golden, load("host"), tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_creation_keeps_the_bundle_that_was_there(copy, packed, golden, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    before = (copy / "model.bd").stat().st_mtime_ns
    monkeypatch.setattr(formats_of_bundles, "build", interrupt)
    with pytest.raises(KeyboardInterrupt):
        create(packed, golden, load("host"), copy, {})
    assert list(copy.parent.iterdir()) == [copy]
    assert (copy / "model.bd").stat().st_mtime_ns == before
    assert Bundle.open(copy).target == "host"


def test_a_bundle_replaces_a_bundle_and_never_a_folder_of_the_users(copy, packed, golden, tmp_path):
    again = create(packed, golden, load("host"), copy, {"source": "again"}, format="onnx")
    assert again.manifest["provenance"] == {"source": "again"}
    assert not again.plan.exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(BindeployError, match="was not written by bindeploy"):
        create(packed, golden, load("host"), mine, {})
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "mine"]


def test_golden_vectors_of_another_model_are_refused(packed, golden, tmp_path):
    other = Golden(golden.inputs, golden.logits, {"other": golden.integers["stem"]}, "numpy")
    with pytest.raises(BindeployError, match="golden integers are of layers"):
        create(packed, other, load("host"), tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []


def test_a_portable_bundle_is_verified_without_a_plan(packed, golden, tmp_path):
    bundle = create(packed, golden, load("arm"), tmp_path / "out", {}, format="onnx")
    report = verify(bundle)
    assert report["ok"]
    assert ("runtime" in {row["name"] for row in report["engines"]}) == library_is_here()
    assert {row["name"]: row["reason"] for row in report["skipped"]}["qemu"] == (
        "the bundle has no bin/bd_bench: export it with --format runtime"
    )


def test_an_onnx_file_becomes_a_bundle_with_vectors_of_stock_onnxruntime(packed, tmp_path):
    save(packed, tmp_path / "net.onnx")
    bundle = from_source(tmp_path / "net.onnx", "host", tmp_path / "out", format="onnx")
    assert bundle.golden.source.startswith("onnxruntime ")
    assert bundle.golden.inputs.shape == (8, CHANNELS, SIZE, SIZE)
    assert bundle.manifest["provenance"] == {"source": "net.onnx"}
    assert verify(bundle)["ok"]


def with_margins(monkeypatch, clear: set[int]) -> None:
    """Let only these candidates be clear of ties."""

    def margins(model, inputs):
        return np.array([1.0 if index in clear else 1e-9 for index in range(len(inputs))])

    monkeypatch.setattr("bindeploy.convert.golden.margins", margins)


def test_candidates_with_ties_are_passed_over_and_counted(packed, tmp_path, monkeypatch):
    with_margins(monkeypatch, {3, 4, 60})
    golden = from_source(packed, "host", tmp_path / "out", format="onnx").golden
    assert len(golden.inputs) == 3
    assert golden.skipped == 61


def test_a_model_without_clear_candidates_keeps_one_and_verify_tells(packed, tmp_path, monkeypatch):
    with_margins(monkeypatch, set())
    bundle = from_source(packed, "host", tmp_path / "out", format="onnx")
    assert (len(bundle.golden.inputs), bundle.golden.margin) == (1, 1e-9)
    assert verify(bundle)["ok"]
    change_integer(bundle.path, image=0)
    rows = verify(Bundle.open(bundle.path))["engines"]
    assert "a binarized float lies 1e-09 from zero: no proof" in rows[1]["difference"]


def test_an_onnx_model_in_memory_becomes_a_bundle(packed, tmp_path):
    bundle = from_source(packed, load("host"), tmp_path / "out", format="onnx")
    assert bundle.layers == INTEGER_SHAPES


@pytest.mark.parametrize("shape", [["N", CHANNELS, "height", "width"], [4, CHANNELS, 8, 8]])
def test_a_model_of_open_images_or_of_a_fixed_batch_is_refused(shape, packed, tmp_path):
    model = packed.clone()
    model.graph.inputs[0].shape = ir.Shape(shape)
    with pytest.raises(BindeployError, match="first size open or 1, the others fixed.*`image`"):
        from_source(model, "host", tmp_path / "out")


def test_an_unknown_format_lists_those_there_are(packed, tmp_path):
    with pytest.raises(BindeployError, match="unknown format `word`: choose from runtime, onnx"):
        from_source(packed, "host", tmp_path / "out", format="word")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(BindeployError, match=r"is no run \(it has no run.json\)"):
        from_source(tmp_path, "host", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_inspecting_counts_a_model_and_its_bundle_alike(packed, made, tmp_path):
    save(packed, tmp_path / "net.onnx")
    model, bundle = inspect(tmp_path / "net.onnx"), inspect(made)
    macs = 8 * 8 * 40 * 9 * 3 + 4 * 4 * 6 * 9 * 40 + 96 * CLASSES
    assert model["total"]["binary_macs"] == macs
    assert bundle["layers"] == model["layers"]
    assert bundle["total"]["file_bytes"] == (made / "model.bd").stat().st_size


def test_what_is_not_there_cannot_be_inspected(tmp_path):
    with pytest.raises(
        BindeployError, match="`.*none.onnx` is not there: give an ONNX file, a bun"
    ):
        inspect(tmp_path / "none.onnx")


@needs_zig
@pytest.mark.parametrize(
    ("target", "where"), [("arm", "qemu"), ("riscv64", "qemu"), ("wasm", "wasmtime")]
)
def test_a_bundle_for_another_machine_runs_in_its_emulator(target, where, packed, golden, tmp_path):
    bundle = create(packed, golden, load(target), tmp_path / "out", {})
    assert (bundle.path / PROGRAM).stat().st_mode & 0o111
    if obstacle := transport(where).obstacle(bundle):
        pytest.skip(obstacle)
    report = verify(bundle, on=where)
    assert row(report, where)["integers_equal"]
    assert report["ok"], report
    flip_weight(bundle.plan, packed)
    report = verify(bundle, on=where)
    assert not report["ok"] and "layer `body`" in row(report, where)["difference"]


@pytest.mark.parametrize(("largest", "agrees"), [(0.5, False), (20.0, True)])
def test_logits_agree_to_a_share_of_the_largest(largest, agrees, golden):
    logits = np.zeros_like(golden.logits)
    logits[:, 1] = largest
    shifted = logits.copy()
    shifted[0, 1] += 1.5e-4
    recorded = replace(golden, logits=logits)
    row = compare("engine", recorded, (shifted, dict(golden.integers)))
    assert ("difference" not in row) == agrees
