"""Measure: bundles layer by layer, single layers, and other engines beside them in the same run."""

from bindeploy.bench.bundles import bench_bundle, bench_on
from bindeploy.bench.layers import COMPARISONS, SETS, bench_layers
from bindeploy.bench.rounds import interleaved, machine, summary, timed

__all__ = [
    "COMPARISONS",
    "SETS",
    "bench_bundle",
    "bench_layers",
    "bench_on",
    "interleaved",
    "machine",
    "summary",
    "timed",
]
