"""Single layers as a figure: time over multiply-accumulates, and the rate beneath its roof.

matplotlib draws it, and is imported inside the function alone.
"""

from __future__ import annotations

from pathlib import Path

from bindeploy.bench.rounds import Measured
from bindeploy.errors import BindeployError
from bindeploy.files import whole_file

FORMATS = (".png", ".svg", ".pdf")

OTHERS = {"int8_us": "onnxruntime int8", "float32_us": "onnxruntime float32"}


def check_figure(path: Path) -> None:
    """Before anything is measured: whether a figure can be written there.

    Raises BindeployError for a name or a folder that cannot be; ModuleNotFoundError without
    matplotlib.
    """
    import matplotlib  # noqa: F401

    if path.suffix not in FORMATS:
        raise BindeployError(f"`{path}` is no figure's name: end it with {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise BindeployError(f"`{path}`: there is no folder `{path.absolute().parent}`")


def plot_layers(rows: list[Measured], machine: Measured, path: Path) -> None:
    """Write the figure; the format follows the name.

    Left: the time of each layer over its multiply-accumulates, and the least time that the rate of
    the instruction set's own operations allows. Right: the rates, that one as the roof.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    times, rates = figure.subplots(1, 2)
    for isa in dict.fromkeys(row["isa"] for row in rows):
        of_isa = sorted((r for r in rows if r["isa"] == isa), key=lambda row: row["macs"])
        macs = [row["macs"] / 1e6 for row in of_isa]
        (line,) = times.loglog(macs, [row["median_us"] for row in of_isa], "o-", label=isa)
        color = line.get_color()
        times.loglog(
            macs,
            [row["macs"] / row["peak_gmacs"] / 1e3 for row in of_isa],
            ":",
            color=color,
            label=f"{isa}, words in registers",
        )
        rates.semilogx(macs, [row["gmacs"] for row in of_isa], "o-", color=color, label=isa)
        rates.semilogx(macs, [row["peak_gmacs"] for row in of_isa], ":", color=color)
    first = sorted((r for r in rows if r["isa"] == rows[0]["isa"]), key=lambda row: row["macs"])
    for key, name in OTHERS.items():
        if all(key in row for row in first):
            macs = [row["macs"] / 1e6 for row in first]
            (line,) = times.loglog(macs, [row[key] for row in first], "s--", label=name)
            speeds = [row["macs"] / row[key] / 1e3 for row in first]
            rates.semilogx(macs, speeds, "s--", color=line.get_color(), label=name)
    times.set(xlabel="million multiply-accumulates", ylabel="µs", title="time of a layer")
    rates.set(xlabel="million multiply-accumulates", ylabel="GMAC/s", title="rate, and its roof")
    rates.set_ylim(bottom=0)
    for axes in (times, rates):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] > 1)
    figure.suptitle(f"{machine['processor']}, {threads}", fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))
