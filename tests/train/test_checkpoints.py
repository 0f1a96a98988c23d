"""Starting from published checkpoints, and refusing those that do not fit or mean harm."""

from __future__ import annotations

import argparse
import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bindeploy.errors import BindeployError
from bindeploy.train import run as runs
from bindeploy.train.binarization import binarize
from bindeploy.train.checkpoints import initialize
from bindeploy.train.layers import binary_layers


class Network(nn.Module):
    """Convolution, BatchNorm, convolution, BatchNorm, classifier; perhaps a patch position."""

    def __init__(self, classes: int = 10, tokens: int | None = None) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn0 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)
        if tokens is not None:
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, 6))


COUNTERS = ("bn0.num_batches_tracked", "bn1.num_batches_tracked")
TENSORS = 12
"""Of the network, without counters."""


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def published(**options: Any) -> dict[str, Tensor]:
    """A full-precision state dict whose numbers are no initialization's."""
    model = Network(**options)
    return {
        name: tensor if name in COUNTERS else torch.randn_like(tensor).abs()
        for name, tensor in model.state_dict().items()
    }


def binary(**options: Any) -> nn.Module:
    return binarize(Network(**options), "bnn++", "bwa")


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_holds(network: nn.Module, expected: Mapping[str, Tensor]) -> None:
    found = network.state_dict()
    for name, tensor in expected.items():
        if name not in COUNTERS:
            assert torch.equal(found[name], tensor), name


def refusal(network: nn.Module, path: Path, **options: Any) -> str:
    """The message with which `path` is refused; one line, and the network is as it was."""
    before = copy_of(network)
    with pytest.raises(BindeployError) as caught:
        initialize(network, path, **options)
    assert_holds(network, before)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


FORMATS: dict[str, Callable[[dict[str, Tensor], Path], Any]] = {
    "model.safetensors": lambda state, path: save_file(state, path),
    "model.pt": lambda state, path: saved(state, path),
    "model.th": lambda state, path: saved(state, path, _use_new_zipfile_serialization=False),
    "pytorch_model.bin": lambda state, path: saved(state, path),
    "nested.pth": lambda state, path: saved({"state_dict": state, "epoch": 3, "best": 0.9}, path),
    "twice.pth": lambda state, path: saved({"model": {"net": state}}, path),
    "ema.pth": lambda state, path: saved({"ema": state, "optimizer": {"state": {}}}, path),
    "parameters.pth": lambda state, path: saved(
        {name: nn.Parameter(tensor, tensor.is_floating_point()) for name, tensor in state.items()},
        path,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_nest_is_read(name, tmp_path):
    state, network = published(), binary()
    FORMATS[name](state, tmp_path / name)
    report = initialize(network, tmp_path / name)
    assert_holds(network, state)
    assert len(report.loaded) == TENSORS
    assert report.fresh == report.ignored == report.resized == ()
    assert str(report) == f"`{tmp_path / name}` gives 12 of 12 tensors"


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "network.", "backbone.", "_orig_mod.", "module.model."]
)
def test_prefixes_of_wrappers_are_dropped(prefix, tmp_path):
    state, network = published(), binary()
    renamed = {prefix + name: tensor for name, tensor in state.items()}
    initialize(network, saved({"state_dict": renamed}, tmp_path / "a.pth"))
    assert_holds(network, state)


def test_a_prefix_that_is_the_networks_own_is_kept(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Network()

    network = Wrapped()
    state = {f"module.backbone.{name}": tensor for name, tensor in published().items()}
    initialize(network, saved(state, tmp_path / "a.pth"))
    assert_holds(network, {name.removeprefix("module."): t for name, t in state.items()})


def test_the_float_weight_becomes_the_latent_one(tmp_path):
    state, network = published(), binary()
    initialize(network, saved(state, tmp_path / "a.pth"))
    ((name, layer),) = binary_layers(network)
    assert name == "conv1"
    assert torch.equal(layer.weight.detach(), state["conv1.weight"])
    alpha = state["conv1.weight"].abs().mean((1, 2, 3))
    torch.testing.assert_close(layer.filter_scale(), alpha)


def test_batch_counters_play_no_part(tmp_path):
    state = {name: tensor for name, tensor in published().items() if name not in COUNTERS}
    report = initialize(binary(), saved(state, tmp_path / "a.pth"))
    assert len(report.loaded) == TENSORS
    network = binary()
    report = initialize(network, saved(published() | {COUNTERS[0]: torch.tensor(7)}, report.path))
    assert report.ignored == ()
    assert int(network.bn0.num_batches_tracked) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype, tmp_path):
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in published().items()
    }
    network = binary()
    initialize(network, saved(state, tmp_path / "a.pth"))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert_holds(network, {name: tensor.float() for name, tensor in state.items()})


