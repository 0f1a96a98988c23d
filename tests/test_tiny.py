"""The whole road in seconds: train, export, verify, bench, inspect, and use it from Python."""

import json

import numpy as np
import onnx

from bindeploy import Bundle, Session


def test_the_road_trains_a_network_that_reads_digits(digits_run):
    record = json.loads((digits_run / "run.json").read_text())
    assert record["hard_accuracy"] > 0.8


def test_every_engine_gives_the_same_integers_logits_and_classes(digits_bundle, command):
    result = command("verify", digits_bundle, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    names = [engine["name"] for engine in report["engines"]]
    assert report["ok"]
    assert len(names) >= 4 and names[0].startswith("torch")
    for engine in report["engines"]:
        assert engine["integers_equal"] and engine["classes_equal"]
        assert engine["max_logit_difference"] <= 1e-4


def test_the_bench_accounts_for_every_layer_and_multiply_accumulate(digits_bundle, command):
    result = command("bench", digits_bundle, "--runs", 3, "--compare", "onnxruntime", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    counted = json.loads(command("inspect", digits_bundle, "--json").stdout)["total"]
    timed = sum(layer["macs"] for layer in report["layers"])
    assert timed == counted["binary_macs"] + counted["float_macs"]
    assert report["total"]["median_us"] > 0
    assert report["compare"]["total"]["ratio"] > 0
    assert {"processor", "threads", "bindeploy", "onnxruntime"} <= set(report["machine"])


def test_a_session_classifies_a_batch_like_the_golden_vectors(digits_bundle):
    golden = Bundle.open(digits_bundle).golden
    with Session(digits_bundle) as session:
        (name,) = (value.name for value in session.get_inputs())
        (logits,) = session.run(None, {name: golden.inputs})
    assert np.array_equal(logits.argmax(1), golden.logits.argmax(1))
    assert len(golden.inputs) > 1


def test_the_file_says_where_it_comes_from(digits_run, digits_bundle):
    record = json.loads((digits_run / "run.json").read_text())
    said = {
        prop.key: prop.value for prop in onnx.load(Bundle.open(digits_bundle).model).metadata_props
    }
    assert said["bindeploy.method"] == record["arguments"]["method"]
    assert said["bindeploy.mode"] == record["arguments"]["mode"]
    assert float(said["bindeploy.accuracy"]) == record["hard_accuracy"]
    assert said.get("bindeploy.commit") == record["commit"]
