"""Figures of the training methods: pairs (F, B), proximal maps P, and how mu moves them.

The curves are computed from the functions the training uses. matplotlib draws them, and is imported
inside the functions alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bindeploy.errors import BindeployError, unknown
from bindeploy.files import whole_file, whole_folder
from bindeploy.train import quantizers
from bindeploy.train.consistency import LINE, check_pair, recovered_map
from bindeploy.train.methods import METHODS
from bindeploy.train.quantizers import EXPECTED, Function, Quantizer, is_pair
from bindeploy.train.schedules import Moment, sharpness_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

ILLUSTRATED = {
    "constant": (1.0,),
    "sharpness": (1.0, 2.5, 6.0),
    "proximal": (0.1, 0.5, 1.0),
    "proxquant": (0.1, 0.5, 1.0),
    "decay": (0.5, 2.0, 10.0),
    "decay_to_sign": (0.5, 2.0, 10.0),
    "power": (1.0, 2.0, 3.0),
    "power_to_sign": (1.0, 2.0, 4.0),
}
"""mu by which a method is drawn, by its schedule: where its shape can be told from the sign's."""

RANGE = 2.0
"""Latents are drawn from -2 to 2."""

POINTS, EVERY = 2001, 20
"""Points of a curve; of a recovered map, which has many more, every twentieth."""

STEPS, EPOCH_STEPS, LEARNING_RATE = 1001, 10, 2e-3
"""The imagined training whose mu are drawn."""

MOMENTS = 9
"""Curves of an evolution, from the start of the training to its end."""

FEWEST_COLUMNS, MOST_COLUMNS = 3, 6
"""Room for so many panels in a row; rows are filled evenly."""

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 7.2, 0.42, 0.08, 0.05, 0.3
HEIGHT, TALL, ACROSS, BETWEEN, TITLE, LABEL = 0.8, 1.1, 0.3, 0.1, 0.22, 0.33
"""Inches. Of a page: its width and margins. Of a panel: the height of each of its axes, of one that
is alone, the room between panels and between its axes, for its title, and for the words below."""

DPI = 200

LETTERS = {
    "proximal": r"$\rho$",
    "proxquant": r"$\lambda$",
    "decay": "$t$",
    "decay_to_sign": "$t$",
    "power": "$o$",
    "power_to_sign": "$o$",
}
"""What mu is called where it is called otherwise, by schedule."""

STYLE: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "legend.fontsize": 5.5,
    "legend.frameon": False,
    "legend.handlelength": 0.8,
    "legend.handletextpad": 0.4,
    "legend.labelspacing": 0.15,
    "legend.borderaxespad": 0.0,
    "axes.labelsize": 7.5,
    "axes.labelpad": 1,
    "axes.titlepad": 4,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "mathtext.fontset": "stix",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

PRINCIPLED, OTHER = "Blues", "Reds"
"""Colours of the curves of pairs that are consistent, and of those that are not."""