def test_a_classifier_of_other_classes_stays_fresh(tmp_path):
    state, network = published(classes=1000), binary(classes=10)
    before = copy_of(network)
    report = initialize(network, saved(state, tmp_path / "a.pth"))
    assert report.fresh == ("fc.weight", "fc.bias")
    assert report.ignored == ("fc.weight", "fc.bias")
    assert_holds(network, {name: before[name] for name in report.fresh})
    assert_holds(network, {name: state[name] for name in report.loaded})
    assert str(report) == (
        f"`{tmp_path / 'a.pth'}` gives 10 of 12 tensors; fresh `fc.weight`, `fc.bias`;"
        " left over `fc.weight`, `fc.bias`"
    )


def test_a_last_layer_is_taken_whole_or_not_at_all(tmp_path):
    state, network = published(), binary()
    state["fc.weight"] = torch.zeros(10, 5)
    before = copy_of(network)
    report = initialize(network, saved(state, tmp_path / "a.pth"))
    assert report.fresh == ("fc.weight", "fc.bias")
    assert_holds(network, {"fc.bias": before["fc.bias"]})


def test_batchnorm_after_the_last_layer_stays_fresh_with_it(tmp_path):
    def model(classes: int) -> nn.Sequential:
        layers = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, classes), nn.BatchNorm1d(classes)
        return nn.Sequential(*layers)

    report = initialize(model(3), saved(model(10).state_dict(), tmp_path / "a.pth"))
    assert set(report.fresh) == {
        *("2.weight", "2.bias"),
        *("3.weight", "3.bias", "3.running_mean", "3.running_var"),
    }


def test_what_binarization_added_stays_fresh(tmp_path):
    network = binarize(Network(), "bc", "bwa", learned_shift=True)
    path = saved(published(), tmp_path / "a.pth")
    assert "`conv1.shift` is missing" in refusal(network, path)
    report = initialize(network, path, added={"conv1.shift", "conv1.input_maximum"})
    assert report.fresh == ("conv1.shift",)


def test_what_was_added_is_taken_where_the_file_has_it(tmp_path):
    network = binarize(Network(), "bc", "bwa", learned_shift=True)
    state = published() | {"conv1.shift": torch.full((4,), 0.25)}
    initialize(network, saved(state, tmp_path / "a.pth"), added={"conv1.shift"})
    assert_holds(network, state)


def test_leftovers_are_named_and_counted(tmp_path):
    extra = {f"head{i}.weight": torch.zeros(2) for i in range(6)}
    report = initialize(binary(), saved(published() | extra, tmp_path / "a.pth"))
    assert report.ignored == tuple(extra)
    left = "left over `head0.weight`, `head1.weight`, `head2.weight`, `head3.weight` and 2 more"
    assert str(report).endswith(left)


def test_strange_names_are_printed_as_they_are_safe(tmp_path):
    strange = {"\x1b[31m\nred": torch.zeros(2), "\ud800": torch.zeros(2)}
    report = initialize(binary(), saved(published() | strange, tmp_path / "a.pth"))
    assert str(report).endswith(r"left over `\x1b[31m\nred`, `\ud800`")
    message = refusal(binary(), saved(strange, tmp_path / "b.pth"))
    assert r"\x1b[31m" in message and "\x1b" not in message


def test_memory_format_is_kept(tmp_path):
    network = binary().to(memory_format=torch.channels_last)
    initialize(network, saved(published(), tmp_path / "a.pth"))
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def describe(run: Path) -> Path:
    run.mkdir()
    (run / runs.DESCRIPTION).write_text("{}")
    return run


def test_a_run_gives_its_full_precision_twin_else_its_latent_weights(tmp_path):
    twin, latent, run = published(), published(), describe(tmp_path / "run")
    save_file(latent, run / runs.MODEL)
    network = binary()
    assert initialize(network, run).path == run / runs.MODEL
    assert_holds(network, latent)
    save_file(twin, run / runs.FLOAT)
    assert initialize(network, run).path == run / runs.FLOAT
    assert_holds(network, twin)


def test_a_folder_that_is_no_run_and_one_without_weights_are_refused(tmp_path):
    assert "is no run (it has no run.json)" in refusal(binary(), tmp_path)
    assert "model.safetensors` is no file" in refusal(binary(), describe(tmp_path / "run"))


