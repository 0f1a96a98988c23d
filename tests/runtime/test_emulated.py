"""The whole runtime on ARM, RISC-V and WebAssembly gives the bits of this machine."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiled_runtime import SOURCES, build
from every_op import every_op_plan
from grouped import GROUPS, layer
from numpy.typing import NDArray
from one_op import HEIGHT, WIDTH, Window, finish, nhwc_plan, signs, small_integers
from plan_builder import RUNTIME

from bindeploy import bits

BENCH = str(RUNTIME / "bench/bd_bench.c")
TARGETS = {
    "qemu-aarch64": "-target aarch64-linux-musl",
    "qemu-aarch64 -cpu cortex-a53": "-target aarch64-linux-musl",
    "qemu-arm": "-target arm-linux-musleabihf -mcpu=generic+v7a+neon",
    "qemu-riscv64": "-target riscv64-linux-musl",
    "qemu-riscv64 -cpu rv64,zbb=true": "-target riscv64-linux-musl -mcpu=baseline_rv64+zbb",
    "wasmtime": "-target wasm32-wasi -mcpu=generic+simd128",
}
"""What starts a program and, for zig, what it is compiled for; an emulator of today does not tell
its program of Zbb, so that the compiler does."""
WASI = f"{sys.executable} -m bindeploy.on.wasi"
WINDOW = Window(strides=(1, 2), pads=(2, 1, 0, 1))
DENSE = Window((1, 1), pads=(0, 0, 0, 0))
LAYERS = {
    "one pixel": ((1, 1), 1, 301, 70, DENSE),
    "37 tokens": ((1, 37), 1, 300, 130, DENSE),
    "a picture and strides": ((11, 9), 1, 33, 40, WINDOW),
    "groups": ((6, 7), 3, 40, 5, Window()),
    "as large as the input": ((7, 5), 1, 9, 67, Window((7, 5), pads=(0, 0, 0, 0))),
}
"""Size, groups, channels and filters of each, window."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("here") / "bd_bench", [*SOURCES, BENCH], "-O1")


def is_here(emulator: str) -> bool:
    if emulator == "wasmtime":
        return importlib.util.find_spec(emulator) is not None
    return shutil.which(emulator.split()[0]) is not None


@pytest.fixture(scope="module", params=TARGETS)
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list:
    """What starts the program elsewhere; a core that executes in order has rows of its own."""
    if importlib.util.find_spec("ziglang") is None or not is_here(request.param):
        pytest.skip(f"ziglang or {request.param.split()[0]} is not installed")
    program = tmp_path_factory.mktemp("emulated") / "bd_bench"
    zig = [sys.executable, "-m", "ziglang", "cc", *TARGETS[request.param].split(), "-static"]
    flags = ["-O2", "-std=c11", "-ffp-contract=off", f"-I{RUNTIME / 'include'}"]
    subprocess.run([*zig, *flags, *SOURCES, BENCH, "-lm", "-o", program], check=True)
    return [*request.param.replace("wasmtime", WASI).split(), program]


def outcome(command: list, folder: Path) -> tuple[NDArray, NDArray]:
    """The output and the integers of one plan."""
    names = ("input", "output", "integers")
    files = [word for name in names for word in (f"--{name}", folder / name)]
    subprocess.run([*command, folder / "model.bd", *files], check=True)
    output = np.fromfile(folder / "output", np.uint32)
    return output, np.fromfile(folder / "integers", np.int32)


def test_every_op(here: Path, emulated: list, tmp_path: Path) -> None:
    """Floats are summed in another order; none that is binarized comes close to zero here."""
    random = np.random.default_rng(1)
    random.standard_normal((4, 3, 6, 6), np.float32).tofile(tmp_path / "input")
    (tmp_path / "model.bd").write_bytes(every_op_plan())
    output, integers = outcome([here], tmp_path)
    other_output, other_integers = outcome(emulated, tmp_path)
    np.testing.assert_array_equal(other_integers, integers)
    np.testing.assert_allclose(
        other_output.view(np.float32), output.view(np.float32), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", GROUPS)
def test_groups_residuals_and_thresholds(
    here: Path, emulated: list, name: str, tmp_path: Path
) -> None:
    group, channels, filters = GROUPS[name]
    random = np.random.default_rng(channels)
    x = random.standard_normal((HEIGHT, WIDTH, group * channels), np.float32)
    weights = bits.pack(signs(random, group * filters, 3, 3, channels))
    affine = random.standard_normal((2, group * filters), np.float32)
    threshold = random.integers(-9, 10, group * filters, np.int32)
    direction = random.choice(np.array([-1, 1], np.int8), group * filters)
    x.transpose(2, 0, 1).tofile(tmp_path / "input")
    cases = {
        "binary_conv": ((weights, *affine), {"residual": True, "minimum": -3.0}),
        "binary_conv_threshold": ((weights, threshold, direction), {"pad_value": 0}),
        "saturating_conv": ((weights, *affine), {"residual": True, "pad_value": 0}),
        "saturating_conv_threshold": ((weights, threshold, direction), {}),
    }
    for op, (constants, settings) in cases.items():
        plan = finish(*layer(op, x, constants, WINDOW, group=group, **settings))
        (tmp_path / "model.bd").write_bytes(plan)
        expected = outcome([here], tmp_path)
        for one, other in zip(outcome(emulated, tmp_path), expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=op)


@pytest.mark.parametrize("op", ["binary_weight_conv", "binary_weight_int8_conv", "int8_conv"])
@pytest.mark.parametrize("name", LAYERS)
def test_wide_activations(here: Path, emulated: list, op: str, name: str, tmp_path: Path) -> None:
    """Sums are exact in any order, of floats too, so that all outputs are equal. One is as low as
    it can be, beyond 16 bits."""
    size, group, channels, filters, window = LAYERS[name]
    random = np.random.default_rng(filters)
    x = small_integers(random, *size, group * channels)
    x[0, 0] = -8
    shape = (group * filters, *window.kernel, channels)
    weights = signs(random, *shape)
    weights[0] = 1
    weights = bits.pack(weights)
    if op == "int8_conv":
        weights = random.integers(-128, 128, shape).astype(np.int8)
    step = [] if op == "binary_weight_conv" else [np.array([0.05], np.float32)]
    constants = [weights, *step, *random.standard_normal((2, group * filters), np.float32)]
    plan, tensor = nhwc_plan(x)
    inputs = (tensor, *(plan.constant(f"constant{i}", a) for i, a in enumerate(constants)))
    out = (1, window.over(size[0], 0), window.over(size[1], 1), group * filters)
    y = plan.node(op, inputs, plan.activation("y", out), **window.settings(), group=group)
    (tmp_path / "model.bd").write_bytes(finish(plan, y))
    x.transpose(2, 0, 1).tofile(tmp_path / "input")
    (expected, _), (found, _) = outcome([here], tmp_path), outcome(emulated, tmp_path)
    assert len(np.unique(expected)) > 9
    np.testing.assert_array_equal(found, expected)
