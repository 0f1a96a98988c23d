"""The runtime's sources and one command that compiles them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from plan_builder import RUNTIME

SOURCES = sorted(
    str(path)
    for pattern in ("src/*.c", "src/ops/*.c", "src/kernels/*.c")
    for path in RUNTIME.glob(pattern)
)
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build(output: Path, sources: Sequence[str], *flags: str) -> Path:
    command = ["cc", "-std=c11", *flags, *sources, f"-I{RUNTIME / 'include'}", "-lm"]
    subprocess.run([*command, "-o", str(output)], check=True)
    return output
