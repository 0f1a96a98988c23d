"""What layers of 1-bit and 8-bit weights cost on ARM: instructions under an emulator, cycles by
llvm-mca.

    python examples/results/arm_kernels.py

Needs zig (the extra `cross`), cc, aarch64-linux-gnu-gcc, qemu-aarch64, qemu-arm and llvm-mca. An
emulator counts instructions and says nothing of time; no time stands here. The tables go to
arm_kernels.md beside this file.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from bindeploy import bits
from bindeploy.convert import dialect
from bindeploy.emit.plan import write_plan
from bindeploy.files import resource

RUNTIME = resource("runtime")
LAYERS = {(56, 64): 0.0435, (28, 128): 0.0311, (14, 256): 0.0313, (7, 512): 0.0350}
"""Size and channels of a 3x3 layer, and what daBNN executes for each multiplication there."""
ZIG = [sys.executable, "-m", "ziglang"]
ARMV7 = ["-target", "arm-linux-musleabihf", "-mcpu=generic+v7a+neon"]
ROWS = ("neon", "neon_wide")
BUILDS = {
    "aarch64, gcc": ("qemu-aarch64", ["aarch64-linux-gnu-gcc"], ROWS),
    "aarch64, zig": ("qemu-aarch64", [*ZIG, "cc", "-target", "aarch64-linux-musl"], ROWS),
    "armv7, zig": ("qemu-arm", [*ZIG, "cc", *ARMV7], ROWS[:1]),
}
"""Emulator, compiler and rows of the table of kernels."""
CORES = {
    "A53": "cortex-a53",
    "A55": "cortex-a55",
    "A72": "cortex-a57",
    "A76": "neoverse-n1",
}
"""Cores and the scheduling model that llvm-mca has of each, or of its nearest relative."""
KERNELS = ("bd_bgemm_edge_i32_4x16__neon", "bd_bgemm_edge_i32_4x16__neon_wide")
WIDE = {
    "197 tokens, 192-768": ((1, 197), 192, 768, 1),
    "56x56x64": ((56, 56), 64, 64, 3),
    "28x28x128": ((28, 28), 128, 128, 3),
    "14x14x256": ((14, 14), 256, 256, 3),
    "7x7x512": ((7, 7), 512, 512, 3),
    "1 pixel, 512-1000": ((1, 1), 512, 1000, 1),
}
"""Size, channels and filters of a layer of wide activations, and its square window."""
KINDS = {"BW": "1-bit weights, floats", "BW8": "1-bit weights, int8", "int8": "int8 weights, int8"}
NEWER = re.compile(
    r"BD_KERNEL\((tables|wgemv|slice_tables|slice_sums|igemm|igemv), .* neon\w*, .*\n"
)
"""Without these rows weights are unpacked for fgemm, and int8 layers take the plain path."""
WIDE_KERNELS = {
    "bd_fgemm_f32_8x8__neon": ("fmla", 4),
    "bd_slice_sums_f32_16x64__neon": ("ld1", 64),
    "bd_slice_sums_i16_32x64__neon": ("ld1", 128),
    "bd_wgemv_f32_1x16__neon": ("fadd", 16),
    "bd_igemm_i32_4x8__neon": ("sadalp", 8),
    "bd_igemm_i32_4x16__neon_dotprod": ("sdot", 16),
}
"""An instruction of each loop, and how many multiplications it stands for."""
WITH_DOT_PRODUCTS = ("A55", "A76")
ITERATIONS = 300
MCA = ("llvm-mca-19", "llvm-mca")
PAGE = """# Layers of 1-bit and 8-bit weights on ARM

`python examples/results/arm_kernels.py` writes this page; nothing in it is a time. Tools: {tools}.

Instructions executed for each binary multiplication and addition of a 3x3 layer, from packed bits
to packed bits, everything that `bd_run` does for it: windows packed, kernel, thresholds. Exclusive
or, count and addition of 128 bits are 0.0234; as edges, five instructions for two, 0.0195.

