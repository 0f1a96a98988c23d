"""What a step of binarized training costs beside the same network in a plain PyTorch loop.

    OMP_NUM_THREADS=1 python examples/results/step_time.py [--model resnet20] [--rounds 5] [--method bnn++ ...]

Random images of CIFAR-10's shape. In each round every row takes the same steps, one row after the other, so that whatever else the
machine does falls on all of them; medians over all steps, the slowest and fastest tenth as spread. Trust the ratios.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as functional

from bindeploy.train import models, quantizers, updates
from bindeploy.train.batches import Batches
from bindeploy.train.data import DATASETS, Dataset, Split
from bindeploy.train.module import Phase, Progress, fit
from bindeploy.train.settings import settings

BATCH, STEPS, IMAGES_OF_AN_EPOCH = 128, 6, 50_000


def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (BATCH * STEPS, 3, 32, 32), np.uint8)
    split = Split(images, generator.integers(0, 10, BATCH * STEPS))
    return Dataset(split, split, tuple("0123456789"), DATASETS["cifar10"])


def batches(data: Dataset) -> Batches:
    return Batches(data, None, BATCH, 0, 0)


def network(model: str, method: str | None, mode: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build(model, 3, 10, 32, method, mode).to(memory_format=torch.channels_last)


def plain(model: str, precision: str, mode: str, data: Dataset) -> list[float]:
    """Seconds of each step but the first of the loop that everybody writes."""
    trained = network(model, None, mode)
    optimizer = torch.optim.Adam(trained.parameters(), lr=2e-3)
    moments = [time.perf_counter()]
    for images, labels in batches(data):
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = functional.cross_entropy(trained(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())
        moments.append(time.perf_counter())
    return [later - earlier for earlier, later in zip(moments[1:], moments[2:])]


def ours(model: str, precision: str, method: str | None, mode: str, data: Dataset) -> list[float]:
    """The same of our own loop."""
    quantizer = None if method is None else quantizers.get(method)
    given = settings({"data": "cifar10", "model": model, "method": method or "fp", "precision": precision, "epochs": 1})
    trained = network(model, method, mode)
    updates.start(trained)
    moments = [time.perf_counter()]

    def stepped(done: int, loss: float) -> None:
        moments.append(time.perf_counter())

    phase = Phase(trained, quantizer, given, Progress(0, STEPS, STEPS), {}, None, stepped, lambda phase: None)
    fit(phase, batches(data), 1)
    return [later - earlier for earlier, later in zip(moments[1:], moments[2:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--method", action="append")
    parser.add_argument("--mode", action="append")
    given = parser.parse_args()
    data = dataset()
    binarized = [(method, mode) for method in given.method or ["bc", "bnn++"] for mode in given.mode or ["bw", "bwa"]]
    modes = list(dict.fromkeys(mode for _, mode in binarized))
    # The full-precision network of a mode has its nonlinearity: ReLU, or hardtanh where a sign follows.
    rows: dict[tuple[str, str], list[float]] = {("plain loop", mode): [] for mode in modes}
    rows |= {("fp", mode): [] for mode in modes} | {pair: [] for pair in binarized}
    for _ in range(given.rounds):
        for (method, mode), times in rows.items():
            if method == "plain loop":
                times += plain(given.model, given.precision, mode, data)
            else:
                times += ours(given.model, given.precision, None if method == "fp" else method, mode, data)
    print(f"| {given.model}, {given.precision} | mode | seconds an epoch | 10th to 90th percentile | of the plain loop |")
    print("|---|---|---|---|---|")
    for (method, mode), steps in rows.items():
        epoch = [step * IMAGES_OF_AN_EPOCH / BATCH for step in steps]
        low, *_, high = statistics.quantiles(epoch, n=10)
        print(f"| {method} | {mode} | {statistics.median(epoch):.1f} | {low:.1f} to {high:.1f} | {statistics.median(steps) / statistics.median(rows['plain loop', mode]):.2f} |")
    print(
        f"\n{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, torch {torch.__version__},"
        f" batch {BATCH}, an epoch of {IMAGES_OF_AN_EPOCH} images, {given.rounds} interleaved rounds"
    )


if __name__ == "__main__":
    main()