def test_a_checkpoint_of_another_model_is_refused_by_what_is_missing(tmp_path):
    path = saved({f"features.{i}.weight": torch.zeros(2) for i in range(20)}, tmp_path / "a.pth")
    message = refusal(binary(), path)
    assert "fits 0 of 12 tensors of the network: `conv0.weight` is missing" in message
    assert "in the file: `features.0.weight`" in message


def test_less_than_half_is_refused_even_if_the_rest_may_be_missing(tmp_path):
    state = {"unused": torch.zeros(1)}
    network = nn.Linear(2, 3)
    assert "fits 0 of 2 tensors" in refusal(network, saved(state, tmp_path / "a.pth"))


def test_one_missing_and_one_misshapen_tensor_are_refused(tmp_path):
    state = published()
    del state["bn1.running_var"]
    message = refusal(binary(), saved(state, tmp_path / "a.pth"))
    assert "fits 11 of 12" in message and "`bn1.running_var` is missing" in message
    state = published() | {"conv1.weight": torch.zeros(4, 4, 1, 1)}
    message = refusal(binary(), saved(state, tmp_path / "a.pth"))
    assert "`conv1.weight` is [4, 4, 1, 1], not [4, 4, 3, 3]" in message


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(bad, tmp_path):
    state = published()
    state["bn1.bias"][2] = bad
    message = refusal(binary(), saved(state, tmp_path / "a.pth"))
    assert "`bn1.bias`" in message and "not finite" in message


def test_float64_beyond_float32_is_not_finite(tmp_path):
    state = published() | {"bn1.bias": torch.full((4,), 1e300, dtype=torch.float64)}
    assert "not finite" in refusal(binary(), saved(state, tmp_path / "a.pth"))


def test_two_names_for_one_tensor_are_refused(tmp_path):
    state = published() | {"module.bn1.bias": torch.zeros(4)}
    message = refusal(binary(), saved(state, tmp_path / "a.pth"))
    assert "`bn1.bias` and `module.bn1.bias`, both of them `bn1.bias`" in message


