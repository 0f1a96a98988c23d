"""The commands `convert` and `export` with layers in int8."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "foreign_network.py"

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of hand-written layers, `network.onnx`, and inputs for it, `images.npy`."""
    folder = tmp_path_factory.mktemp("foreign")
    runpy.run_path(str(EXAMPLE))["main"](str(folder / "network.onnx"))
    images = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    np.save(folder / "images.npy", images)
    return folder


def operators(result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    return {layer["name"]: layer["op"] for layer in json.loads(result.stdout)["layers"]}


def test_the_layers_that_stay_numbers_become_int8(network, tmp_path, command):
    source, images = network / "network.onnx", network / "images.npy"
    edges = ("--edges", "int8", "--calibrate", images)
    found = operators(command("convert", source, tmp_path / "out.onnx", *edges, "--json"))
    assert found["stem"] == "Int8Conv2dThreshold"
    assert found["classify"] == "Int8Linear"
    said = command("convert", source, tmp_path / "again.onnx", *edges, "--explain").stdout
    assert "int8 by calibration" in said


def test_a_run_calibrates_on_its_own_images_and_every_engine_agrees(digits_run, tmp_path, command):
    bundle = tmp_path / "bundle"
    made = command("export", digits_run, "--target", "host", "--edges", "int8", "--out", bundle)
    assert made.exit_code == 0, made.output
    report = json.loads(command("verify", bundle, "--json").stdout)
    assert report["ok"] and len(report["engines"]) >= 4
    assert all(engine["max_logit_difference"] == 0 for engine in report["engines"])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--edges", "int4", "--calibrate", "{images}"), "int8"),
        (("--edges", "int8"), "--calibrate"),
        (("--calibrate", "{images}"), "--edges"),
        (("--edges", "int8", "--calibrate", "{network}"), ".npy"),
        (("--weight-only", "q4"), "matmulnbits"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_no_file(
    arguments, word, network, tmp_path, command
):
    places = {"images": network / "images.npy", "network": network / "network.onnx"}
    given = [argument.format(**places) for argument in arguments]
    result = command("convert", places["network"], tmp_path / "out.onnx", *given)
    assert result.exit_code == 2 and result.stdout == ""
    assert word in result.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())


def test_a_foreign_network_has_no_images_to_calibrate_on(network, tmp_path, command):
    result = command(
        *("export", network / "network.onnx", "--target", "host", "--edges", "int8"),
        *("--out", tmp_path / "bundle"),
    )
    assert result.exit_code == 2
    assert "give --calibrate" in result.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())
