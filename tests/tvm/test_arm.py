"""Kernels for other processors: their instructions, and in an emulator the numbers of numpy."""

import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bindeploy import bits
from bindeploy.build import compiler_for
from bindeploy.convert import dialect_reference as reference
from bindeploy.errors import BindeployError
from bindeploy.target import load

tvm = pytest.importorskip("tvm", reason="tvm is not installed")
tvm_ffi = pytest.importorskip("tvm_ffi", reason="tvm is not installed")

from bindeploy.emit.tvm import outputs, products  # noqa: E402
from bindeploy.emit.tvm.convolution import Layer, Tile, convolution  # noqa: E402
from bindeploy.emit.tvm.targets import describe  # noqa: E402

HERE = Path(__file__).resolve().parent
HEADERS = Path(tvm_ffi.__file__).parent / "include"
TYPES = {"i": 0, "u": 1, "f": 2}
"""DLPack's codes of numpy's kinds."""
ZBB = """
title = "RISC-V board with Zbb"
family = "linux"
isa = "zbb"
toolchain = "zig"
triple = "riscv64-linux-musl"
run = "qemu-riscv64 -cpu rv64,zbb=true"

[tvm]
kind = "llvm"
mtriple = "riscv64-unknown-linux-gnu"
mattr = ["+m", "+a", "+f", "+d", "+c", "+zbb"]
mabi = "lp64d"
"""
EMULATED = ("arm", "armv7", "riscv64", "x86-64-v3")
COUNTS = {
    "arm": r"\bcnt\s",
    "armv7": r"\bvcnt\.8\s",
    "x86-64-v4": r"\bvpopcntd\s.*%zmm",
    "zbb": r"\bcpopw\s",
}
"""Instructions that count bits, as LLVM writes them."""


def target_named(name, folder):
    if name != "zbb":
        return load(name)
    path = folder / "zbb.toml"
    path.write_text(ZBB)
    return load(str(path))


def compiled(kernel, described):
    """The LLVM module of one PrimFunc."""
    module = tvm.compile(kernel, target=described.target).mod
    return module if module.kind == "llvm" else module.imports[0]


class BinaryLayer:
    """Random bits, 5x7 pixels of 40 channels, 37 filters of 3x3: nothing is whole."""

    channels, filters = 40, 37

    def __init__(self, processor, kind):
        random = np.random.default_rng(7)
        self.x = random.standard_normal((1, self.channels, 5, 7), np.float32)
        self.packed = bits.pack(random.choice([-1, 1], (self.filters, 3, 3, self.channels)))
        count = 9 * self.channels
        if kind == "affine":
            self.vectors = (
                random.standard_normal(self.filters, np.float32),
                random.standard_normal(self.filters, np.float32),
            )
            output = outputs.Affine(count, scale=self.vectors[0], bias=self.vectors[1])
        else:
            self.vectors = (
                random.integers(-9, 9, self.filters, np.int32),
                random.choice(np.array([-1, 1], np.int8), self.filters),
            )
            threshold, direction = self.vectors
            output = outputs.Threshold(count, threshold=threshold, direction=direction)
        weight = self.packed.view("<u4")
        self.tile = Tile.of(Layer(5, 7, weight.shape[-1], self.filters, (3, 3)), processor)
        product = products.Bits()
        self.kernel = convolution("kernel", self.tile, product, output, processor)
        words = bits.pack(np.where(self.x.transpose(0, 2, 3, 1) >= 0, 1, -1)).view("<u4")
        made = np.zeros(output.shape(self.tile), output.dtype)
        vectors = output.vectors(self.tile).values()
        self.arrays = [words, product.laid_out(weight, self.tile), *vectors, made]

    def expected(self, kind):
        window = {"pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
        meaning = reference.binary_conv2d if kind == "affine" else reference.binary_conv2d_threshold
        y = meaning(
            self.x, self.packed, *self.vectors, channels=self.channels, pad_value=1.0, **window
        ).transpose(0, 2, 3, 1)
        return y if kind == "affine" else bits.pack(y).view("<u4")


@pytest.mark.parametrize("name", COUNTS)
def test_bits_are_counted_by_the_instructions_of_the_target(name, tmp_path):
    described = describe(target_named(name, tmp_path))
    layer = BinaryLayer(described.processor, "threshold")
    assembly = compiled(layer.kernel, described).inspect_source("s")
    assert re.search(COUNTS[name], assembly)


def test_neon_counts_in_bytes_and_adds_their_pairs_to_the_sums():
    described = describe(load("arm"))
    layer = BinaryLayer(described.processor, "threshold")
    assembly = compiled(layer.kernel, described).inspect_source("s")
    counted = len(re.findall(r"\bcnt\s", assembly))
    assert counted == len(re.findall(r"\badd\s+v\d+\.16b", assembly)) > 0
    assert 0 < len(re.findall(r"\buadalp\s+v\d+\.4s", assembly)) < counted


def test_neon_without_bursts_adds_every_count_to_its_sum():
    described = describe(load("arm"))
    layer = BinaryLayer(replace(described.processor, burst=False), "threshold")
    assembly = compiled(layer.kernel, described).inspect_source("s")
    added = re.findall(r"\buadalp\s+v\d+\.4s", assembly)
    assert len(re.findall(r"\bcnt\s", assembly)) == len(added) > 0


@pytest.mark.parametrize("kind", ["affine", "threshold"])
@pytest.mark.parametrize("name", [*EMULATED, "zbb"])
def test_a_kernel_in_an_emulator_gives_the_numbers_of_numpy(name, kind, tmp_path):
    target = target_named(name, tmp_path)
    emulator = target.run.split()
    if shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is not installed")
    try:
        compiler = compiler_for(target)
    except BindeployError as error:
        pytest.skip(str(error))
    described = describe(target)
    layer = BinaryLayer(described.processor, kind)
    compiled(layer.kernel, described).write_to_file(str(tmp_path / "kernel.o"))
    command = [*compiler.command, *compiler.flags, *compiler.link_flags, f"-I{HEADERS}"]
    sources = [HERE / "call_kernel.c", tmp_path / "kernel.o"]
    subprocess.run([*command, *sources, "-lm", "-o", tmp_path / "call"], check=True)
    (tmp_path / "arrays").write_bytes(b"".join(map(written, layer.arrays)))
    done = subprocess.run(
        [*emulator, tmp_path / "call", tmp_path / "arrays"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = layer.arrays[-1]
    got = np.frombuffer(done.stdout, made.dtype).reshape(made.shape)
    np.testing.assert_array_equal(got, layer.expected(kind))


def written(array):
    head = [TYPES[array.dtype.kind], array.itemsize * 8, array.ndim, array.nbytes, 0]
    return struct.pack(f"<5i{array.ndim}q", *head, *array.shape) + array.tobytes()
