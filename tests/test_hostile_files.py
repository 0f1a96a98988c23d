"""Files that are damaged, swapped or made to harm: one line says so, and nothing is written."""

import gzip
import json
import os
import shutil
import struct

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from bindeploy import Session
from bindeploy.errors import BindeployError
from bindeploy.files import LARGEST_JSON, json_text, whole_file
from bindeploy.train import idx
from bindeploy.train import run as runs


def edited(name: str, *keys: str, to: object):
    """Change one entry of a JSON file of a folder."""

    def damage(folder):
        content = json.loads((folder / name).read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        (folder / name).write_text(json.dumps(content))

    return damage


def written(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def images(tensor: torch.Tensor):
    return lambda folder: save_file({"images": tensor}, folder / "candidates.safetensors")


def not_finite(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["fc.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def pipe(name: str):
    def damage(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def run_json(*keys: str, to: object):
    return edited("run.json", *keys, to=to)


RUNS = {
    "nested": (written("run.json", b"[" * 200_000), "nested too deeply"),
    "huge": (written("run.json", b" " * (LARGEST_JSON + 1)), "larger than"),
    "not a number": (written("run.json", b'{"arguments": NaN, "dataset": {}}'), "NaN"),
    "arguments": (run_json("arguments", to=[]), "run.json"),
    "model": (run_json("arguments", "model", to=3), "not a text"),
    "shape": (run_json("dataset", "input_shape", to=[1, 2**40, 2**40]), "input_shape"),
    "classes": (run_json("dataset", "classes", to=["x"] * 20_000), "20000 classes"),
    "other classes": (run_json("dataset", "classes", to=["x"] * 9), "fc.weight"),
    "normalization": (run_json("dataset", "normalization", to=None), "run.json"),
    "deviation": (run_json("dataset", "normalization", "std", to=[0]), "above 0"),
    "weights": (not_finite, "`fc.bias` holds numbers that are not finite"),
    "no images": (images(torch.zeros(0, 1, 8, 8, dtype=torch.uint8)), "0 images"),
    "float images": (images(torch.zeros(2, 1, 8, 8)), "torch.float32"),
    "other images": (images(torch.zeros(2, 1, 9, 9, dtype=torch.uint8)), "[2, 1, 9, 9]"),
}


@pytest.mark.parametrize(("damage", "word"), RUNS.values(), ids=RUNS)
def test_a_hostile_run_is_refused_in_one_line(damage, word, digits_run, tmp_path, command):
    run = shutil.copytree(digits_run, tmp_path / "run")
    damage(run)
    result = command("export", run, "--target", "host", "--format", "onnx", "--out", tmp_path / "o")
    assert result.exit_code == 2, result.output
    assert word in result.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


BUNDLES = {
    "nested": (written("manifest.json", b"[" * 200_000), "nested too deeply"),
    "pipe": (pipe("manifest.json"), "no file"),
    "endless": (edited("manifest.json", "golden", "skipped", to=1e400), "manifest.json"),
    "name": (edited("manifest.json", "layers", to=[{"name": 3, "shape": [1]}]), "no text"),
    "size": (edited("manifest.json", "output_shape", to=[2**40]), "too large"),
    "command": (edited("manifest.json", "target", "run", to="qemu-../../bin/sh"), "emulator"),
    "quotes": (edited("manifest.json", "target", "run", to="qemu-arm '"), "emulator"),
    "a number": (lambda b: np.save(b / "golden/input.npy", np.float32(1)), "input.npy"),
    "bomb": (lambda b: np.savez(b / "golden/integers.npz", x=np.zeros(10**7)), "80000"),
}


@pytest.mark.parametrize(("damage", "word"), BUNDLES.values(), ids=BUNDLES)
def test_a_hostile_bundle_is_refused_in_one_line(damage, word, digits_bundle, tmp_path, command):
    bundle = shutil.copytree(digits_bundle, tmp_path / "bundle")
    damage(bundle)
    result = command("verify", bundle, "--json")
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and word in result.stderr


def model(*, opset: int = 20, size: int = 8, name: str = "conv", **changes: object):
    """One latent convolution, with other attributes where they are given."""
    attributes = dict(strides=[1, 1], pads=[1] * 4, dilations=[1, 1], group=1, pad_value=1.0)
    node = helper.make_node(
        *("BinaryConv2d", ["x", "w", "s", "b"], ["y"], name),
        domain="bindeploy.latent",
        **attributes | changes,
    )
    generator = np.random.default_rng(0)
    constants = {
        "w": generator.standard_normal((8, 4, 3, 3)),
        "s": np.ones(8),
        "b": np.zeros(8),
    }
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, size, size]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, "H", "W"]),
    ]
    initializers = [
        onnx.numpy_helper.from_array(array.astype(np.float32), key)
        for key, array in constants.items()
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("bindeploy.latent", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def with_hidden_file() -> onnx.ModelProto:
    """A constant inside a node that lies in another file."""
    proto = model()
    tensor = TensorProto(name="k", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    proto.graph.node.append(helper.make_node("Constant", [], ["k"], "k", value=tensor))
    return proto


MODELS = {
    "hidden file": (with_hidden_file(), "in another file"),
    "image": (model(size=2**40), "numbers (1 GiB)"),
    "pads": (model(pads=[2**40] * 4), "numbers (1 GiB)"),
    "no stride": (model(strides=[0, 0]), "strides"),
    "name": (model(name="a\nb\x1b[31m"), "printable"),
}


@pytest.mark.parametrize(("proto", "word"), MODELS.values(), ids=MODELS)
def test_a_hostile_model_is_refused_alike_by_every_door(proto, word, tmp_path, command, capfd):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    for arguments in (("convert", path, tmp_path / "c.onnx"), ("export", path, *FOR_HOST)):
        result = command(*(str(part).format(tmp_path) for part in arguments))
        assert result.exit_code == 2 and word in result.stderr.splitlines()[-1], result.output
    with pytest.raises(BindeployError) as caught:
        Session(path)
    assert word in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]
    assert "Traceback" not in capfd.readouterr().err


FOR_HOST = ("--target", "host", "--format", "onnx", "--out", "{}/bundle")


@pytest.mark.parametrize("opset", [13, 17, 27])
def test_a_model_of_another_opset_is_exported_and_verified(opset, tmp_path, command):
    path = tmp_path / "m.onnx"
    path.write_bytes(model(opset=opset, name="file").SerializeToString())
    out = tmp_path / "bundle"
    result = command("export", path, *FOR_HOST[:-1], out)
    assert result.exit_code == 0, result.output
    assert command("verify", out).exit_code == 0


def test_a_gzip_bomb_is_unpacked_no_further_than_it_claims(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 1, 2, 2) + bytes(10**6)))
    with pytest.raises(BindeployError, match="it holds more where 4 belong"):
        idx.read(path, 3)
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**31, 2**31, 1)))
    with pytest.raises(BindeployError, match="it claims"):
        idx.read(path, 3)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file/below", "pipe", "n" * 300, "a\0b", "."):
        with pytest.raises(BindeployError) as caught, whole_file(tmp_path / name) as path:
            path.write_text("ours")
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_json_holds_null_for_what_is_not_finite():
    assert json_text({"a": [float("nan"), 1.5], "b": (float("inf"),)}) == (
        '{"a": [null, 1.5], "b": [null]}'
    )


def test_an_error_is_one_line_whatever_it_quotes():
    assert str(BindeployError("`a\nb\x1b[31m`: " + "x" * 5000)).startswith("`a b [31m`")
    assert len(str(BindeployError("x" * 5000))) < 1010


def test_converting_a_file_onto_itself_keeps_the_latent_weights(tmp_path, command):
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    before = path.read_bytes()
    result = command("convert", path, tmp_path / "." / "m.onnx")
    assert result.exit_code == 2 and "source itself" in result.stderr
    assert path.read_bytes() == before


def test_a_run_that_is_being_written_is_left_alone(digits_run, tmp_path, command):
    run = shutil.copytree(digits_run, tmp_path / "run")
    with runs.alone(run):
        result = command(
            *("train", "--data", "digits", "--model", "tiny", "--method", "bnn++", "--mode", "bwa"),
            *("--epochs", 3, "--no-float-twin", "--out", run, "--resume"),
        )
    assert result.exit_code == 2 and "another training" in result.stderr
