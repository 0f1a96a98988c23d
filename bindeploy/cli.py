"""The command line: the same names as the Python API.

Results go to stdout, progress to stderr; `--json` prints one object, or one object a line. Exit
status 0 is success, 1 a check that failed, 2 misuse, 130 an interruption. Everything but click is
imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from bindeploy import __version__
from bindeploy.errors import BindeployError, not_installed, unknown
from bindeploy.train.settings import Settings

INTERRUPTED = 130


class FromTable(click.Option):
    """An option whose help ends with the names of a table, read when that help is asked for."""

    def __init__(self, *arguments: Any, table: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.table = table

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        module, _, name = self.table.partition(":")
        names = ", ".join(getattr(import_module(module), name))
        said, self.help = self.help, f"{self.help or ''} {names}.".strip()
        try:
            return super().get_help_record(context)
        finally:
            self.help = said


class Road(click.Group):
    """A group whose errors are one line and exit with 2."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        standalone = options.pop("standalone_mode", True)
        run: Any = super().main
        if not standalone:
            return run(*arguments, **options, standalone_mode=False)
        try:
            status = run(*arguments, **options, standalone_mode=False)
        except BindeployError as error:
            _fail(str(error))
        except ModuleNotFoundError as error:
            known = not_installed(error)
            if known is None:
                raise
            _fail(str(known))
        except click.ClickException as error:
            _fail(" ".join(error.format_message().split()))
        except (click.Abort, KeyboardInterrupt):
            _say("interrupted")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # Whoever read stdout has gone; Python must not find that out again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:
            _fail(f"`{error.filename or 'a file'}`: {error.strerror or error}: check the path")
        except MemoryError as error:
            _fail(f"out of memory ({error}): give a smaller model or free some")
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    """Of the processes that train together on a machine, the first says what went wrong."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        click.echo(f"bindeploy: {message}", err=True)


def _print_json(value: Any) -> None:
    from bindeploy.files import json_text

    click.echo(json_text(value))


def _console(record: bool = False) -> Any:
    from bindeploy.tables import console

    return console(record)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
out_folder = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder.")


def edges(command: Callable) -> Callable:
    """The two options of the layers whose weights stay numbers."""
    calibrate = click.option(
        "--calibrate",
        metavar="DATA",
        type=click.Path(path_type=Path),
        help="Inputs to fit --edges to, as the network reads them: .npy, .npz, or a folder.",
    )
    kind = click.option(
        "--edges",
        cls=FromTable,
        table="bindeploy.convert.quantize_edges:EDGES",
        help="What layers whose weights stay numbers (the first, the last) become:",
    )
    return kind(calibrate(command))


@click.group(cls=Road, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bindeploy")
def main() -> None:
    """Train binary neural networks, pack them into bits, run the bits anywhere."""


def _of_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each field of a training's settings.

    What is not given stays None, so that a recipe can fill it in.
    """
    for each in reversed(fields(Settings)):
        facts = each.metadata
        kind, table = facts["kind"], facts["table"]
        name = f"--{each.name.replace('_', '-')}"
        options: dict[str, Any] = {"default": None, "type": kind, "help": _help(each)}
        if kind is bool:
            name += f"/--no-{each.name.replace('_', '-')}"
        if facts["many"]:
            options["multiple"] = True
        if table is not None:
            options |= {"cls": FromTable, "table": table}
        command = click.option(name, **options)(command)
    return command


def _help(each: Field) -> str:
    """What the option is, and its default, which click is not told of."""
    said, default = each.metadata["help"], each.default
    if default in (MISSING, None, ()):
        return said
    if isinstance(default, tuple):
        default = ", ".join(default)
    shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
    return f"[default: {shown}]  {said}".strip()


@main.command()
@click.option("--recipe", help="Options from a file, by name or path; others given here win.")
@_of_settings
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in --out.")
@out_folder
@as_json
def train(recipe: str | None, out: Path, resume: bool, as_json: bool, **arguments: Any) -> None:
    """Train a network with binary weights."""
    from bindeploy.train import devices, loop, recipes

    given = {name: value for name, value in arguments.items() if value not in (None, ())}
    options = {**(recipes.load(recipe) if recipe else {}), **given}
    data, model = options.pop("data", None), options.pop("model", None)
    result = loop.train(data, model, **options, out=out, resume=resume, progress=True)
    if not devices.is_main():
        return
    if as_json:
        _print_json(result)
        return
    for kind in ("float", "soft", "hard"):
        accuracy = result[f"{kind}_accuracy"]
        click.echo(f"{kind:5} accuracy  {_percent(accuracy)}  {_ACCURACIES[kind]}")
    epochs = f"{result['epochs']} epoch{'' if result['epochs'] == 1 else 's'}"
    click.echo(f"{epochs}, {result['seconds']:.0f} s: {out}")


_ACCURACIES = {
    "float": "the same network in full precision",
    "soft": "weights as training uses them",
    "hard": "in bits: what is shipped",
}


