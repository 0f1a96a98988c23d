"""Every kernel equals the scalar one: on this machine, under sanitizers, and under emulators.

`check_kernels` compares and prints a line for each row; here it is compiled from nothing but the
kernels and their dispatch, and its lines are held against the table.
"""

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bindeploy.files import resource
from bindeploy.kernels import KERNELS

RUNTIME = resource("runtime")
SOURCES = [
    *sorted(RUNTIME.glob("test/check_*.c")),
    RUNTIME / "src" / "cpu.c",
    RUNTIME / "src" / "dispatch.c",
    *sorted(RUNTIME.glob("src/kernels/*.c")),
]
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
FLAGS = [*STRICT, "-O2", "-ffp-contract=off"]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ZIG = [sys.executable, "-m", "ziglang", "cc"]

needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"
)


def needs(program: str):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def compile_and_run(compiler: list[str], flags: list[str], folder: Path, *emulator: str) -> dict:
    """What `check_kernels` said of each name: ok, FAILED or skipped; it must exit with 0."""
    program = folder / "check_kernels"
    sources = [str(path) for path in SOURCES]
    subprocess.run([*compiler, *flags, *sources, "-o", str(program), "-lm"], check=True)
    done = subprocess.run([*emulator, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, total = done.stdout.splitlines()
    verdicts = {name: verdict.rstrip(":") for name, verdict, *_ in map(str.split, lines)}
    passed = sum(verdict == "ok" for verdict in verdicts.values())
    assert total == f"{passed} passed, 0 failed"
    return verdicts


def names(*isas: str) -> set[str]:
    return {kernel.name for kernel in KERNELS if kernel.isa in isas}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict:
    return compile_and_run(["cc"], FLAGS, tmp_path_factory.mktemp("here"))


@needs("cc")
def test_every_kernel_of_this_machine_is_right(here):
    assert names("scalar") <= here.keys()
    assert set(here.values()) <= {"ok", "skipped"}


@needs("cc")
@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="this machine is not x86-64 Linux",
)
def test_a_cpu_with_avx512_is_checked_with_avx2_too(here):
    assert here.keys() >= names("scalar", "avx2", "avx512")
    flags = Path("/proc/cpuinfo").read_text().split()
    for isa, flag in {"avx2": "avx2", "avx512": "avx512_vpopcntdq"}.items():
        expected = "ok" if flag in flags else "skipped"
        assert {here[name] for name in names(isa)} == {expected}


@needs("cc")
@needs("qemu-x86_64")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="this machine is not x86-64")
@pytest.mark.parametrize(
    ("cpu", "lacks"), [("max", names("avx512")), ("Nehalem", names("avx2", "avx512"))]
)
def test_a_lesser_cpu_runs_only_what_it_has(cpu, lacks, tmp_path):
    verdicts = compile_and_run(["cc"], [*FLAGS, "-static"], tmp_path, "qemu-x86_64", "-cpu", cpu)
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == lacks


@needs("cc")
def test_kernels_stay_within_their_operands(tmp_path):
    verdicts = compile_and_run(["cc"], [*FLAGS, *SANITIZE], tmp_path)
    assert names("scalar") <= verdicts.keys()


@needs("clang-19")
def test_clang_compiles_them_without_a_warning(tmp_path):
    verdicts = compile_and_run(["clang-19"], FLAGS, tmp_path)
    assert names("scalar") <= verdicts.keys()


FUSE = [*STRICT, "-O3", "-ffp-contract=fast"]
"""What a compiler does by itself where nobody says -ffp-contract=off."""


@needs("cc")
@pytest.mark.parametrize("compiler", ["cc", "clang-19"])
def test_no_compiler_fuses_what_rounds_twice(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    machine = ["-mfma"] if platform.machine() == "x86_64" else []
    if machine and " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no fused multiply-add")
    verdicts = compile_and_run([compiler], [*FUSE, *machine], tmp_path)
    assert verdicts["bd_affine_f32_1x1__scalar"] == "ok"


@needs_zig
@needs("qemu-aarch64")
def test_64_bit_arm_fuses_nothing_that_rounds_twice(tmp_path):
    target = ["-target", "aarch64-linux-musl", "-static"]
    verdicts = compile_and_run(ZIG, [*target, *FUSE], tmp_path, "qemu-aarch64")
    assert verdicts["bd_affine_f32_1x1__neon"] == "ok"


@needs_zig
@needs("qemu-aarch64")
def test_64_bit_arm_is_right(tmp_path):
    target = ["-target", "aarch64-linux-musl", "-static"]
    verdicts = compile_and_run(ZIG, [*target, *FLAGS], tmp_path, "qemu-aarch64")
    assert verdicts["bd_bgemm_i32_3x8__neon"] == "ok"
    assert verdicts["bd_bgemm_threshold_b1_4x16__neon_wide"] == "ok"
    assert verdicts["bd_igemm_i32_4x16__neon_dotprod"] == "ok"
    assert len(verdicts.keys() & names("neon")) == 36


@needs_zig
@needs("qemu-aarch64")
def test_a_core_in_order_without_dot_products_runs_only_what_it_has(tmp_path):
    target = ["-target", "aarch64-linux-musl", "-static"]
    cpu = ["qemu-aarch64", "-cpu", "cortex-a53"]
    verdicts = compile_and_run(ZIG, [*target, *FLAGS], tmp_path, *cpu)
    skipped = {name for name, verdict in verdicts.items() if verdict == "skipped"}
    assert skipped == names("neon_wide", "neon_dotprod")


@needs_zig
@needs("qemu-arm")
def test_32_bit_arm_is_right(tmp_path):
    target = ["-target", "arm-linux-musleabihf", "-mcpu=generic+v7a+neon", "-static"]
    verdicts = compile_and_run(ZIG, [*target, *FLAGS], tmp_path, "qemu-arm")
    assert verdicts["bd_bgemm_edge_i32_4x16__neon"] == "ok"
    assert len(verdicts.keys() & names("neon")) == 22


@needs_zig
@needs("qemu-riscv64")
@pytest.mark.parametrize("zbb", [True, False])
def test_risc_v_is_right_with_zbb_and_without(zbb, tmp_path):
    cpu = "-mcpu=baseline_rv64" + "+zbb" * zbb
    compiler = [*ZIG, "-target", "riscv64-linux-musl", cpu, "-static"]
    emulator = ["qemu-riscv64", "-cpu", f"rv64,zbb={str(zbb).lower()}"]
    verdicts = compile_and_run(compiler, FLAGS, tmp_path, *emulator)
    expected = "ok" if zbb else "skipped"
    assert {verdicts[name] for name in names("zbb")} == {expected}


@needs_zig
@pytest.mark.skipif(
    importlib.util.find_spec("wasmtime") is None, reason="wasmtime is not installed"
)
def test_webassembly_is_right(tmp_path):
    compiler = [*ZIG, "-target", "wasm32-wasi", "-mcpu=generic+simd128"]
    emulator = [sys.executable, "-m", "bindeploy.on.wasi"]
    verdicts = compile_and_run(compiler, FLAGS, tmp_path, *emulator)
    assert {verdicts[name] for name in names("simd128")} == {"ok"}