{counts}

Cycles that llvm-mca expects for each exclusive or and count of 128 bits in the inner loop, cut from
the first program counted above; {cores}. `neon` is for cores that execute in order.

{cycles}

## Wide activations

Instructions for each multiplication and addition of a layer from floats to floats, everything that
`bd_run` does for it, two layers there and back, by {compiler}. Before there were rows for them,
1-bit weights were unpacked for `fgemm`, and int8 layers took the plain path.

{wide}

Cycles for each multiplication that the inner loop stands for, where the core has its instructions;
`fgemm` is what layers of 1-bit weights took before.

{wide_cycles}
"""


def output_of(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def tool(*names: str) -> str:
    found = next((name for name in names if shutil.which(name)), None)
    return found or sys.exit(f"{names[0]} is not installed")


def compile_bench(compiler: list[str], folder: Path, runtime: Path = RUNTIME) -> Path:
    sources = [*runtime.glob("src/*.c"), *runtime.glob("src/ops/*.c")]
    sources += [*runtime.glob("src/kernels/*.c"), runtime / "bench/bd_bench.c"]
    options = ["-O3", "-std=c11", "-ffp-contract=off", "-static", f"-I{runtime / 'include'}"]
    program = folder / "bd_bench"
    command: list[str | Path] = [
        *compiler,
        *options,
        *sorted(sources),
        "-lm",
        "-pthread",
        "-o",
        program,
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return program


def network(size: int, channels: int, count: int) -> ir.Model:
    """`count` layers of 3x3, each from bits to bits."""
    random = np.random.default_rng(0)
    window = {
        "group": 1,
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
        "strides": [1, 1],
        "pad_value": 1.0,
    }
    nodes, constants = [], {}
    for i in range(count):
        weights = random.choice(np.array([-1, 1], np.float32), (channels, 3, 3, channels))
        constants[f"bits{i}"] = bits.pack(weights)
        constants[f"threshold{i}"] = random.integers(-9, 10, channels, np.int32)
        constants[f"direction{i}"] = random.choice(np.array([-1, 1], np.int8), channels)
        inputs = [f"x{i}", f"bits{i}", f"threshold{i}", f"direction{i}"]
        node = helper.make_node(
            "BinaryConv2dThreshold", inputs, [f"x{i + 1}"], f"layer{i}", domain="bindeploy"
        )
        node.attribute.extend(
            helper.make_attribute(*pair) for pair in ({"channels": channels} | window).items()
        )
        nodes.append(node)
    ends = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, channels, size, size])
        for i in (0, count)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("bindeploy", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    dialect.attach_functions(model)
    return model


def rounded_to_int8(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_r"]),
    ]


def wide_network(
    kind: str, size: tuple[int, int], channels: int, filters: int, window: int, count: int
) -> ir.Model:
    """`count` pairs of layers, there and back, each from floats to floats."""
    random = np.random.default_rng(0)
    nodes = []
    constants: dict[str, np.ndarray] = {
        "step": np.array(0.02, np.float32),
        "zero": np.array(0, np.int8),
    }
    for i in range(2 * count):
        c, f = (channels, filters) if i % 2 == 0 else (filters, channels)
        weights = random.integers(-127, 128, (f, c, window, window)).astype(np.int8)
        signs = np.where(weights < 0, np.float32(-1), np.float32(1)).transpose(0, 2, 3, 1)
        constants[f"weights{i}"] = weights if kind == "int8" else bits.pack(signs)
        for name in ("scale", "bias"):
            constants[f"{name}{i}"] = random.standard_normal(f, np.float32)
        nodes += rounded_to_int8(f"x{i}") if kind == "BW8" else []
        inputs = [f"x{i}_r" if kind == "BW8" else f"x{i}", f"weights{i}"]
        inputs += ["step"] * (kind == "int8") + [f"scale{i}", f"bias{i}"]
        op = "Int8Conv2d" if kind == "int8" else "BinaryWeightConv2d"
        attributes = {
            "channels": c,
            "group": 1,
            "pads": [window // 2] * 4,
            "dilations": [1, 1],
            "strides": [1, 1],
            "pad_value": 0.0,
        }
        node = helper.make_node(op, inputs, [f"x{i + 1}"], f"layer{i}", domain="bindeploy")
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        nodes.append(node)
    ends = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, channels, *size])
        for i in (0, 2 * count)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("bindeploy", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    dialect.attach_functions(model)
    return model


def there_and_back(kind: str, name: str) -> tuple[Callable[[int], ir.Model], int]:
    (height, width), channels, filters, window = WIDE[name]
    multiplications = 2 * height * width * channels * filters * window * window
    return partial(wide_network, kind, *WIDE[name]), multiplications


def counting_plugin(folder: Path) -> Path:
    """For qemu."""
    plugin = folder / "libcount.so"
    source = RUNTIME / "test/count_instructions.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", plugin], check=True)
    return plugin


def instructions(command: list[str | Path], plugin: Path, folder: Path, runs: int) -> int:
    emulator, *program = command
    subprocess.run(
        [
            emulator,
            "-plugin",
            plugin,
            "-d",
            "plugin",
            "-D",
            folder / "counts",
            *program,
            "--runs",
            str(runs),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    *_, total = (folder / "counts").read_text().splitlines()
    return int(total.split()[0])


def per_multiplication(
    emulator: str,
    bench: Path,
    isa: str,
    plugin: Path,
    layers: Callable[[int], ir.Model],
    multiplications: int,
) -> float:
    """One of two in one of two runs, by subtraction; bd_bench takes each run twice."""
    counts = {}
    for count in (1, 2):
        plan = bench.parent / "model.bd"
        write_plan(layers(count), plan)
        command: list[str | Path] = [emulator, bench, plan, "--isa", isa, "--warmup", "0"]
        few, more = (instructions(command, plugin, bench.parent, runs) for runs in (1, 2))
        counts[count] = (more - few) / 2
    return (counts[2] - counts[1]) / multiplications


def square(size: int, channels: int) -> tuple[Callable[[int], ir.Model], int]:
    return partial(network, size, channels), size * size * channels * channels * 9


def loops(disassembly: str) -> list[list[str]]:
    """The bodies of a function's innermost loops, without the branch."""
    lines = [re.match(r"\s*([0-9a-f]+):\s+(\S.*)", line) for line in disassembly.splitlines()]
    code = [(int(line[1], 16), line[2].split("//")[0].strip()) for line in lines if line]
    found: list[list[str]] = []
    for i, (address, text) in enumerate(code):
        branch = re.match(r"b\.\w+\s+([0-9a-f]+)", text)
        if branch and int(branch[1], 16) <= address:
            body = [word for at, word in code[:i] if at >= int(branch[1], 16)]
            if not any(word.startswith(("b.", "b\t", "cbz", "cbnz")) for word in body):
                found.append(body)
    return found


