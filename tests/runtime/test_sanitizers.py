"""Threads never race, and no plan that a fuzzer makes up harms the loader or a run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiled_runtime import SOURCES, build
from every_op import every_op_plan
from grouped import layer
from one_op import Window, finish, signs
from plan_builder import RUNTIME
from test_threads import layer_plan

from bindeploy import bits

FUZZER = ["-O1", "-g", "-DFUZZER", "-fno-sanitize-recover=all"]
FUZZER += ["-fsanitize=fuzzer,address,undefined,float-cast-overflow"]
LIMITS = "allocator_may_return_null=1:max_allocation_size_mb=512"
"""More memory than that a plan is refused, as on a small machine."""


def works(program: Path, compiler: str, *flags: str) -> bool:
    """Whether the compiler has what these flags need, and its programs run here."""
    source = program.with_suffix(".c")
    source.write_text(
        "#include <stddef.h>\n"
        "int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);\n"
        "int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)\n"
        "{ (void)data; (void)bytes; return 0; }\n"
        "#ifndef FUZZER\nint main(void) { return 0; }\n#endif\n"
    )
    if shutil.which(compiler) is None:
        return False
    built = subprocess.run([compiler, *flags, source, "-o", program], capture_output=True)
    run = [str(program), *(["-runs=1"] if "-DFUZZER" in flags else [])]
    return built.returncode == 0 and not subprocess.run(run, capture_output=True).returncode


@pytest.fixture(scope="module")
def racing_bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bd_bench under ThreadSanitizer."""
    program = tmp_path_factory.mktemp("threads") / "bd_bench"
    if not works(program, "cc", "-fsanitize=thread"):
        pytest.skip("the C compiler has no ThreadSanitizer")
    flags = ("-O1", "-g", "-fsanitize=thread", "-pthread")
    return build(program, [*SOURCES, str(RUNTIME / "bench/bd_bench.c")], *flags)


def grouped_bits() -> bytes:
    """Groups that end inside a word of the output."""
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 40, 3 * 20), np.float32)
    weights = bits.pack(signs(random, 3 * 50, 3, 3, 20))
    threshold = random.integers(-9, 10, 3 * 50, np.int32)
    direction = random.choice(np.array([-1, 1], np.int8), 3 * 50)
    constants = (weights, threshold, direction)
    return finish(*layer("binary_conv_threshold", x, constants, Window(), group=3))


PLANS = {
    "every op": lambda: every_op_plan(60),
    "groups": grouped_bits,
    "few pixels": lambda: layer_plan(5, 512, 517),
}


@pytest.mark.parametrize("name", PLANS)
def test_threads_never_write_what_another_reads(
    racing_bench: Path, name: str, tmp_path: Path
) -> None:
    (tmp_path / "model.bd").write_bytes(PLANS[name]())
    command = [racing_bench, tmp_path / "model.bd", "--threads", "3", "--runs", "2"]
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_plans_that_a_fuzzer_makes_up_do_no_harm(tmp_path: Path) -> None:
    """The first 20000 of them; CONTRIBUTING.md has the command for as many as one likes."""
    program = tmp_path / "fuzz_load"
    if not works(program, "clang-19", *FUZZER):
        pytest.skip("no clang-19 with libFuzzer")
    sources = [*SOURCES, *(str(RUNTIME / f"test/fuzz_{name}.c") for name in ("load", "plans"))]
    command = ["clang-19", "-std=c11", *FUZZER, *sources, f"-I{RUNTIME / 'include'}", "-lm"]
    subprocess.run([*command, "-pthread", "-o", program], check=True)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "ops.bd").write_bytes(every_op_plan())
    done = subprocess.run(
        [program, "plans", "-seed=1", "-runs=20000", "-max_len=65536", "-timeout=60"],
        cwd=tmp_path,
        env=os.environ | {"ASAN_OPTIONS": LIMITS},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