def cubic(distance: float) -> float:
    """The kernel of cubic convolution (Keys, 1981), with the slope -0.75 that torch has."""
    x, slope = abs(distance), -0.75
    if x <= 1:
        return (slope + 2) * x**3 - (slope + 3) * x**2 + 1
    return slope * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def interpolation(old: int, new: int) -> Tensor:
    """The matrix [new, old] of cubic convolution between middles of patches, edges repeated."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for row in range(new):
        middle = (row + 0.5) * old / new - 0.5
        for tap in range(math.floor(middle) - 1, math.floor(middle) + 3):
            matrix[row, min(max(tap, 0), old - 1)] += cubic(middle - tap)
    return matrix


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4)])
def test_positions_of_another_image_size_are_interpolated(extra, old, new, tmp_path):
    """Rows, then columns, by cubic convolution; tokens before the patches stay as they are."""
    state, network = published(tokens=old**2 + extra), binary(tokens=new**2 + extra)
    report = initialize(network, saved(state, tmp_path / "a.pth"))
    assert report.resized == ("pos_embed",)
    assert "; resized `pos_embed`" in str(report)
    matrix, (before,) = interpolation(old, new), state["pos_embed"]
    image = before[extra:].double().view(old, old, 6)
    expected = torch.einsum("ri,cj,ijd->rcd", matrix, matrix, image).reshape(-1, 6).float()
    (found,) = network.pos_embed.detach()
    assert torch.equal(found[:extra], before[:extra])
    torch.testing.assert_close(found[extra:], expected, rtol=1e-5, atol=1e-5)


def test_positions_that_are_no_square_are_refused(tmp_path):
    state = published(tokens=12)
    message = refusal(binary(tokens=17), saved(state, tmp_path / "a.pth"))
    assert "`pos_embed` is [1, 12, 6], not [1, 17, 6]" in message


# Hostile files.


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(zipped, tmp_path):
    state = published() | {"evil": Harm(tmp_path / "made")}
    path = saved(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = refusal(binary(), path)
    assert "needs more than tensors (`posix.mkdir`)" in message
    assert not (tmp_path / "made").exists()


def test_a_bare_pickle_is_not_run(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"evil": Harm(tmp_path / "made")}))
    refusal(binary(), path)
    assert not (tmp_path / "made").exists()


def test_other_objects_beside_the_tensors_are_named(tmp_path):
    content = {"state_dict": published(), "args": argparse.Namespace(lr=0.1)}
    message = refusal(binary(), saved(content, tmp_path / "a.pth"))
    assert "needs more than tensors (`argparse.Namespace`)" in message
    assert "save the state_dict alone" in message


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(saved(published(), path)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("a/constants.pkl", b"")
    assert "needs more than tensors" in refusal(binary(), path)


class Bytes:
    """Unpickled, it is so many zeros: a few bytes of file, any amount of memory."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __reduce__(self):
        return bytearray, (self.count,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_memory_is_refused(zipped, tmp_path):
    state = published() | {"large": Bytes(10**12)}
    path = saved(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert "asks for memory" in refusal(binary(), path)


def rewritten(
    source: Path, path: Path, change: Callable[[bytes], bytes], compression: int = 0
) -> Path:
    """The archive `source` with its pickle changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


def test_a_compressed_archive_is_refused(tmp_path):
    source = saved(published(), tmp_path / "a.pth")
    path = rewritten(source, tmp_path / "b.pth", bytes, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(binary(), path)


def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path):
    source = saved({"conv0.weight": torch.zeros(4)}, tmp_path / "a.pth")
    claim = b"J" + struct.pack("<i", 2**31 - 1)

    def change(content: bytes) -> bytes:
        assert content.count(b"K\x04t") == content.count(b"K\x04\x85") == 1
        return content.replace(b"K\x04t", claim + b"t").replace(b"K\x04\x85", claim + b"\x85")

    assert "is damaged or no checkpoint" in refusal(
        binary(), rewritten(source, tmp_path / "b.pth", change)
    )


@pytest.mark.parametrize(
    "strange",
    [
        torch.zeros(1).expand(4, 3, 3, 3),
        torch.zeros(4, 3, 3, 3, device="meta"),
        torch.zeros(4, 3, 3, 3).to_sparse(),
    ],
    ids=["expanded", "meta", "sparse"],
)
def test_tensors_without_their_numbers_are_refused(strange, tmp_path):
    state = published() | {"conv0.weight": strange}
    message = refusal(binary(), saved(state, tmp_path / "a.pth"))
    assert "`conv0.weight` is no ordinary tensor" in message


def test_integers_in_place_of_floats_are_refused(tmp_path):
    state = published() | {"bn0.weight": torch.ones(4, dtype=torch.int64)}
    message = refusal(binary(), saved(state, tmp_path / "a.pth"))
    assert "`bn0.weight` is torch.int64, not torch.float32" in message


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, torch.zeros(3), {1: 2}, None])
def test_files_without_named_tensors_are_refused(content, tmp_path):
    assert "holds no tensors by name" in refusal(binary(), saved(content, tmp_path / "a.pth"))


def test_a_dictionary_within_itself_ends(tmp_path):
    content: dict[str, Any] = {}
    content["model"] = content
    assert "holds no tensors by name" in refusal(binary(), saved(content, tmp_path / "a.pth"))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
def test_every_truncation_is_refused_in_one_line(name, tmp_path):
    path = tmp_path / name
    if name == "a.safetensors":
        save_file(published(), path)
    else:
        saved(published(), path, _use_new_zipfile_serialization=name == "a.pth")
    whole, network = path.read_bytes(), binary()
    for length in [0, 1, 7, 8, 9, *range(50, len(whole), len(whole) // 12), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "is damaged" in refusal(network, path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 64,
        b"\xff" * 64,
        b"PK\x03\x04" + b"\0" * 64,
        b"\x80\x02." * 9,
        b"{}",
        b"<html>\n" * 9,
    ],
)
def test_garbage_is_refused_in_one_line(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    refusal(binary(), path)


def test_flipped_bytes_never_end_in_anything_but_one_line(tmp_path):
    """Every byte of the pickle, one at a time: loaded whole, or refused and left as it was."""
    buffer = io.BytesIO()
    torch.save({"0.weight": torch.zeros(1, 1), "0.bias": torch.zeros(1)}, buffer)
    whole, path = bytearray(buffer.getvalue()), tmp_path / "a.pth"
    start = whole.index(b"\x80\x02")
    refused = 0
    for place in range(start, start + 180):
        flipped = bytearray(whole)
        flipped[place] ^= 0x41
        path.write_bytes(flipped)
        try:
            initialize(nn.Sequential(nn.Linear(1, 1)), path)
        except BindeployError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 60


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("absent.pth", "fifo", "dangling", "circle", "x" * 300, "absent.pth/deeper"):
        assert "is no file: give a checkpoint" in refusal(binary(), tmp_path / name)


def test_a_link_to_a_checkpoint_is_followed(tmp_path):
    state, network = published(), binary()
    (tmp_path / "link.pth").symlink_to(saved(state, tmp_path / "a.pth"))
    initialize(network, tmp_path / "link.pth")
    assert_holds(network, state)
