"""What binary layers that TVM compiles cost on 64-bit ARM: instructions under an emulator.

    sh tests/tvm/aarch64 .venv/aarch64
    python examples/results/tvm_arm.py [.venv/aarch64]

Needs zig or aarch64-linux-gnu-gcc, cc and qemu-aarch64, and the folder that the first command makes.
The table goes to tvm_arm.md beside this file; no time stands in it.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from arm_kernels import LAYERS, counting_plugin, instructions, network, table, version

from bindeploy.emit.tvm.compiler import write_module
from bindeploy.emit.tvm.targets import describe
from bindeploy.target import Target, load

CORES = {"any": {}, "A76, N1 and newer": {"mcpu": "neoverse-n1"}}
"""What the table `tvm` of the target says beside its own."""
COUNTED = {"`burst = true`": True, "`burst = false`": False}
PAGE = """# Binary layers that TVM compiles for 64-bit ARM

`python examples/results/tvm_arm.py` writes this page; nothing in it is a time. Tools: {tools}.

Instructions executed for each binary multiplication and addition of a 3x3 layer of a module, from
packed bits to packed bits: the second layer of two, in the second of two runs. daBNN's numbers are
those of arm_kernels.md.

{counts}

The first core is any that the target `arm` is for; the second is one of your own whose table `tvm`
says `mcpu = "neoverse-n1"`: dot products add what is counted. `burst` counts in bytes first. Exclusive or, count and addition of 128 bits are 0.0234.
"""


def per_multiplication(target: Target, size: int, channels: int, emulated: Path, plugin: Path) -> float:
    """One of two layers in one of two runs, by subtraction."""
    folder = plugin.parent
    module, image = folder / "model.so", folder / "input.f32"
    np.random.default_rng(0).standard_normal((channels, size, size), np.float32).tofile(image)
    arm = ["qemu-aarch64", "-L", emulated / "root", emulated / "host"]
    command = [*arm, module, image, folder / "output.f32"]
    counts = {}
    for layers in (1, 2):
        write_module(network(size, channels, layers), target, module)
        few, more = (instructions(command, plugin, folder, runs) for runs in (1, 2))
        counts[layers] = more - few
    return (counts[2] - counts[1]) / (size * size * channels * channels * 9)


def page(emulated: Path, folder: Path) -> str:
    plugin = counting_plugin(folder)
    arm = load("arm")
    rows = [["daBNN", "", *(f"{count:.4f}" for count in LAYERS.values())]]
    for core, said in CORES.items():
        for words, burst in COUNTED.items():
            target = replace(arm, tvm={**arm.tvm, **said, "burst": burst})
            counts = (per_multiplication(target, *layer, emulated, plugin) for layer in LAYERS)
            rows.append([core, words, *(f"{count:.4f}" for count in counts)])
    tools = ["TVM " + version(sys.executable, "-c", "import tvm; print(tvm.__version__)")]
    tools += [version("qemu-aarch64", "--version"), str(describe(arm).processor)]
    columns = ["core", "", *(f"{size}x{size}x{width}" for size, width in LAYERS)]
    return PAGE.format(tools="; ".join(tools), counts=table(columns, rows))


def main() -> None:
    emulated = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv/aarch64").resolve()
    if not (emulated / "host").is_file():
        sys.exit(f"{emulated} has no host: sh tests/tvm/aarch64 {emulated}")
    os.environ["TVM_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        text = page(emulated, Path(folder))
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
