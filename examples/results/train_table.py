"""Train recipes with several seeds and print what they reached as a table.

    python examples/results/train_table.py --seeds 3 --data-dir D --out RUNS fashion-mnist-tiny-fp fashion-mnist-tiny-bc ...

A run that is there is not trained again, one that was interrupted goes on; Ctrl-C at any moment. `--table` only prints what is there.
"""

import argparse
import statistics
from pathlib import Path

from bindeploy.errors import BindeployError
from bindeploy.files import read_json
from bindeploy.train import recipes
from bindeploy.train.loop import train

COLUMNS = ("float", "soft", "hard")


def trained(recipe: str, seed: int, out: Path, data_dir: str | None) -> dict:
    """The description of the run, trained to its end."""
    options = recipes.load(recipe) | {"seed": seed, "data_dir": data_dir}
    data, model = options.pop("data"), options.pop("model")
    run = out / f"{recipe}-seed{seed}"
    print(f"{recipe}, seed {seed}", flush=True)
    train(data, model, **options, out=run, resume=(run / "run.json").exists())
    return read_json(run / "run.json")


def cell(values: list[float]) -> str:
    """Mean and spread in percent; a dash where nothing was measured."""
    if not values:
        return "-"
    mean = f"{100 * statistics.mean(values):.2f}"
    spread = f" ({100 * min(values):.2f} to {100 * max(values):.2f})" if len(values) > 1 else ""
    return mean + spread


def row(recipe: str, runs: list[dict]) -> str:
    cells = []
    for column in COLUMNS:
        measured = [run[f"{column}_accuracy"] for run in runs]
        cells.append(cell([value for value in measured if value is not None]))
    arguments = runs[0]["arguments"]
    seconds = statistics.median(run["seconds"] for run in runs)
    return (
        f"| {arguments['method']} | {arguments['mode']} | {' | '.join(cells)} "
        f"| {arguments['epochs']} | {len(runs)} | {seconds:.0f} | `{recipe}` |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        # Seed by seed, so that an unfinished table is a whole one of fewer seeds.
        for seed in range(given.seeds):
            for recipe in given.recipes:
                trained(recipe, seed, given.out, given.data_dir)
    print("| method | mode | full precision % | soft % | hard % | epochs | seeds | seconds | recipe |")
    print("|---|---|---|---|---|---|---|---|---|")
    for recipe in given.recipes:
        runs = [given.out / f"{recipe}-seed{seed}" / "run.json" for seed in range(given.seeds)]
        there = [read_json(run) for run in runs if run.exists()]
        finished = [run for run in there if run["finished"]]
        if finished:
            print(row(recipe, finished))


if __name__ == "__main__":
    try:
        main()
    except BindeployError as error:
        raise SystemExit(f"{error}") from None
