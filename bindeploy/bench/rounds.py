"""Rounds: every contestant once a round, so that a machine that slows down slows all of them.

A contestant is called twice a round and its second time counts: the first call brings its data
into the caches, so that none is charged for what another has left there.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bindeploy import __version__
from bindeploy.errors import BindeployError

Measured = dict[str, Any]
Progress = Callable[[int, int], None]


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    runs: int,
    progress: Progress | None = None,
) -> dict[str, list[Any]]:
    """What each contestant's second call of each round returned, after rounds that warm up."""
    if runs < 1:
        raise BindeployError(f"`--runs {runs}` measures nothing: take 1 or more")
    samples: dict[str, list[Any]] = {name: [] for name in contestants}
    for number in range(-max(2, runs // 10), runs):
        for name, contestant in contestants.items():
            contestant()
            sample = contestant()
            if number >= 0:
                samples[name].append(sample)
        if progress and number >= 0:
            progress(number + 1, runs)
    return samples


def timed(run: Callable[[], object]) -> Callable[[], int]:
    """The contestant that returns the nanoseconds `run` took."""

    def measure() -> int:
        start = time.perf_counter_ns()
        run()
        return time.perf_counter_ns() - start

    return measure


def summary(nanoseconds: list[int] | list[float]) -> Measured:
    """Median and spread in microseconds."""
    low, median, high = np.percentile(np.asarray(nanoseconds) / 1e3, [10, 50, 90])
    return {"median_us": float(median), "p10_us": float(low), "p90_us": float(high)}


def machine(threads: int = 1) -> Measured:
    """What the times were taken on."""
    import onnxruntime

    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "bindeploy": __version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's own name where the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