def _percent(accuracy: float | None) -> str:
    return "      -" if accuracy is None else f"{100 * accuracy:5.2f} %"


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="See `bindeploy targets`, or a TOML file.")
@click.option(
    "--format",
    "format_",
    cls=FromTable,
    table="bindeploy.bundle.formats:FORMATS",
    default="runtime",
    show_default=True,
)
@click.option(
    "--tvm-kernels",
    help="Who computes the layers of bits, with --format tvm: own (the default), runtime.",
)
@edges
@out_folder
@as_json
def export(
    source: Path,
    target: str,
    format_: str,
    tvm_kernels: str | None,
    edges: str | None,
    calibrate: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Pack a RUN or an ONNX file into a bundle for a target."""
    from bindeploy import target as targets
    from bindeploy.bundle import from_source

    bundle = from_source(
        source,
        targets.load(target),
        out,
        format=format_,
        edges=edges,
        calibrate=calibrate,
        tvm_kernels=tvm_kernels,
        progress=_note,
    )
    files = {
        str(path.relative_to(bundle.path)): path.stat().st_size
        for path in sorted(bundle.path.rglob("*"))
        if path.is_file()
    }
    if as_json:
        _print_json({"bundle": str(bundle.path), "target": bundle.target, "files": files})
        return
    from bindeploy.tables import size

    for name, count in files.items():
        click.echo(f"{size(count):>10}  {name}")
    click.echo(f"{bundle.path}")


def _note(line: str) -> None:
    """One line of progress, on stderr."""
    click.echo(f"  {line}", err=True)


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--explain", is_flag=True, help="Say of each layer what was binarized, or why not.")
@edges
@click.option(
    "--weight-only",
    cls=FromTable,
    table="bindeploy.convert.pipeline:WEIGHT_ONLY",
    help="What dense layers of 1-bit weights and float inputs become, for stock onnxruntime:",
)
@as_json
def convert(
    source: Path,
    destination: Path,
    explain: bool,
    edges: str | None,
    calibrate: Path | None,
    weight_only: str | None,
    as_json: bool,
) -> None:
    """Pack the binary layers of an ONNX file into bits."""
    from bindeploy.convert import calibration, pipeline
    from bindeploy.convert.quantize_edges import EDGES
    from bindeploy.emit import onnx as portable

    if destination.exists() and source.exists() and destination.samefile(source):
        raise BindeployError(f"`{destination}` is the source itself: give another name to write to")
    if edges not in (None, *EDGES):
        raise unknown("--edges", edges, EDGES)
    if (edges is None) != (calibrate is None):
        raise click.UsageError("--edges and --calibrate go together")
    if weight_only not in (None, *pipeline.WEIGHT_ONLY):
        raise unknown("--weight-only", str(weight_only), pipeline.WEIGHT_ONLY)
    model = pipeline.load(source)
    images = None if calibrate is None else calibration.for_model(calibrate, model)
    conversion = pipeline.run(model, images, weight_only)
    layers = [layer.__dict__ for layer in conversion.layers]
    packed = sum(layer["binarized"] for layer in layers)
    if packed:
        portable.save(conversion.model, destination)
    if as_json:
        _print_json({"layers": layers})
    elif explain:
        from bindeploy import tables

        tables.explain(layers, _console())
    elif packed:
        click.echo(f"{destination}: {packed} of {len(layers)} layers packed into bits")
    if not packed:
        raise pipeline.nothing_binarized(model, conversion)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--on",
    cls=FromTable,
    table="bindeploy.on:PLACES",
    help="Where it must run (default: wherever it can):",
)
@as_json
def verify(bundle: Path, on: str | None, as_json: bool) -> None:
    """Check that every engine computes the same."""
    from bindeploy.bundle import Bundle
    from bindeploy.bundle import verify as check

    result = check(Bundle.open(bundle), on=on, progress=_note)
    if as_json:
        _print_json(result)
    else:
        from bindeploy import tables

        tables.verify(result, _console())
    sys.exit(0 if result["ok"] else 1)


@main.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--kernels", is_flag=True, help="Time single binary convolutions instead.")
@click.option("--shape", "shapes", multiple=True, help="HxWxCxF:KxK[:stride], with --kernels.")
@click.option(
    "--set",
    "set_name",
    cls=FromTable,
    table="bindeploy.bench.layers:SETS",
    help="Many shapes at once, with --kernels:",
)
@click.option("--isa", "isas", multiple=True, help="Hold to this instruction set.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option(
    "--on",
    cls=FromTable,
    table="bindeploy.on:PLACES",
    help="Where to time the bundle's own program or module (default: in this process):",
)
@click.option(
    "--compare",
    cls=FromTable,
    table="bindeploy.bench:COMPARISONS",
    help="Who runs the same in float32 (single layers also in int8) in the same rounds:",
)
@click.option("--runs", default=50, show_default=True, type=click.IntRange(min=1))
@click.option("--html", type=click.Path(path_type=Path), help="Also write the tables as a page.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Also draw the layers and the roof over them, with --kernels: a .png, .svg or .pdf.",
)
@as_json
def bench(
    bundle: Path | None,
    kernels: bool,
    shapes: tuple[str, ...],
    set_name: str | None,
    isas: tuple[str, ...],
    threads: int,
    on: str | None,
    compare: str | None,
    runs: int,
    html: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time a bundle layer by layer, or single layers."""
    if kernels == (bundle is not None):
        raise click.UsageError("give either a BUNDLE or --kernels")
    if (shapes or set_name or plot) and not kernels:
        raise click.UsageError("--shape, --set and --plot go with --kernels")
    if shapes and set_name:
        raise click.UsageError("give --shape or --set")
    if len(isas) > 1 and not kernels:
        raise click.UsageError("a bundle takes one --isa")
    if on and (kernels or isas or compare or threads > 1):
        raise click.UsageError("--on takes a BUNDLE, without --isa, --threads and --compare")
    out = _console(record=html is not None)
    if on and bundle:
        _bench_on(bundle, on, runs, as_json, out)
    elif bundle is None:
        from bindeploy.bench import SETS, bench_layers

        if plot:
            from bindeploy.bench.plots import check_figure

            check_figure(plot)
        if set_name and set_name not in SETS:
            raise unknown("set of shapes", set_name, SETS)
        shapes = shapes or SETS[set_name or "standard"]
        _bench_layers(
            bench_layers(shapes, isas, compare, runs, threads), threads, as_json, out, plot
        )
    else:
        _bench_bundle(bundle, isas[0] if isas else None, compare, runs, threads, as_json, out)
    if html:
        from bindeploy.tables import save_html

        save_html(out, html)


@contextmanager
def _bar(length: int, label: str) -> Iterator[Callable[[int, int], None] | None]:
    """What shows progress on a terminal; elsewhere nothing, so that a log stays short."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda done, _: bar.update(done - bar.pos)


def _bench_bundle(
    path: Path,
    isa: str | None,
    compare: str | None,
    runs: int,
    threads: int,
    as_json: bool,
    out: Any,
) -> None:
    from bindeploy import bench, tables
    from bindeploy.bundle import Bundle

    opened = Bundle.open(path)
    with _bar(runs, "rounds") as progress:
        report = bench.bench_bundle(opened, runs, compare, isa, threads, progress)
    if as_json:
        _print_json(report)
    else:
        tables.bench(report, out)


def _bench_on(path: Path, on: str, runs: int, as_json: bool, out: Any) -> None:
    from bindeploy import bench, tables
    from bindeploy.bundle import Bundle

    report = bench.bench_on(Bundle.open(path), on, runs)
    if as_json:
        _print_json(report)
    else:
        tables.bench(report, out)


def _bench_layers(
    measured: Iterator[dict[str, Any]], threads: int, as_json: bool, out: Any, plot: Path | None
) -> None:
    from bindeploy import tables
    from bindeploy.bench import machine

    rows = []
    for row in measured:
        rows.append(row)
        if as_json:
            _print_json(row)
        else:
            _note(f"{row['shape']} {row['isa']}: {row['gmacs']:,.0f} GMAC/s")
    if not as_json:
        tables.layers(rows, machine(threads), out)
    if plot:
        from bindeploy.bench.plots import plot_layers

        plot_layers(rows, machine(threads), plot)


@main.command()
@click.argument("path", metavar="MODEL|BUNDLE|RUN", type=click.Path(path_type=Path))
@as_json
def inspect(path: Path, as_json: bool) -> None:
    """Count operations, parameters and bytes, binary and float apart."""
    from bindeploy.bundle import inspect as look

    report = look(path)
    if as_json:
        _print_json(report)
    else:
        from bindeploy import tables

        tables.inspect(report, _console())


@main.command()
@as_json
def targets(as_json: bool) -> None:
    """List what a bundle can be built for."""
    from bindeploy.target import targets as all_targets

    columns = ("name", "title", "family", "isa", "toolchain")
    _list(
        "targets",
        columns,
        [{key: getattr(t, key) for key in columns} for t in all_targets()],
        as_json,
    )


@main.command()
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw them, into this folder.")
@as_json
def methods(plot: Path | None, as_json: bool) -> None:
    """List the training methods and where they are from."""
    from bindeploy.train.methods import METHODS

    if plot is not None:
        from bindeploy.train.plots import plot_methods

        plot_methods(plot)

    columns = ("name", "forward", "backward", "consistent", "principled", "source")
    rows = [{key: getattr(method, key) for key in columns} for method in METHODS.values()]
    # For a person, `principled` says in words what `consistent` is.
    shown = tuple(column for column in columns if column != "consistent")
    _list("methods", columns if as_json else shown, rows, as_json)


def _list(title: str, columns: tuple[str, ...], rows: list[dict], as_json: bool) -> None:
    if as_json:
        for row in rows:
            _print_json(row)
        return
    from bindeploy.tables import listing

    listing(title, columns, rows, _console())


if __name__ == "__main__":
    main()
