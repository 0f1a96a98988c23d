"""Single binary layers beside onnxruntime: the tables and the figure of binary_layers.md.

    OMP_NUM_THREADS=1 taskset -c 1 python examples/results/binary_layers.py [--runs 50]

Each table is what `bindeploy bench --kernels` prints with the options above it. The two threads of the last table run where the system
puts them: take `taskset -c 0,1` away or give it two cores.
"""

import argparse
import os
from pathlib import Path

from bindeploy import tables
from bindeploy.bench import SETS, bench_layers, machine
from bindeploy.bench.plots import plot_layers
from bindeploy.bench.rounds import Measured

HERE = Path(__file__).parent
PAGE, FIGURE = HERE / "binary_layers.md", HERE / "binary_layers.svg"


def table(rows: list[Measured], threads: int = 1) -> str:
    console = tables.console(record=True)
    tables.layers(rows, machine(threads), console)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def section(title: str, options: str, text: str) -> str:
    return f"## {title}\n\n`bindeploy bench --kernels {options}`\n\n```\n{text}\n```\n\n"


def beside_the_round_one(rows: list[Measured]) -> str:
    """The rate of each odd shape over that of the layer of 3x3 taps and a multiple of 64 channels on the same map."""
    usual = {shape.split("x")[0]: shape for shape in SETS["standard"]}
    rates = {row["shape"]: row["gmacs"] for row in rows}
    lines = ["| shape | GMAC/s | of the round shape's |", "|---|---|---|"]
    for shape, rate in rates.items():
        share = rate / rates[usual[shape.split("x")[0]]]
        lines.append(f"| {shape} | {rate:,.0f} | {share:.2f} |")
    return "\n".join(lines) + "\n\n"


def on_two_cores(shapes: tuple[str, ...], runs: int) -> str:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return table(list(bench_layers(shapes, runs=runs, threads=2)), threads=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    runs = parser.parse_args().runs
    page = f"# Single binary layers\n\nMade by `python examples/results/{Path(__file__).name}`. Medians of {runs} rounds, all contestants in each.\n\n"
    standard = list(bench_layers(SETS["standard"], ("avx512", "avx2", "popcnt", "scalar"), "onnxruntime", runs))
    isas = "--isa avx512 --isa avx2 --isa popcnt --isa scalar"
    page += section("Beside onnxruntime, one thread", f"{isas} --compare onnxruntime", table(standard))
    odd = list(bench_layers(SETS["odd"], runs=runs))
    page += section("Shapes that are not round", "--set odd", table(odd)) + beside_the_round_one(odd)
    growing = list(bench_layers(SETS["channels"], compare="onnxruntime", runs=runs))
    plot_layers(growing, machine(), FIGURE)
    options = f"--set channels --compare onnxruntime --plot {FIGURE.name}"
    page += section("From 32 to 1024 channels", options, table(growing)) + f"![{FIGURE.stem}]({FIGURE.name})\n\n"
    page += section("Two threads", "--threads 2", on_two_cores(SETS["standard"], runs))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
