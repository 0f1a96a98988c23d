"""A bundle that TVM compiled runs, proves itself and is measured as any other, by TVM's runtime."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")

from bindeploy.bench import bench_bundle
from bindeploy.bundle import Bundle, from_source, verify
from bindeploy.convert import pipeline
from bindeploy.emit.tvm import compiler
from bindeploy.emit.tvm.module_source import INTEGERS, MODULE
from bindeploy.errors import BindeployError
from bindeploy.session import Session
from bindeploy.tables import bench as print_bench
from bindeploy.tables import console
from bindeploy.target import load

pytestmark = pytest.mark.filterwarnings("ignore")  # of TVM

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")


@pytest.fixture
def copy(compiled_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(compiled_bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def images(compiled_bundle) -> np.ndarray:
    return Bundle.open(compiled_bundle).golden.inputs


def row(report: dict, name: str) -> dict:
    return next(row for row in report["engines"] if row["name"] == name)


def one_line(action, *arguments, **options) -> str:
    with pytest.raises(BindeployError) as caught:
        action(*arguments, **options)
    return str(caught.value)


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Write a module of a bundle, and the checksum that its manifest has of it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["build"]["checksums"][name] = zlib.crc32(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_says_how_it_was_compiled(compiled_bundle):
    bundle = Bundle.open(compiled_bundle)
    built = bundle.manifest["build"]
    assert built["tvm"].startswith("0.27.")
    assert built["target"]["kind"] == "llvm" and built["processor"] == built["target"]["mcpu"]
    assert built["kernels"] == "own"
    layers = [call["layer"] for call in built["calls"]]
    assert [name for name in dict.fromkeys(layers) if name in bundle.layers] == [*bundle.layers]
    assert not bundle.plan.exists()
    assert (bundle.path / "src" / "host.cc").is_file()


def test_every_engine_agrees_with_the_golden_vectors(compiled_bundle):
    report = verify(Bundle.open(compiled_bundle))
    assert report["ok"] and report["skipped"] == [], report
    first, *others = [row["name"] for row in report["engines"]]
    assert first.startswith("torch")
    assert others == ["onnxruntime", "numpy", "runtime", "tvm"]


@pytest.mark.parametrize("kind", ["compiled_bundle", "digits_bundle"])
def test_a_bundle_runs_images(kind, request):
    bundle = Bundle.open(request.getfixturevalue(kind))
    golden = bundle.golden
    np.testing.assert_allclose(bundle.run(golden.inputs), golden.logits, rtol=0, atol=1e-4)


def test_a_session_gives_what_the_runtime_gives(compiled_bundle, images):
    with Session(compiled_bundle) as ours, Session(compiled_bundle / "model.onnx") as runtime:
        assert ours.get_inputs() == runtime.get_inputs()
        assert ours.get_outputs() == runtime.get_outputs()
        feed = {"input": np.asfortranarray(images)}
        logits = ours.run(None, feed)[0]
        np.testing.assert_allclose(logits, runtime.run(None, feed)[0], rtol=0, atol=1e-5)
        assert ours.run(["logits"], {"input": images[:0]})[0].shape == (0, 10)
        expected, found = runtime.integers(images), ours.integers(images)
        assert [*found] == [*expected]
        for name, integers in found.items():
            assert integers.dtype == np.int32
            np.testing.assert_array_equal(integers, expected[name])


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor has one thread")
def test_threads_change_no_bit_and_bind_nothing(compiled_bundle, images, tmp_path, monkeypatch):
    import tvm

    monkeypatch.setattr("bindeploy.emit.tvm.convolution.WORTH_SHARING", 0)
    source = compiled_bundle / "model.onnx"
    shared = from_source(source, "host", tmp_path / "shared", format="tvm").path
    used = tvm.get_global_func("runtime.NumThreads")
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with Session(shared) as one, Session(shared, threads=2) as two:
        for _ in range(2):
            alone = one.run(None, {"input": images})[0]
            assert used() == 1
            np.testing.assert_array_equal(two.run(None, {"input": images})[0], alone)
            assert used() == 2
    if processors is not None:
        assert os.sched_getaffinity(0) == processors


@pytest.mark.parametrize(
    ("names", "feed"),
    [
        (None, {}),
        (None, {"image": np.zeros((1, 1, 8, 8), np.float32)}),
        (["probability"], {"input": np.zeros((1, 1, 8, 8), np.float32)}),
        (None, {"input": np.zeros((1, 1, 8, 8))}),
        (None, {"input": np.zeros((1, 8, 8), np.float32)}),
        (None, {"input": np.float32(1)}),
    ],
)
def test_wrong_inputs_are_refused_in_the_words_of_a_plan(names, feed, compiled_bundle):
    with Session(compiled_bundle) as ours, Session(compiled_bundle / "model.onnx") as runtime:
        assert one_line(ours.run, names, feed) == one_line(runtime.run, names, feed)


def test_what_a_module_cannot_be_is_refused(compiled_bundle, images):
    assert "`isa=avx2`: a compiled module" in one_line(Session, compiled_bundle, isa="avx2")
    assert "`threads=0`" in one_line(Session, compiled_bundle, threads=0)
    session = Session(compiled_bundle)
    session.close()
    session.close()
    assert "the session is closed" in one_line(session.run, None, {"input": images})
    assert "the session is closed" in one_line(session.integers, images)


RUNTIME_ALONE = """
import sys
for absent in ("onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "click", "rich"):
    sys.modules[absent] = None  # importing it fails
import bindeploy, numpy
with bindeploy.Session(sys.argv[1]) as session:
    images = numpy.load(sys.argv[1] + "/golden/input.npy")
    session.run(None, {"input": images})
    session.integers(images)
import tvm
assert tvm.base._RUNTIME_ONLY and "tvm.relax" not in sys.modules
"""


def test_a_device_needs_numpy_and_the_runtime_of_tvm_alone(compiled_bundle):
    command = [sys.executable, "-c", RUNTIME_ALONE, str(compiled_bundle)]
    subprocess.run(command, check=True, env=os.environ | {"TVM_USE_RUNTIME_LIB": "1"})


def cut(content: bytes) -> bytes:
    """What kills whoever maps it."""
    return content[:5000]


def turned(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(("name", "damage"), [(MODULE, cut), (INTEGERS, turned)])
def test_a_damaged_module_is_never_loaded(name, damage, copy, images):
    (copy / name).write_bytes(damage((copy / name).read_bytes()))
    wanted = f"{name}` is damaged (its checksum differs): export it again"
    assert wanted in one_line(lambda: Session(copy).integers(images))
    report = verify(Bundle.open(copy))
    assert wanted in row(report, "tvm")["difference"]
    assert "difference" not in row(report, "runtime")


def test_a_lost_module_is_named(copy):
    (copy / INTEGERS).unlink()
    assert "has lost its `golden/integers.so`" in one_line(Bundle.open, copy)


def test_a_module_for_another_machine_is_skipped_in_words(copy):
    content = bytearray((copy / MODULE).read_bytes())
    if not content.startswith(b"\x7fELF"):
        pytest.skip("modules of this machine do not say in ELF what it is")
    content[18] = 62 if content[18] == 183 else 183
    replaced(copy, MODULE, content)
    machine = "x86-64" if content[18] == 62 else "64-bit ARM"
    assert f"model.so` is for {machine}: run it there" in one_line(Session, copy)
    bundle = Bundle.open(copy)
    report = verify(bundle)
    assert report["ok"]
    (skipped,) = report["skipped"]
    assert skipped["name"] == "tvm" and f"is for {machine} (target `host`)" in skipped["reason"]
    assert f"does not run on `tvm`: model.so is for {machine}" in one_line(verify, bundle, "tvm")


@needs_cc
def test_a_module_that_dies_takes_nobody_with_it(copy, tmp_path):
    source, library = tmp_path / "dies.c", tmp_path / "dies.so"
    source.write_text("__attribute__((constructor)) void f(void) { __builtin_trap(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    replaced(copy, MODULE, library.read_bytes())
    assert "model.so` died of SIG" in row(verify(Bundle.open(copy)), "tvm")["difference"]


def test_a_changed_golden_integer_fails_in_its_layer(copy):
    path = copy / "golden" / "integers.npz"
    with np.load(path) as file:
        arrays = dict(file)
    name = [*arrays][-1]
    arrays[name].flat[0] += 2
    np.savez(path, **arrays)
    assert f"layer `{name}`, image 0" in row(verify(Bundle.open(copy)), "tvm")["difference"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input", None),
        ("input", {"name": "input", "shape": [1, -8, 8]}),
        ("input", {"name": "input", "shape": [2**20, 2**20]}),
        ("calls", ["binarize"]),
        ("checksums", 7),
    ],
)
def test_a_damaged_manifest_is_one_line(key, value, copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["build"][key] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "`manifest.json` of bundle" in one_line(Session, copy)


@pytest.mark.parametrize("layers", [-1, 1])
def test_a_manifest_of_another_network_is_one_line(layers, copy, images):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["layers"] = (manifest["layers"] * 2)[: len(manifest["layers"]) + layers]
    for number, layer in enumerate(manifest["layers"]):
        layer["name"] = str(number)
    manifest["output_shape"] = [1]
    manifest["build"]["calls"].pop()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with Session(copy) as session:
        for action in (lambda x: session.run(None, {"input": x}), session.integers):
            assert "has other outputs than its manifest says" in one_line(action, images)
        assert "has other kernels than its manifest says" in one_line(session.profile, images)


def test_a_report_names_kernels_by_their_layers_with_the_runtime_beside(compiled_bundle, capsys):
    bundle = Bundle.open(compiled_bundle)
    report = bench_bundle(bundle, runs=2, compare="onnxruntime")
    layers = report["layers"]
    calls = bundle.manifest["build"]["calls"]
    assert [layer["kernel"] for layer in layers] == [call["kernel"] for call in calls]
    counted = {layer["name"] for layer in layers if layer["macs"]}
    assert counted >= set(bundle.layers)
    assert sum(layer["macs"] for layer in layers) > 0
    for other in (report["runtime"], report["compare"]):
        ratio = other["total"]["median_us"] / report["total"]["median_us"]
        assert other["total"]["ratio"] == pytest.approx(ratio)
    print_bench(report, console())
    assert "our runtime, the same network: " in capsys.readouterr().out
    assert "`isa=scalar`" in one_line(bench_bundle, bundle, runs=1, isa="scalar")


def test_what_the_runtime_cannot_run_is_said_in_words(compiled_bundle, copy, capsys, monkeypatch):
    def refuse(*_):
        raise BindeployError("no plan for `odd`")

    monkeypatch.setattr("bindeploy.emit.plan_source._from_model", refuse)
    report = bench_bundle(Bundle.open(compiled_bundle), runs=1)
    assert report["runtime"] == {"reason": "no plan for `odd`"}
    print_bench(report, console())
    assert "our runtime does not run it: no plan for `odd`" in capsys.readouterr().out
    report = verify(Bundle.open(copy))
    assert report["ok"]
    assert report["skipped"] == [{"name": "runtime", "reason": "no plan for `odd`"}]


def test_layers_of_bits_by_the_c_runtime_are_proved_alike(digits_run, tmp_path):
    bundle = from_source(digits_run, "host", tmp_path / "b", format="tvm", tvm_kernels="runtime")
    assert bundle.manifest["build"]["kernels"] == "runtime"
    assert row(verify(bundle, "tvm"), "tvm")["integers_equal"]


HEAD = '<ir_version: 10, opset_import: ["" : 20, "bindeploy" : 1]>'


@pytest.mark.parametrize(
    ("body", "outputs", "words"),
    [
        ("[odd] y = Det (x)", "float y", "TVM has no `Det` (node `odd`)"),
        ("a = Relu (x) b = Neg (x)", "float a, float b", "the model has outputs `a`, `b`"),
    ],
)
def test_what_tvm_cannot_take_is_refused_before_anything_is_compiled(body, outputs, words):
    text = f"{HEAD} g (float[N,2,4,4] x) => ({outputs}) {{ {body} }}"
    model = ir.from_proto(parser.parse_model(text))
    assert words in one_line(compiler.check, model, load("host"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "tvm", "--tvm-kernels", "fast"), "unknown --tvm-kernels `fast`: choose from"),
        (("--tvm-kernels", "own"), "`--tvm-kernels own` goes with --format tvm"),
    ],
)
def test_misuse_writes_nothing(options, words, compiled_bundle, tmp_path, command):
    source = compiled_bundle / "model.onnx"
    result = command("export", source, "--target", "host", *options, "--out", tmp_path / "out")
    assert result.exit_code == 2 and words in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_without_tvm_a_line_says_what_brings_it(compiled_bundle, tmp_path, command, monkeypatch):
    for name in [*sys.modules]:
        if name.startswith("bindeploy.emit.tvm."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("bindeploy.emit.tvm.compiler")
    monkeypatch.setitem(sys.modules, "tvm", None)
    wanted = "`tvm` is not installed: pip install 'bindeploy[tvm]'"
    out = ("--target", "host", "--format", "tvm", "--out", tmp_path / "out")
    assert wanted in command("export", compiled_bundle / "model.onnx", *out).stderr
    assert command("bench", compiled_bundle).stderr == f"bindeploy: {wanted}\n"
    assert pipeline.load(compiled_bundle / "model.onnx").graph.name  # the rest works
