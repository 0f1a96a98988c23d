"""What rounding does to training, in four pictures and three tables of exact numbers.

python examples/theory.py [--out DIR]

BinaryConnect's average misses the minimum by a floor that only a finer grid lowers. Stochastic
rounding ends in one distribution whatever its step size, and smaller steps only take longer to get
there; with full precision smaller steps do find the minimum. Needs matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from bindeploy.train import theory

SPACINGS = (1, 1 / 2, 1 / 4, 1 / 8)
STEP_SIZES = (0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.001)
SHOWN = STEP_SIZES[:4]
FINE = 1 / 45
"""A grid this fine stands for full precision, down to the smallest step size shown."""

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#c8553d"
SHADES = ("#bcd4de", "#7fb0c6", "#3f86a8", "#12546f")
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


def shares(rate: float, spacing: float) -> torch.Tensor:
    """Where training ends up: the stationary share of the unit cell around each of -3 ... 3."""
    chain = theory.stochastic_rounding_chain(rate, spacing)
    cells = (theory.states(spacing) - theory.states()[0]).round().long()
    ends = torch.zeros(len(theory.states()), dtype=torch.float64)
    return ends.index_add(0, cells, theory.stationary_distribution(chain))


def draw_floor(axes: Axes) -> None:
    fine = torch.logspace(-4, 0, 1200, base=2, dtype=torch.float64).tolist()
    floors = [theory.accuracy_floor(spacing) for spacing in fine]
    bounds = [theory.accuracy_floor_bound(spacing) for spacing in fine]
    axes.loglog(fine, bounds, color=ACCENT, linestyle="--")
    axes.loglog(fine, floors, color=SHADES[1], linewidth=1.2)
    axes.annotate("bound  $D L_2 \\Delta / 2$", (0.13, 1.1), color=ACCENT)
    axes.annotate("0 where the minimizer\nis on the grid", (0.32, 2e-8), color=MUTED, fontsize=9)
    for spacing in SPACINGS:
        floor = theory.accuracy_floor(spacing)
        axes.plot(spacing, floor, "o", color=SHADES[3], markersize=6)
        above = {"xytext": (-4, 7), "textcoords": "offset points", "ha": "right"}
        axes.annotate(f"{floor:.1e}", (spacing, floor), color=SHADES[3], fontsize=9, **above)
    axes.set_xticks([1 / 16, *SPACINGS], ["1/16", "1", "1/2", "1/4", "1/8"])
    axes.minorticks_off()
    axes.set(ylim=(1e-9, 10), xlabel="grid step $\\Delta$", ylabel="$F - F^*$")
    axes.set_title("BinaryConnect has an accuracy floor")
    axes.grid()


def draw_mixing(axes: Axes) -> None:
    times = [theory.mixing_time(theory.stochastic_rounding_chain(rate)) for rate in STEP_SIZES]
    line = [times[0] * STEP_SIZES[0] / rate for rate in STEP_SIZES]
    axes.loglog(STEP_SIZES, line, color=ACCENT, linestyle="--")
    axes.loglog(STEP_SIZES, times, "o", color=SHADES[3], markersize=6)
    for rate, time in zip(STEP_SIZES, times, strict=True):
        right = {"xytext": (7, 3), "textcoords": "offset points"}
        axes.annotate(f"{time:,}", (rate, time), color=SHADES[3], fontsize=9, **right)
    axes.annotate("$\\propto 1 / \\alpha$", (0.0016, 3200), color=ACCENT)
    axes.set_xticks([0.2, 0.05, 0.0125, 0.001], ["0.2", "0.05", "0.0125", "0.001"])
    axes.minorticks_off()
    axes.set(xlim=(0.0007, 0.4), ylim=(30, 30_000))
    axes.set(xlabel="step size $\\alpha$", ylabel="steps until 0.05 from its end")
    axes.set_title("Stochastic rounding: smaller steps only take longer")
    axes.grid()


def draw_shares(axes: Axes, spacing: float, title: str) -> None:
    width = 0.2
    for index, (rate, shade) in enumerate(zip(SHOWN, SHADES, strict=True)):
        middles = theory.states() + (index - (len(SHOWN) - 1) / 2) * width
        heights = shares(rate, spacing).tolist()
        axes.bar(middles.tolist(), heights, 0.9 * width, color=shade, label=f"{rate:g}")
    axes.set(ylim=(0, 1), xlabel="weight $w$", ylabel="share of the time, in the end")
    axes.set_title(title)
    axes.grid(axis="y")
    well = axes.twinx()
    line = torch.linspace(-3.4, 3.4, 200).tolist()
    well.plot(line, [theory.double_well(w) for w in line], color=ACCENT, linewidth=1.2)
    well.annotate("loss", (3.0, 1.4), color=ACCENT, ha="right")
    well.set(ylim=(-0.5, 5), yticks=[])
    well.spines.right.set_visible(False)


def draw(path: Path) -> None:
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
        draw_floor(panels[0, 0])
        draw_mixing(panels[0, 1])
        draw_shares(panels[1, 0], 1.0, "Stochastic rounding: no step size finds the minimum")
        draw_shares(panels[1, 1], FINE, "Full precision: small steps do")
        for axes in panels[1]:
            axes.legend(title="step size $\\alpha$", loc="upper right")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def print_tables() -> None:
    print("BinaryConnect on exp(w) - e^0.3 w: the floor of its average, and the bound")
    print(f"{'Delta':>8} {'F - F*':>10} {'bound':>10}")
    for spacing in SPACINGS:
        floor, bound = theory.accuracy_floor(spacing), theory.accuracy_floor_bound(spacing)
        print(f"{spacing:>8g} {floor:>10.2e} {bound:>10.2e}")

    print("\nStochastic rounding in a double well: steps to its end, and its share of each weight")
    print(f"{'alpha':>8} {'steps':>8}  " + " ".join(f"{w:>6.0f}" for w in theory.states()))
    for rate in STEP_SIZES:
        time = theory.mixing_time(theory.stochastic_rounding_chain(rate))
        print(f"{rate:>8g} {time:>8}  " + " ".join(f"{share:.4f}" for share in shares(rate, 1.0)))

    print("\nFull precision in the same double well: its share of the unit around each weight")
    for rate in SHOWN:
        print(f"{rate:>8g} {'':>8}  " + " ".join(f"{share:.4f}" for share in shares(rate, FINE)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("theory"), help="folder of theory.png")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    print_tables()
    draw(out / "theory.png")
    print(f"\n{out / 'theory.png'}")


if __name__ == "__main__":
    main()