def inner_loop(bench: Path, kernel: str, word: str) -> list[str]:
    """The longest with such an instruction."""
    command: list[str | Path] = [
        tool("aarch64-linux-gnu-objdump"),
        "--no-show-raw-insn",
        f"--disassemble={kernel}",
        bench,
    ]
    return max((body for body in loops(output_of(*command)) if found(body, word)), key=len)


def found(body: list[str], word: str) -> int:
    """How many instructions of a loop are of this kind."""
    return sum(line.split()[0] == word for line in body)


def cycles(body: list[str], core: str) -> float:
    """Of one turn of a loop."""
    mca = tool(*MCA)
    said = output_of(
        mca, "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}", text="\n".join(body)
    )
    total = re.search(r"Total Cycles:\s+(\d+)", said)
    assert total is not None
    return int(total[1]) / ITERATIONS


def version(*command: str) -> str:
    said = output_of(*command).splitlines()
    return next(line.strip() for line in said if re.search(r"\d+\.\d+", line))


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count_layers(folder: Path, plugin: Path) -> tuple[list[list[str]], Path]:
    """The rows of the first table, and a program for 64-bit ARM."""
    rows, programs = [["daBNN", "", *(f"{count:.4f}" for count in LAYERS.values())]], []
    for name, (emulator, compiler, isas) in BUILDS.items():
        place = folder / name
        place.mkdir()
        programs.append(compile_bench(compiler, place))
        for isa in isas:
            one = partial(per_multiplication, emulator, programs[-1], isa, plugin)
            rows.append([name, isa, *(f"{one(*square(*layer)):.4f}" for layer in LAYERS)])
    return rows, programs[0]


