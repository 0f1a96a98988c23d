"""What a person reads: each report as a table. Nothing is computed here that `--json` lacks."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

PLAIN_WIDTH = 144
"""Columns of a table that goes to a file or a pipe."""


def console(record: bool = False) -> Console:
    """Standard output; as wide as the terminal, or PLAIN_WIDTH where there is none."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, record=record, highlight=False, emoji=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose columns are left-aligned, or right-aligned where the name starts with `>`."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        right = column.startswith(">")
        drawn.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def number(value: float | None, digits: int = 1) -> str:
    """A number with thousands separators; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def size(count: int) -> str:
    """Bytes in the unit that reads best."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{count} B"


def measured_on(machine: Row) -> str:
    """The line under every time: machine, threads, versions."""
    isa = f", {machine['isa']}" if "isa" in machine else ""
    return (
        f"{machine['processor']}, {machine['system']}{isa}, "
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}; "
        f"bindeploy {machine['bindeploy']}, onnxruntime {machine['onnxruntime']}, "
        f"Python {machine['python']}"
    )


def bench(report: Row, out: Console) -> None:
    """Per layer and in all, beside onnxruntime float32 where it was measured.

    A layer that several kernels compute stands beside their sum.
    """
    compare = report.get("compare", {})
    others = compare.get("layers", {})
    columns = ["layer", "op", "kernel", ">MMAC", ">µs", ">GMAC/s"]
    columns += [">float32 µs", ">ratio"] if compare else []
    spent: dict[str, float] = defaultdict(float)
    for layer in report["layers"]:
        spent[layer["name"]] += layer["median_us"]

    def row(layer: Row) -> list[str]:
        microseconds = layer["median_us"]
        speed = layer["macs"] / microseconds / 1e3 if layer["macs"] and microseconds else None
        cells = [
            layer["name"],
            layer["op"],
            layer["kernel"].removeprefix("bd_"),
            number(layer["macs"] / 1e6, 2) if layer["macs"] else "-",
            number(microseconds),
            number(speed),
        ]
        if compare:
            other = others.get(layer["name"], {}).get("median_us") if layer["macs"] else None
            ratio = other / spent[layer["name"]] if other else None
            cells += [number(other), number(ratio)]
        return cells

    if report["layers"]:
        out.print(table(f"{report['bundle']}", columns, map(row, report["layers"])))
    total = report["total"]
    out.print(
        f"whole network: {number(total['median_us'])} µs median of {report['runs']} "
        f"({number(total['p10_us'])} to {number(total['p90_us'])}, 10th to 90th percentile)"
    )
    if runtime := report.get("runtime"):
        out.print(_runtime(runtime))
    if compare:
        other = compare["total"]
        out.print(
            f"{compare['engine']}, the same layers with float weights: "
            f"{number(other['median_us'])} µs "
            f"({number(other['p10_us'])} to {number(other['p90_us'])}): "
            f"[bold]{number(other['ratio'])} times ours[/bold]"
        )
    if whole := sum(report.get("split_us", {}).values()):
        kinds = (f"{kind} {us / whole:.0%}" for kind, us in report["split_us"].items() if us)
        out.print(f"of the layers' time: {', '.join(kinds)}")
    if memory := report["memory"]:
        parts = ", ".join(f"{name.removesuffix('_bytes')} {size(memory[name])}" for name in memory)
        out.print(f"peak memory: {size(sum(memory.values()))} ({parts})")
    out.print(measured_on(report["machine"]), style="dim")


def _runtime(runtime: Row) -> str:
    """Our runtime beside a module that TVM compiled."""
    if "reason" in runtime:
        return f"our runtime does not run it: {runtime['reason']}"
    total = runtime["total"]
    return (
        f"our runtime, the same network: {number(total['median_us'])} µs "
        f"({number(total['p10_us'])} to {number(total['p90_us'])}): "
        f"{number(total['ratio'], 2)} times this"
    )


