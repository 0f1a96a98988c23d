"""Whole networks beside Larq Compute Engine (LCE), in one run, round by round.

    python examples/results/compare_lce.py --environment DIR [--network quicknet ...] [--rounds 20] [--cpu 1]

The first call makes a Python environment in DIR with LCE and TensorFlow (1.9 GB) and converts the networks there with LCE's own converter.
QuickNet and Bi-Real Net come from larq_zoo and from our zoo, both with random weights, 224x224x3; both sides have to say the same number
of multiply-accumulates. Each engine runs in a process of its own, pinned to the same processor, on one thread, and is asked for one run
after the other: in each round every contestant runs once for its caches, then once timed. Printed are medians with the 10th and 90th
percentile; a ratio is taken within each round, so that a machine that slows down slows both. Trust the ratios.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bindeploy.bench import machine
from bindeploy.op_kinds import KINDS

PROGRAMS = Path(__file__).resolve().parent / "compare_lce"
sys.path.insert(0, str(PROGRAMS))

from engine import Engine  # noqa: E402

NETWORKS = ("quicknet-small", "quicknet", "quicknet-large", "bi-real-18")
SETTINGS = ("default", "indirect", "indirect + XNNPACK")
OURS = "bindeploy"

PACKAGES = (
    *("larq-compute-engine==0.16.0", "tensorflow==2.16.1", "tf_keras==2.16.0", "larq==0.14.0"),
    *("tensorflow-datasets==4.8.3", "protobuf==3.20.3", "typeguard==2.13.3"),
)
ALONE = ("larq-zoo==2.3.2", "zookeeper==1.3.4")
"""These ask for a protobuf that this TensorFlow refuses, and work with the one above: installed without what they ask for."""


def make_environment(folder: Path) -> Path:
    """The Python of LCE's environment in `folder`, made where it is not whole yet."""
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, "--no-deps", *ALONE], check=True)
        whole.touch()
    return python


def convert(python: Path, folder: Path, names: list[str]) -> None:
    """NAME.tflite once, NAME.bd every time: the one is theirs, the other is what this checkout makes."""
    folder.mkdir(exist_ok=True)
    missing = [name for name in names if not (folder / f"{name}.tflite").exists()]
    if missing:
        subprocess.run([python, PROGRAMS / "lce_networks.py", folder, *missing], check=True)
    subprocess.run([sys.executable, PROGRAMS / "our_networks.py", folder, *names], check=True)


def agree(name: str, ours: dict[str, int], theirs: dict[str, int]) -> None:
    if ours != theirs:
        raise SystemExit(f"{name}: ours has {ours} multiply-accumulates, LCE's {theirs}: these are two networks")


Times = dict[str, list[float]]
"""Milliseconds of every round, by contestant or by kind of node."""


def rounds(name: str, ours: Engine, lce: Engine, count: int) -> tuple[Times, Times]:
    times: Times = {contestant: [] for contestant in (*SETTINGS, OURS)}
    kinds: Times = {kind: [] for kind in KINDS}
    for _ in range(count):
        for setting in SETTINGS:
            times[setting].append(lce.ask(f"{name} {setting}") / 1e6)
        times[OURS].append(ours.ask(f"{name} run") / 1e6)
        for kind, nanoseconds in ours.ask(f"{name} split").items():
            kinds[kind].append(nanoseconds / 1e6)
    return times, kinds


def spread(values: list[float]) -> str:
    low, median, high = np.percentile(values, [10, 50, 90])
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = [*header]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def time_row(name: str, times: Times) -> list[str]:
    """Times with their spread, and how many times faster we are, round by round, than LCE at its best and as it comes."""
    best = min(SETTINGS, key=lambda setting: np.median(times[setting]))
    ratios = ([theirs / ours for theirs, ours in zip(times[setting], times[OURS], strict=True)] for setting in (best, "default"))
    return [name, *(spread(times[contestant]) for contestant in (*SETTINGS, OURS)), *map(spread, ratios)]


def split_row(name: str, kinds: Times) -> list[str]:
    medians = {kind: float(np.median(values)) for kind, values in kinds.items()}
    whole = sum(medians.values())
    return [name, *(f"{median:.2f} ({100 * median / whole:.1f} %)" for median in medians.values())]


def mac_row(name: str, macs: dict[str, int]) -> list[str]:
    return [name, *(f"{macs[kind] / 1e6:.1f}" for kind in ("binary", "float"))]


def report(macs: dict[str, dict[str, int]], times: dict[str, Times], kinds: dict[str, Times], told: dict[str, str]) -> str:
    contestants = [*(f"LCE {setting}, ms" for setting in SETTINGS), f"{OURS}, ms"]
    tables = (
        table(["network", *contestants, "LCE best / ours", "LCE default / ours"], [time_row(*row) for row in times.items()]),
        table(["ours, ms", *KINDS], [split_row(*row) for row in kinds.items()]),
        table(["both", "binary MMAC", "float MMAC"], [mac_row(*row) for row in macs.items()]),
        ", ".join(f"{what} {value}" for what, value in told.items()),
    )
    return "\n\n".join(tables)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, metavar="DIR")
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu", type=int, help="the processor of both engines (the last one that this process may use)")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds} measures nothing: take 1 or more")
    return given


def main() -> None:
    given = parse()
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    names, folder = given.network or [*NETWORKS], given.environment / "networks"
    python = make_environment(given.environment)
    convert(python, folder, names)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if given.cpu is None else given.cpu})
    with Engine(sys.executable, PROGRAMS / "our_engine.py", folder, *names) as ours, Engine(python, PROGRAMS / "lce_engine.py", folder, *names) as lce:
        macs = {name: lce.ask(f"{name} macs") for name in names}
        for name in names:
            agree(name, ours.ask(f"{name} macs"), macs[name])
        measured = {name: rounds(name, ours, lce, given.rounds) for name in names}
        told = {"processor": machine()["processor"], "threads": "1", "rounds": str(given.rounds)} | ours.ask("versions") | lce.ask("versions")
    times, kinds = ({name: pair[which] for name, pair in measured.items()} for which in (0, 1))
    print(report(macs, times, kinds, told))


if __name__ == "__main__":
    main()