def compile_without_newer_rows(compiler: list[str], folder: Path) -> Path:
    runtime = folder / "runtime"
    shutil.copytree(RUNTIME, runtime)
    table = runtime / "src" / "kernels.inc"
    table.write_text(NEWER.sub("", table.read_text()))
    return compile_bench(compiler, folder, runtime)


def count_wide_layers(folder: Path, plugin: Path, program: Path) -> list[list[str]]:
    """The rows of the third table."""
    emulator, compiler, _ = next(iter(BUILDS.values()))
    place = folder / "before"
    place.mkdir()
    before = compile_without_newer_rows(compiler, place)
    rows = []
    for kind, meaning in KINDS.items():
        ways = [("before", before, "neon"), ("`neon`", program, "neon")]
        ways += [("`neon_dotprod`", program, "neon_dotprod")] * (kind == "int8")
        for way, bench, isa in ways:
            one = partial(per_multiplication, emulator, bench, isa, plugin)
            counts = (one(*there_and_back(kind, name)) for name in WIDE)
            rows.append([f"{kind}: {meaning}", way, *(f"{count:.3f}" for count in counts)])
    return rows


def model_loops(program: Path) -> list[list[str]]:
    """The rows of the second table."""
    rows = []
    for kernel in KERNELS:
        body = inner_loop(program, kernel, "bsl")
        pairs = found(body, "eor")
        modelled = (f"{cycles(body, core) / pairs:.2f}" for core in CORES.values())
        rows.append([f"`{kernel}`", f"{len(body) / pairs:.2f}", *modelled])
    return rows


def model_wide_loops(program: Path) -> list[list[str]]:
    """The rows of the fourth table."""
    rows = []
    for kernel, (word, each) in WIDE_KERNELS.items():
        body = inner_loop(program, kernel, word)
        multiplications = found(body, word) * each
        modelled = [
            f"{cycles(body, core) / multiplications:.3f}"
            if word != "sdot" or name in WITH_DOT_PRODUCTS
            else ""
            for name, core in CORES.items()
        ]
        rows.append([f"`{kernel}`", f"{len(body) / multiplications:.3f}", *modelled])
    return rows


def page(folder: Path) -> str:
    plugin = counting_plugin(folder)
    rows, program = count_layers(folder, plugin)
    tools = [
        version("aarch64-linux-gnu-gcc", "--version"),
        "zig " + version(*ZIG, "version"),
        version("qemu-aarch64", "--version"),
        version(tool(*MCA), "--version"),
    ]
    return PAGE.format(
        tools="; ".join(tools),
        counts=table(["", "rows", *(f"{size}x{size}x{width}" for size, width in LAYERS)], rows),
        cores=", ".join(f"{name} as `{core}`" for name, core in CORES.items()),
        cycles=table(["loop", "instructions", *CORES], model_loops(program)),
        compiler=next(iter(BUILDS)),
        wide=table(["", "rows", *WIDE], count_wide_layers(folder, plugin, program)),
        wide_cycles=table(["loop", "instructions", *CORES], model_wide_loops(program)),
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = page(Path(folder))
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