def layers(rows: list[Row], machine: Row, out: Console) -> None:
    """Single layers from bits to bits and from float to float, onnxruntime's beside them."""
    columns = [">shape", ">isa", ">µs", ">p10", ">p90", ">GMAC/s", ">of peak"]
    keys = ["median_us", "p10_us", "p90_us", "gmacs"]
    speedup = ["speedup"] if any("speedup" in row for row in rows) else []
    compared = any("ratio_int8" in row for row in rows)
    others = ["int8_us", "ratio_int8", "float32_us", "ratio_float32"] if compared else []
    whole = ["whole_us"] + (["ratio_whole"] if compared else [])
    columns += [">speed-up"] if speedup else []
    columns += [">int8 µs", ">ratio", ">float32 µs", ">ratio"] if compared else []
    columns += [">from float"] + ([">ratio"] if compared else [])

    def cells(row: Row) -> list[str]:
        found = [row["shape"], row["isa"], *(number(row[key]) for key in keys)]
        found += [f"{row['share']:.0%}", *(number(row[key], 2) for key in speedup)]
        return found + [number(row.get(key)) for key in others + whole]

    out.print(
        table(
            "binary convolutions, packed bits in to thresholded bits out", columns, map(cells, rows)
        )
    )
    out.print(
        "of peak: the share of the rate of xor, popcount and add on words that stay in registers. "
        "Ratios: onnxruntime's time over ours. From float: float NCHW in to float NCHW out, called "
        "from Python, packing included, against float32."
    )
    out.print(measured_on(machine), style="dim")


def verify(result: Row, out: Console) -> None:
    """One row an engine: are the integers, logits and classes those of the reference?"""

    def cells(engine: Row) -> list[str]:
        off = engine["max_logit_difference"]
        return [
            engine["name"],
            "equal" if engine["integers_equal"] else "DIFFER",
            "-" if off is None else f"{off:.1e}",
            "equal" if engine["classes_equal"] else "DIFFER",
            engine.get("difference") or engine.get("note") or "",
        ]

    columns = ["engine", "integers", ">logits off by", "classes", ""]
    out.print(table("verify", columns, map(cells, result["engines"])))
    for skipped in result.get("skipped", []):
        out.print(f"skipped: {skipped['name']}: {skipped['reason']}")
    out.print("all engines agree" if result["ok"] else "[bold red]the engines disagree[/bold red]")


def inspect(report: Row, out: Console) -> None:
    """Layer by layer: shapes, multiply-accumulates of both kinds, parameters, bytes."""
    columns = ["layer", "op", "output", ">binary MAC", ">float MAC", ">binary", ">float", ">bytes"]

    def cells(layer: Row) -> list[str]:
        counts = ("binary_macs", "float_macs", "binary_parameters", "float_parameters", "bytes")
        shape = "x".join(str(length) for length in layer["output_shape"] or ["?"])
        return [layer["name"], layer["op"], shape, *(f"{layer[key]:,}" for key in counts)]

    out.print(table("layers", columns, map(cells, report["layers"])))
    total = report["total"]
    out.print(
        f"total: {total['binary_macs']:,} binary and {total['float_macs']:,} float "
        f"multiply-accumulates, {total['parameters']:,} parameters"
    )
    stored = total.get("file_bytes", total["bytes"])
    share = f", {total['float_bytes'] / stored:.1f} times smaller" if stored else ""
    what = "file" if "file_bytes" in total else "weights"
    out.print(f"{what}: {size(stored)}; as float32 {size(total['float_bytes'])}{share}")
    if "file" in total:
        parts = ", ".join(f"{part} {size(count)}" for part, count in total["file"].items())
        out.print(f"of which {parts}")


def explain(layers: list[Row], out: Console) -> None:
    """A line a layer: binarized by which rule, or left in numbers and why."""

    def kept_as(layer: Row) -> str:
        if layer["binarized"]:
            return "bits"
        return "int8" if layer["op"].startswith("Int8") else "float"

    def cells(layer: Row) -> list[str]:
        return [
            layer["name"],
            kept_as(layer),
            layer.get("rule") or layer.get("reason") or "",
            f"{layer['macs']:,}",
            size(layer["bytes"]),
        ]

    columns = ["layer", "kept as", "why", ">MAC", ">size"]
    out.print(table("layers", columns, map(cells, layers)))


def listing(title: str, columns: Sequence[str], rows: list[Row], out: Console) -> None:
    """Rows of a table of the project's own: targets, methods."""
    words = {True: "yes", False: "no"}
    values = ([words.get(row[column], str(row[column])) for column in columns] for row in rows)
    out.print(table(title, columns, values))


def save_html(out: Console, path: Path) -> None:
    """What a recording console printed, as one page."""
    from bindeploy.files import whole_file

    with whole_file(path) as temporary:
        temporary.write_text(out.export_html(inline_styles=True))
