"""The figures of the methods: what is drawn, and what files come of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bindeploy.errors import BindeployError
from bindeploy.train import quantizers
from bindeploy.train.methods import METHODS
from bindeploy.train.quantizers import QUANTIZERS
from bindeploy.train.schedules import SCHEDULES
from bindeploy.train.synthesis import synthesize

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install matplotlib")

from matplotlib.figure import Figure

from bindeploy.train import plots
from bindeploy.train.plots import FIGURES, Panel, plot_methods

ALL = list(QUANTIZERS.values())


def axes_of(figure, count):
    drawn = Figure()
    axes = [drawn.add_subplot(count, 1, part + 1) for part in range(count)]
    FIGURES[figure].draw(axes, Panel("title", QUANTIZERS["bnn++"]))
    return axes


def points(line):
    return torch.tensor(line.get_xydata()).T


def test_every_schedule_has_values_to_draw():
    assert plots.ILLUSTRATED.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_shows_every_method_or_says_which_it_leaves_out(figure):
    drawing = FIGURES[figure]
    shown = [name for panel in drawing.panels(ALL) for name in panel.title.split(", ")]
    left_out = drawing.left_out(ALL).rstrip(".").partition(": ")[2]
    assert sorted(shown + [name for name in left_out.split(", ") if name]) == sorted(METHODS)
    assert sum(drawing.rows(ALL), []) == drawing.panels(ALL)
    lengths = [len(row) for row in drawing.rows(ALL)]
    assert max(lengths) <= plots.MOST_COLUMNS


def test_methods_that_share_a_pair_share_a_panel():
    titles = [panel.title for panel in FIGURES["pairs"].panels(ALL)]
    assert {"fp, r, sr, ptb", "bc, bwn", "xnor, bi-real", "bnn", "bnn++"} <= set(titles)
    assert FIGURES["maps"].left_out(ALL) == "No pair, hence no map: r, sr, pq, rpc, xnor."


def test_the_curves_of_a_pair_are_its_functions():
    above, below = axes_of("pairs", 2)
    mus = plots.ILLUSTRATED["sharpness"]
    curves = above.get_lines()[: len(mus)], below.get_lines()[: len(mus)]
    for mu, forward, backward in zip(mus, *curves, strict=True):
        u, f = points(forward)
        assert torch.allclose(f, quantizers.sign_swish(u, mu))
        u, b = points(backward)
        assert torch.allclose(b, quantizers.sign_swish_slope(u, mu))


def test_the_map_of_sign_swish_is_the_identity_and_blue():
    (axes,) = axes_of("maps", 1)
    u, p = points(axes.get_lines()[0])
    assert torch.allclose(p, u, atol=1e-3)
    red, _, blue, _ = axes.get_lines()[0].get_color()
    assert blue > red
    assert [text.get_text() for text in axes.texts] == []


def test_the_map_of_a_pair_that_is_not_consistent_is_red_and_says_why():
    axes = Figure().add_subplot()
    FIGURES["maps"].draw([axes], Panel("bnn+", QUANTIZERS["bnn+"]))
    red, _, blue, _ = axes.get_lines()[0].get_color()
    assert red > blue
    assert [text.get_text() for text in axes.texts] == ["B varies where\nP is constant"]


def test_the_evolution_runs_over_the_methods_own_schedule():
    above, below = axes_of("evolution", 2)
    lines = above.get_lines()[: plots.MOMENTS]
    for line, mu in ((lines[0], 5.0), (lines[-1], 200.0)):
        u, f = points(line)
        assert torch.allclose(f, quantizers.sign_swish(u, mu))
    assert max(float(points(line)[1].max()) for line in below.get_lines()) == pytest.approx(1)


def test_a_folder_gets_a_picture_a_figure_and_a_page(tmp_path):
    erf = synthesize(surrogate=torch.erf, name="erf++")
    written = plot_methods(tmp_path / "figures", ["pc", "bnn+", erf])
    assert [path.name for path in written] == [f"{name}.png" for name in FIGURES] + ["methods.html"]
    for path in written[:-1]:
        assert path.read_bytes().startswith(b"\x89PNG")
    page = written[-1].read_text()
    assert all(f'src="{name}.png"' in page for name in FIGURES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures"]
    assert plot_methods(tmp_path / "figures", ["pc"]) == written  # one of ours is replaced


def test_a_figure_without_a_curve_is_not_drawn(tmp_path):
    pairs, page = plot_methods(tmp_path / "figures", ["r", "sr"])
    assert pairs.name == "pairs.png"
    assert page.read_text().count("<img") == 1


def test_a_file_holds_all_methods_in_the_format_of_its_ending(tmp_path):
    (path,) = plot_methods(tmp_path / "methods.svg")
    text = path.read_text()
    assert all(f">{panel.title}<" in text for panel in FIGURES["maps"].panels(ALL))
    (path,) = plot_methods(str(tmp_path / "methods.PDF"), ["bnn++"])
    content = path.read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page ") == len(FIGURES)


def test_misuse_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(BindeployError, match="unknown kind of picture `.bmp`: choose from a fold"):
        plot_methods(tmp_path / "methods.bmp")
    with pytest.raises(BindeployError, match="unknown method `b`"):
        plot_methods(tmp_path / "figures", ["b"])
    with pytest.raises(BindeployError, match="no method to draw"):
        plot_methods(tmp_path / "figures", [])
    (tmp_path / "mine").write_text("")
    with pytest.raises(BindeployError, match="was not written by bindeploy"):
        plot_methods(tmp_path, ["bc"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_matplotlib_is_imported_only_to_draw_and_without_pyplot(tmp_path):
    program = (
        "import sys; from bindeploy.train import plots; assert 'matplotlib' not in sys.modules;"
        f"plots.plot_methods({str(tmp_path / 'one.png')!r}, ['bc']);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