@dataclass(frozen=True)
class Panel:
    """Methods that are drawn as one, since they share what is drawn."""

    title: str
    method: Quantizer

    @property
    def F(self) -> Function:
        return EXPECTED.get(self.method.F, self.method.F)

    @property
    def mus(self) -> tuple[float, ...]:
        return ILLUSTRATED.get(self.method.schedule, (1.0,))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the latents are."""
        clip = self.method.clip
        return LINE if clip is None else (-clip, clip)


def draw_pair(axes: Sequence[Axes], panel: Panel) -> None:
    """Forward quantizer F (above) and backward quantizer B (below)."""
    above, below = axes
    low, high = panel.interval
    u = torch.linspace(max(low, -RANGE), min(high, RANGE), POINTS, dtype=torch.float64)
    for mu, colour in zip(panel.mus, _colours(PRINCIPLED, len(panel.mus)), strict=True):
        above.plot(u, panel.F(u, mu), color=colour, label=_label(panel, mu))
        below.plot(u, panel.method.B(u, mu), color=colour)
    _frame(above, "$F$", RANGE, 1.6)
    _frame(below, "$B$", RANGE)
    _legend(above, panel)


def draw_map(axes: Sequence[Axes], panel: Panel) -> None:
    """The proximal map P recovered from the pair; in red where the pair is not consistent."""
    (only,) = axes
    reasons = []
    for index, mu in enumerate(panel.mus):
        report = check_pair(panel.F, panel.method.B, mu, panel.interval)
        palette = PRINCIPLED if report.consistent else OTHER
        u, p = recovered_map(panel.F, panel.method.B, mu, panel.interval)
        colour = _colours(palette, len(panel.mus))[index]
        only.plot(u[::EVERY], p[::EVERY], color=colour, label=_label(panel, mu))
        reasons += [] if report.consistent else [report.reason]
    _frame(only, "$P$", RANGE, RANGE)
    _legend(only, panel)
    if reasons:
        _note(only, _two_lines(reasons[0]), "lower right", color="firebrick")


def draw_evolution(axes: Sequence[Axes], panel: Panel) -> None:
    """F (above) and B / max |B| (below) as mu follows its schedule, from light to dark."""
    above, below = axes
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    for index, colour in enumerate(_colours(PRINCIPLED, MOMENTS)):
        mu = _mu_at(panel, index / (MOMENTS - 1))
        slope = panel.method.B(u, mu)
        above.plot(u, panel.F(u, mu), color=colour, linewidth=0.9)
        below.plot(u, slope / slope.abs().max(), color=colour, linewidth=0.9)
    _frame(above, "$F$", 1, 1.3)
    _frame(below, r"$B\,/\,\max\,|B|$", 1)
    below.set_ylim(-0.15, 1.15)
    first, last = round(_mu_at(panel, 0.0), 4), round(_mu_at(panel, 1.0), 4)
    _note(above, f"{_letter(panel)} = {first:g}\nto {last:g}", "upper left")


def label_progress(figure: FigureBase) -> None:
    """What the colours of an evolution mean, below its panels."""
    from matplotlib.patches import Patch

    first, *_, last = _colours(PRINCIPLED, MOMENTS)
    figure.legend(
        handles=[Patch(color=first, label="start of training"), Patch(color=last, label="end")],
        loc="lower right",
        ncols=2,
    )


@dataclass(frozen=True)
class Drawing:
    """One of the figures: which methods it shows, how one panel is drawn, and the words under it.

    Methods with the same values of `shares` share a panel, which has `parts` axes, one above the
    other; `finish` adds what belongs to the whole figure.
    """

    keep: Callable[[Quantizer], bool]
    without: str
    shares: tuple[str, ...]
    parts: int
    draw: Callable[[Sequence[Axes], Panel], None]
    caption: str
    finish: Callable[[FigureBase], None] = lambda figure: None

    def panels(self, methods: Sequence[Quantizer]) -> list[Panel]:
        """What is drawn, in the order of `methods`."""
        groups: dict[tuple, list[Quantizer]] = {}
        for method in filter(self.keep, methods):
            shared = tuple(getattr(method, field) for field in self.shares)
            groups.setdefault(shared, []).append(method)
        return [Panel(", ".join(row.name for row in rows), rows[0]) for rows in groups.values()]

    def left_out(self, methods: Sequence[Quantizer]) -> str:
        """A line that says which of `methods` are not drawn, and why; empty if all are."""
        names = [method.name for method in methods if not self.keep(method)]
        return f"{self.without}: {', '.join(names)}." if names else ""

    def rows(self, methods: Sequence[Quantizer]) -> list[list[Panel]]:
        """The panels in rows of nearly equal length."""
        panels = self.panels(methods)
        count = math.ceil(len(panels) / MOST_COLUMNS)
        columns = math.ceil(len(panels) / count)
        return [panels[row * columns : (row + 1) * columns] for row in range(count)]

    @property
    def axes_height(self) -> float:
        """Of each axes of a panel, in inches."""
        return TALL if self.parts == 1 else HEIGHT

    @property
    def panel_height(self) -> float:
        """With its title and the words below, in inches."""
        return TITLE + self.parts * (self.axes_height + BETWEEN) - BETWEEN + LABEL

    def height(self, methods: Sequence[Quantizer]) -> float:
        """In inches."""
        return TOP + len(self.rows(methods)) * self.panel_height + BOTTOM


FIGURES = {
    "pairs": Drawing(
        keep=lambda method: True,
        without="",
        shares=("F", "B", "schedule", "clip"),
        parts=2,
        draw=draw_pair,
        caption="Forward quantizer F (above) and backward quantizer B (below) over the latent"
        " weight u. Methods that share a pair share a panel; of a random F the expectation is"
        " drawn, of clipped latents where they can be.",
    ),
    "maps": Drawing(
        keep=is_pair,
        without="No pair, hence no map",
        shares=("F", "B", "schedule", "clip"),
        parts=1,
        draw=draw_map,
        caption="The map P(u), the integral of dF / B. In blue it is a proximal map: F = T(P) and"
        " B = T'(P), and training is ProxConnect on the loss of T. In red the pair is not"
        " consistent, for the reason under the panel. Clipped latents are drawn where they can"
        " be.",
    ),
    "evolution": Drawing(
        keep=lambda method: method.schedule != "constant",
        without="Without a sharpness",
        shares=("F", "B", "schedule"),
        parts=2,
        draw=draw_evolution,
        caption="F (above) and B relative to its largest value (below), from the start of training"
        " (light) to its end (dark), by each method's own schedule.",
        finish=label_progress,
    ),
}
"""Every figure by its name."""

ONE_FILE = (".pdf", ".png", ".svg")


def plot_methods(
    out: Path | str, methods: Iterable[str | Quantizer] = tuple(METHODS)
) -> list[Path]:
    """Draw `methods` (names, or Quantizers of your own) and return the files that were written.

    `out` is a folder, which gets a PNG file a figure and `methods.html` with all of them, or a file
    that ends in .pdf (one figure a page), .png or .svg (one below the other). Nothing but whole
    files is left behind. An ending that is none of these, an unknown method and a place that cannot
    be written raise BindeployError; ModuleNotFoundError without matplotlib.
    """
    import matplotlib

    out = Path(out)
    chosen = [quantizers.get(method) for method in methods]
    if not chosen:
        raise BindeployError("no method to draw: give one or more of " + ", ".join(METHODS))
    ending = out.suffix.lower()
    with matplotlib.rc_context(STYLE):
        if not ending or out.is_dir():
            return _write_folder(out, chosen)
        if ending not in ONE_FILE:
            raise unknown("kind of picture", ending, ("a folder", *ONE_FILE))
        with whole_file(out) as temporary:
            if ending == ".pdf":
                _write_pages(temporary, chosen)
            else:
                figure = _figure(list(_drawn(chosen).values()), chosen)
                figure.savefig(temporary, format=ending[1:], dpi=DPI)
    return [out]


def _write_folder(out: Path, methods: Sequence[Quantizer]) -> list[Path]:
    page = "methods.html"
    with whole_folder(out, page) as folder:
        drawn = _drawn(methods)
        for name, drawing in drawn.items():
            _figure([drawing], methods).savefig(folder / f"{name}.png", dpi=DPI)
        (folder / page).write_text(_page(drawn), encoding="utf-8")
    return [out / f"{name}.png" for name in drawn] + [out / page]


def _drawn(methods: Sequence[Quantizer]) -> dict[str, Drawing]:
    """The figures that have something to show."""
    return {name: drawing for name, drawing in FIGURES.items() if drawing.panels(methods)}


def _write_pages(path: Path, methods: Sequence[Quantizer]) -> None:
    from matplotlib.backends.backend_pdf import PdfPages

    with PdfPages(path) as pages:
        for drawing in _drawn(methods).values():
            pages.savefig(_figure([drawing], methods))


def _figure(drawings: Sequence[Drawing], methods: Sequence[Quantizer]) -> Figure:
    """`drawings` one below the other."""
    from matplotlib.figure import Figure

    heights = [drawing.height(methods) for drawing in drawings]
    figure = Figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(drawings), 1, height_ratios=heights, squeeze=False)
    for (part,), drawing in zip(parts, drawings, strict=True):
        _lay_out(part, drawing, methods)
    return figure


def _lay_out(figure: FigureBase, drawing: Drawing, methods: Sequence[Quantizer]) -> None:
    height, rows = drawing.height(methods), drawing.rows(methods)
    pitch = (WIDTH - LEFT - RIGHT + ACROSS) / max(FEWEST_COLUMNS, len(rows[0]))
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            left = LEFT + column * pitch
            top = height - TOP - row * drawing.panel_height - TITLE
            axes = []
            for part in range(drawing.parts):
                bottom = top - drawing.axes_height - part * (drawing.axes_height + BETWEEN)
                box = left, bottom, pitch - ACROSS, drawing.axes_height
                axes.append(figure.add_axes(_fractions(box, height)))
            drawing.draw(axes, panel)
            axes[0].set_title(panel.title)
            axes[-1].set_xlabel("$u$")
            for upper in axes[:-1]:
                upper.tick_params(labelbottom=False)
            if column:
                for each in axes:
                    each.set_ylabel("")
    figure.text(LEFT / WIDTH, 0.07 / height, drawing.left_out(methods), fontsize=6.5)
    drawing.finish(figure)


def _fractions(box: tuple[float, float, float, float], height: float) -> tuple:
    """(left, bottom, width, height) in inches as fractions of the figure."""
    left, bottom, across, high = box
    return left / WIDTH, bottom / height, across / WIDTH, high / height


def _frame(axes: Axes, name: str, width: float, height: float | None = None) -> None:
    """Axes from -width to width, and -height to height or as high as the curves."""
    axes.axhline(0, color="0.85", linewidth=0.5, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.5, zorder=0)
    axes.set_xlim(-width, width)
    if height is not None:
        axes.set_ylim(-height, height)
    axes.set_ylabel(name)


def _legend(axes: Axes, panel: Panel) -> None:
    if len(panel.mus) > 1:
        axes.legend(loc="upper left")


def _note(axes: Axes, words: str, place: str, color: str = "0.2") -> None:
    """Small words in a corner: an odd, rising curve leaves two of them empty."""
    vertical, horizontal = place.split()
    axes.text(
        0.02 if horizontal == "left" else 0.98,
        0.98 if vertical == "upper" else 0.02,
        words,
        ha=horizontal,
        va="top" if vertical == "upper" else "bottom",
        transform=axes.transAxes,
        fontsize=5.5,
        color=color,
    )


def _colours(palette: str, count: int) -> list:
    """`count` colours of a palette, from light to dark; of one, a dark one."""
    from matplotlib import colormaps

    lightest, darkest = 0.4, 0.95
    steps = [index / max(1, count - 1) for index in range(count)] if count > 1 else [0.8]
    return [colormaps[palette](lightest + (darkest - lightest) * step) for step in steps]


def _letter(panel: Panel) -> str:
    return LETTERS.get(panel.method.schedule, r"$\mu$")


def _label(panel: Panel, mu: float) -> str:
    return f"{_letter(panel)} = {mu:g}"


def _two_lines(reason: str) -> str:
    """A reason broken in its middle, to the width of a panel."""
    words = reason.split()
    lengths = [abs(len(" ".join(words[:cut])) - len(reason) / 2) for cut in range(len(words))]
    cut = lengths.index(min(lengths))
    return f"{' '.join(words[:cut])}\n{' '.join(words[cut:])}"


def _mu_at(panel: Panel, progress: float) -> float:
    step = round(progress * (STEPS - 1))
    moment = Moment(step, STEPS, epoch=step // EPOCH_STEPS, learning_rate=LEARNING_RATE)
    return sharpness_at(panel.method.schedule, moment)


def _page(drawn: dict[str, Drawing]) -> str:
    figures = "".join(
        f'<figure><img src="{name}.png" alt="{escape(name)}">'
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>\n"
        for name, drawing in drawn.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Training methods</title><style>"
        "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "img{width:100%}figure{margin:0 0 3em}figcaption{color:#444}"
        f"</style></head><body>\n<h1>Training methods</h1>\n{figures}</body></html>\n"
    )
