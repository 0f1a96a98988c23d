"""A plan that is not right is refused in one line; no bytes whatever crash the loader."""

from __future__ import annotations

import ctypes
import json
import math
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from every_op import every_op_plan
from loaded_model import LoadFailure, Model
from plan_builder import BITS, HEADER_BYTES, NODE_BYTES, TENSOR_BYTES, Plan, repaired

from bindeploy import bits

Open = Callable[..., Model]
PLAN = every_op_plan()
TENSORS, NODES = struct.unpack_from("<2I", PLAN, 32)
TABLES_BYTES = HEADER_BYTES + TENSORS * TENSOR_BYTES + NODES * NODE_BYTES


def with_bytes(offset: int, replacement: bytes) -> bytes:
    return PLAN[:offset] + replacement + PLAN[offset + len(replacement) :]


def refusal(open_plan: Open, plan: bytes) -> str:
    with pytest.raises(LoadFailure) as caught:
        open_plan(plan)
    line = str(caught.value)
    assert line
    assert line.isprintable()
    return line


def replay(program: Path, plans: Iterator[bytes], folder: Path) -> int:
    """Loads and runs every plan under sanitizers; the number of plans."""
    names = []
    for index, plan in enumerate(plans):
        names.append(f"{index}.bd")
        (folder / names[-1]).write_bytes(plan)
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=0"}
    result = subprocess.run(
        [program, *names], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == f"{len(names)} plans\n"
    return len(names)


def test_every_truncation_is_refused(
    open_plan: Open, sanitized_replay: Path, tmp_path: Path
) -> None:
    lengths = range(0, len(PLAN), 64)
    for length in lengths:
        refusal(open_plan, PLAN[:length])
    folder = tmp_path / "plans"
    folder.mkdir()
    assert replay(sanitized_replay, (PLAN[:length] for length in lengths), folder) > 50


def test_extreme_values_in_every_field_do_no_harm(sanitized_replay: Path, tmp_path: Path) -> None:
    """Each 32-bit word of header and tables; the replay makes size and checksum right again."""

    def mutants() -> Iterator[bytes]:
        for offset in range(0, TABLES_BYTES, 4):
            (value,) = struct.unpack_from("<I", PLAN, offset)
            for extreme in {0, value ^ 1, value + 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF}:
                if extreme != value:
                    yield with_bytes(offset, struct.pack("<I", extreme & 0xFFFFFFFF))

    assert replay(sanitized_replay, mutants(), tmp_path) > 3000


def test_flipped_bits_do_no_harm(sanitized_replay: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def mutants() -> Iterator[bytes]:
        for _ in range(600):
            mutant = np.frombuffer(PLAN, np.uint8).copy()
            limit = TABLES_BYTES if random.random() < 0.7 else len(mutant)
            where = random.integers(HEADER_BYTES, limit, random.integers(1, 5))
            mutant[where] ^= np.uint8(1) << random.integers(0, 8, len(where), np.uint8)
            yield mutant.tobytes()

    assert replay(sanitized_replay, mutants(), tmp_path) == 600


def test_the_unchanged_plan_loads(open_plan: Open) -> None:
    assert repaired(PLAN) == PLAN
    output = open_plan(PLAN).run(np.zeros((1, 3, 6, 6), np.float32))
    assert output.shape == (1, 5, 1, 1)
    assert np.isfinite(output).all()


HEADER_CASES = {
    "magic": (0, b"ELF", "not a plan"),
    "version": (8, struct.pack("<I", 1), "version 1, and this library reads version 2: emit"),
    "checksum": (12, b"\0\0\0\0", "checksum"),
    "file_bytes": (16, struct.pack("<Q", len(PLAN) + 64), f"{len(PLAN) + 64} bytes"),
    "arena_bytes": (24, struct.pack("<Q", 2**60), "arena"),
    "tensor_count": (32, struct.pack("<I", 2**31), "tensors"),
    "node_count": (36, struct.pack("<I", 0), "0 nodes"),
    "input": (40, struct.pack("<I", 10**6), "input"),
    "output": (44, struct.pack("<I", 10**6), "output"),
    "names_bytes": (48, struct.pack("<I", 2**31), "tables"),
    "input_rank": (52, struct.pack("<I", 5), "ends of 5 and 0 axes"),
    "output_rank": (56, struct.pack("<I", 2**31), "axes"),
    "one byte of a constant": (len(PLAN) - 64, bytes([PLAN[-64] ^ 1]), "checksum"),
}


@pytest.mark.parametrize(("offset", "value", "part"), HEADER_CASES.values(), ids=HEADER_CASES)
def test_header_fields_are_checked(open_plan: Open, offset: int, value: bytes, part: str) -> None:
    assert part in refusal(open_plan, with_bytes(offset, value))


TENSOR_CASES = {
    "type": (0, struct.pack("<I", 6), "type 6"),
    "place": (4, struct.pack("<I", 2), "place 2"),
    "shape": (8, struct.pack("<I", 0), "shape [0,"),
    "offset": (24, struct.pack("<Q", 32), "multiple of 64"),
    "offset outside": (24, struct.pack("<Q", 2**64 - 64), "outside the arena"),
    "bytes": (32, struct.pack("<Q", 4), "its shape needs 432"),
    "name": (40, struct.pack("<I", 2**31), "name"),
}


@pytest.mark.parametrize(("offset", "value", "part"), TENSOR_CASES.values(), ids=TENSOR_CASES)
def test_tensor_fields_are_checked(open_plan: Open, offset: int, value: bytes, part: str) -> None:
    line = refusal(open_plan, repaired(with_bytes(HEADER_BYTES + offset, value)))
    assert part in line
    assert "`input`" in line or part == "name"


def packed_conv(
    channels: int = 32,
    weight_channels: int = 32,
    filters: int = 8,
    out: tuple[int, int, int] = (6, 6, 8),
    directions: tuple[int, ...] | None = None,
    scales: int = 0,
    biases: int = 0,
    **settings: object,
) -> Plan:
    """input -> to_nhwc -> binarize -> `conv1` (a threshold where directions are given)."""
    plan = Plan()
    plan.input = plan.activation("input", (1, channels, 6, 6))
    floats = plan.activation("floats", (1, 6, 6, channels))
    signs = plan.activation("signs", (1, 6, 6, channels), BITS)
    threshold = directions is not None
    y = plan.activation("y", (1, *out), **({"type": BITS} if threshold else {}))
    plan.node("to_nhwc", (plan.input,), floats)
    plan.node("binarize", (floats,), signs)
    weights = plan.constant("weights", bits.pack(np.ones((filters, 3, 3, weight_channels))))
    if directions is not None:
        first = plan.constant("threshold", np.zeros(filters, np.int32))
        second = plan.constant("direction", np.array(directions, np.int8))
    else:
        first = plan.constant("scale", np.ones(scales or filters, np.float32))
        second = plan.constant("bias", np.ones(biases or filters, np.float32))
    fields: dict[str, object] = {"kernel": (3, 3), "pads": (1, 1, 1, 1), "name": "conv1"}
    op = "binary_conv_threshold" if threshold else "binary_conv"
    plan.node(op, (signs, weights, first, second), y, **(fields | settings))
    if threshold:
        y = plan.node("unpack", (y,), plan.activation("z", (1, *out)))
    plan.output = plan.activation("output", (1, out[2], *out[:2]))
    plan.node("to_nchw", (y,), plan.output)
    return plan


NODE_CASES = {
    "opcode": ({"opcode": 99}, "opcode 99"),
    "channels": ({"weight_channels": 64}, "rows of 8, and 32 input channels need 4"),
    "filters": ({"filters": 16}, "16 filters, its output 8 channels"),
    "kernel": ({"kernel": (3, 2)}, "weights are 3x3, its kernel 3x2"),
    "no kernel": ({"kernel": (0, 3)}, "weights are 3x3, its kernel 0x3"),
    "stride": ({"strides": (1, 0)}, "stride is 0"),
    "dilation": ({"dilations": (-1, 1)}, "dilation is -1"),
    "pad": ({"pads": (1, 5000, 1, 1)}, "pad is 5000: 0 to 4096"),
    "negative pad": ({"pads": (1, 1, -1, 1)}, "pad is -1"),
    "output height": ({"out": (5, 6, 8)}, "height 5, its window makes 6"),
    "window": ({"dilations": (9, 9)}, "larger than its padded input"),
    "group of channels": (
        {"group": 8, "channels": 36, "weight_channels": 36},
        "does not divide 36 channels and 8 filters",
    ),
    "group of filters": ({"group": 16}, "group is 16, which does not divide 32 channels and 8"),
    "no group": ({"group": 0}, "group is 0, which does not divide"),
    "channels of a group": (
        {"group": 4, "channels": 256},
        "rows of 4, and 64 input channels need 8",
    ),
    "pad_value": ({"pad_value": 2}, "pad_value is 2"),
    "clamp": ({"minimum": 1.0, "maximum": 0.0}, "clamps to [1, 0]"),
    "clamp of NaN": ({"minimum": math.nan}, "clamps to"),
    "direction": ({"directions": (1, 1, 1, 0, 1, 1, 1, 1)}, "direction 3 is 0"),
    "directions": ({"directions": (1,) * 9}, "[9,1,1,1], and [8,1,1,1]"),
    "scales": ({"scales": 7}, "`scale` has shape [7,1,1,1], and [8,1,1,1] is needed"),
    "biases of two maps": ({"scales": 16}, "`bias` has shape [8,1,1,1], and [16,1,1,1] is needed"),
    "scales of two maps": ({"biases": 16}, "`bias` has shape [16,1,1,1], and [8,1,1,1] is needed"),
}


def test_the_plan_of_the_node_cases_loads(open_plan: Open) -> None:
    open_plan(packed_conv().to_bytes())
    open_plan(packed_conv(directions=(1, -1) * 4).to_bytes())
    open_plan(packed_conv(scales=16, biases=16).to_bytes())


@pytest.mark.parametrize(("changes", "part"), NODE_CASES.values(), ids=NODE_CASES)
def test_a_wrong_node_is_named(open_plan: Open, changes: dict, part: str) -> None:
    line = refusal(open_plan, packed_conv(**changes).to_bytes())
    assert line.startswith("node `conv1`: ")
    assert part in line


def test_a_bit_beyond_the_channels_is_refused(open_plan: Open) -> None:
    plan = packed_conv(channels=31, weight_channels=31)
    weights = next(t for t in plan.tensors if t.name == "weights")
    assert weights.data is not None
    open_plan(plan.to_bytes())
    weights.data = weights.data[:-1] + b"\x80"
    assert "beyond channel 31" in refusal(open_plan, plan.to_bytes())


BOUNDS = {
    "one alone": ([0.0, 1.0], None, "it has one bound: two or none are possible"),
    "too few": ([0.0], [1.0, 2.0], "[1,1,1,1], and [2,1,1,1] is needed"),
    "no number": ([0.0, 1.0], [1.0, math.nan], "bound `highest` of channel 1 is no number"),
}


@pytest.mark.parametrize(("lowest", "highest", "part"), BOUNDS.values(), ids=BOUNDS)
def test_bounds_of_a_sign_that_are_none_are_refused(
    open_plan: Open, lowest: list[float], highest: list[float] | None, part: str
) -> None:
    plan = Plan()
    plan.input = plan.activation("input", (1, 1, 3, 2))
    above = None if highest is None else plan.constant("highest", np.float32(highest))
    inputs = (plan.input, plan.constant("lowest", np.float32(lowest)), above)
    signs = plan.node("binarize", inputs, plan.activation("signs", (1, 1, 3, 2), BITS))
    plan.output = plan.node("unpack", (signs,), plan.activation("output", (1, 1, 3, 2)))
    assert part in refusal(open_plan, plan.to_bytes())


SCALES = {
    "zero": ([0.0], "scale is 0"),
    "negative zero": ([-0.0], "scale is -0"),
    "negative": ([-0.5], "scale is -0.5"),
    "NaN": ([math.nan], "scale is "),
    "infinite": ([math.inf], "scale is inf"),
    "one a channel": ([1.0, 1.0, 1.0], "[3,1,1,1], and [1,1,1,1] is needed"),
}


def quantizing(scale: list[float], out: tuple[int, int, int] = (6, 5, 3)) -> Plan:
    """input [1, 3, 6, 5] -> to_nhwc -> `conv1/quantize`."""
    plan = Plan()
    plan.input = plan.activation("input", (1, 3, 6, 5))
    floats = plan.activation("floats", (1, 6, 5, 3))
    plan.node("to_nhwc", (plan.input,), floats)
    constant = plan.constant("scale", np.array(scale, np.float32))
    y = plan.activation("y", (1, *out))
    plan.node("quantize_int8", (floats, constant), y, name="conv1/quantize")
    plan.output = plan.activation("output", (1, out[2], *out[:2]))
    plan.node("to_nchw", (y,), plan.output)
    return plan


@pytest.mark.parametrize(("scale", "part"), SCALES.values(), ids=SCALES)
def test_a_scale_that_quantizes_nothing_is_refused(
    open_plan: Open, scale: list[float], part: str
) -> None:
    open_plan(quantizing([0.5]).to_bytes())
    line = refusal(open_plan, quantizing(scale).to_bytes())
    assert line.startswith("node `conv1/quantize`: ")
    assert part in line


def test_a_quantizer_of_another_shape_or_a_computed_scale_is_refused(open_plan: Open) -> None:
    for out in ((6, 5, 4), (5, 6, 3)):
        line = refusal(open_plan, quantizing([0.5], out).to_bytes())
        assert line.startswith("node `conv1/quantize`: input `floats` is [1,6,5,3], its output")
    plan = quantizing([0.5])
    plan.nodes[1].inputs = (1, 1)
    assert "input `floats` is no constant" in refusal(open_plan, plan.to_bytes())


CONV1 = 2
"""The node `conv1` of `packed_conv`; its inputs are tensors 2, 4, 5, 6 and its output 3."""

WIRING_CASES = {
    "missing": ((2, 4, 5), 3, "input 3 of binary_conv is missing"),
    "residual": ((2, 4, 5, 6, 6), 3, "input `bias` is [8,1,1,1], its output [1,6,6,8]"),
    "type of the residual": ((2, 4, 5, 6, 2), 3, "`signs` is bits, and binary_conv needs f32"),
    "type": ((1, 4, 5, 6), 3, "input `floats` is f32, and binary_conv needs bits"),
    "no constant": ((2, 4, 5, 1), 3, "input `floats` is no constant"),
    "output type": ((2, 4, 5, 6), 2, "output `signs` is bits"),
    "output constant": ((2, 4, 5, 6), 5, "output `scale` is a constant"),
    "written twice": ((2, 4, 5, 6), 1, "output `floats` is written twice"),
}


@pytest.mark.parametrize(("inputs", "output", "part"), WIRING_CASES.values(), ids=WIRING_CASES)
def test_wrong_wiring_is_named(
    open_plan: Open, inputs: tuple[int, ...], output: int, part: str
) -> None:
    plan = packed_conv()
    plan.nodes[CONV1].inputs, plan.nodes[CONV1].output = inputs, output
    line = refusal(open_plan, plan.to_bytes())
    assert line.startswith("node `conv1`: ")
    assert part in line


def test_an_input_too_many_is_refused(open_plan: Open) -> None:
    plan = packed_conv()
    plan.nodes[0].inputs = (0, 0)
    line = refusal(open_plan, plan.to_bytes())
    assert line == "node `to_nhwc0`: input 1 is one too many for to_nhwc"


def test_reading_before_writing_is_refused(open_plan: Open) -> None:
    plan = packed_conv()
    plan.nodes[1], plan.nodes[2] = plan.nodes[2], plan.nodes[1]
    assert "`signs` is read before it is written" in refusal(open_plan, plan.to_bytes())


def test_overlapping_activations_are_refused(open_plan: Open) -> None:
    """The output on its input, and on a tensor that a later node still reads."""
    plan = packed_conv()
    plan.tensors[2].offset = plan.tensors[1].offset
    line = refusal(open_plan, plan.to_bytes())
    assert "node `binarize1`: output `signs` overlaps `floats`" in line
    plan = packed_conv()
    plan.tensors[3].offset = plan.tensors[1].offset
    open_plan(plan.to_bytes())
    plan.node("clip", (1,), plan.activation("late", (1, 6, 6, 32)))
    line = refusal(open_plan, plan.to_bytes())
    assert "node `conv1`: output `y` overlaps `floats`" in line


def test_the_output_is_kept_to_the_end(open_plan: Open) -> None:
    plan = packed_conv()
    late = plan.activation("late", (1, 6, 6, 8))
    plan.tensors[late].offset = plan.tensors[plan.output].offset
    plan.node("clip", (3,), late)
    assert "`late` overlaps `output`" in refusal(open_plan, plan.to_bytes())


def test_an_unwritten_output_is_refused(open_plan: Open) -> None:
    plan = packed_conv()
    plan.nodes.pop()
    assert "`output` is written by no node" in refusal(open_plan, plan.to_bytes())


def test_control_characters_in_names_are_refused(open_plan: Open) -> None:
    assert "control character" in refusal(open_plan, packed_conv(name="a\nb").to_bytes())


def test_long_names_leave_one_bounded_line(open_plan: Open) -> None:
    line = refusal(open_plan, packed_conv(name="n" * 9000, group=3).to_bytes())
    assert "group is 3" in line
    assert len(line) < 256


def test_an_unknown_isa_lists_the_known(open_plan: Open) -> None:
    with pytest.raises(LoadFailure, match="`sse9` is unknown or missing here: choose from scalar"):
        open_plan(PLAN, "sse9")


def test_files_that_are_none(open_plan: Open, library: ctypes.CDLL, tmp_path: Path) -> None:
    with pytest.raises(LoadFailure, match="No such file"):
        Model(library, tmp_path / "absent.bd", None)
    with pytest.raises(LoadFailure, match="no file, or empty"):
        Model(library, tmp_path, None)
    assert "empty" in refusal(open_plan, b"")


def bench(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in (program, *arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.bd"
    path.write_bytes(PLAN)
    return path


def test_bench_writes_what_the_library_computes(
    sanitized_bench: Path, open_plan: Open, plan_path: Path
) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 6, 6), np.float32)
    folder = plan_path.parent
    (folder / "images").write_bytes(images.tobytes())
    files = ("--input", "images", "--output", "logits", "--integers", "integers")
    paths = [folder / word if index % 2 else word for index, word in enumerate(files)]
    result = bench(sanitized_bench, plan_path, *paths, "--isa", "scalar")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    model = open_plan(PLAN, "scalar")
    logits = np.fromfile(folder / "logits", np.float32).reshape(2, 5, 1, 1)
    np.testing.assert_array_equal(logits, np.concatenate([model.run(image) for image in images]))
    layers = (b"binary_conv", b"saturating_conv")
    binary = [i for i in range(NODES) if model.node(i).op.startswith(layers)]
    expected = [model.integers(image, node).ravel() for image in images for node in binary]
    integers = np.fromfile(folder / "integers", np.int32)
    np.testing.assert_array_equal(integers, np.concatenate(expected))


def test_bench_reports_times_and_memory(sanitized_bench: Path, plan_path: Path) -> None:
    result = bench(sanitized_bench, plan_path, "--runs", 5, "--warmup", 1, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["version"] == "0.1.0"
    total = report["total"]
    assert 0 < total["p10_us"] <= total["median_us"] <= total["p90_us"]
    assert [layer["op"] for layer in report["layers"]].count("add") == 3
    assert len(report["layers"]) == NODES
    keys = {"name", "op", "kernel", "macs", "median_us"}
    assert all(set(layer) == keys for layer in report["layers"])
    each, dense = (layer for layer in report["layers"] if layer["op"] == "conv")
    assert (each["macs"], dense["macs"]) == (9 * 9 * 33, 5 * 33)
    assert each["kernel"].startswith("bd_fdepthwise_f32_")
    assert report["memory"]["plan_bytes"] == len(PLAN)
    untimed = json.loads(bench(sanitized_bench, plan_path, "--json").stdout)
    assert "total" not in untimed
    assert all("median_us" not in layer for layer in untimed["layers"])


BENCH_MISTAKES = {
    "no plan": ((), "no plan"),
    "two plans": (("a", "b"), "one plan too many"),
    "nothing to do": (("PLAN",), "nothing to do"),
    "unknown option": (("PLAN", "--fast", "1"), "unknown option `--fast`"),
    "no value": (("PLAN", "--runs"), "needs a value"),
    "no count": (("PLAN", "--runs", "-1"), "`-1` is no count"),
    "output alone": (("PLAN", "--output", "x"), "need --input"),
    "half an image": (("PLAN", "--input", "PLAN"), "whole images of 432 bytes"),
    "no such input": (("PLAN", "--input", "/absent"), "cannot open `/absent`"),
    "no such isa": (("PLAN", "--json", "--isa", "mmx"), "choose from scalar"),
    "no such plan": (("/absent.bd", "--json"), "cannot read plan `/absent.bd`"),
}


@pytest.mark.parametrize(("arguments", "part"), BENCH_MISTAKES.values(), ids=BENCH_MISTAKES)
def test_bench_refuses_in_one_line(
    sanitized_bench: Path, plan_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    words = [plan_path if word == "PLAN" else word for word in arguments]
    result = bench(sanitized_bench, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr
