"""The table of kernels, its names and its files agree."""

import re

import pytest

from bindeploy.errors import BindeployError
from bindeploy.files import resource
from bindeploy.kernels import KERNELS, Kernel, read

SOURCES = resource("runtime") / "src"
OUTPUTS = {
    "bgemm": "i32",
    "bgemv": "i32",
    "fgemv": "f32",
    "fgemm": "f32",
    "binarize": "b1",
    "binarize_planes": "b1",
    "binarize_within": "b1",
    "binarize_planes_within": "b1",
    "affine": "f32",
    "threshold": "b1",
    "peak": "u64",
    "faffine": "f32",
    "fprelu": "f32",
    "affine_prelu": "f32",
    "fdepthwise": "f32",
    "bdepthwise": "i32",
    "fmax": "f32",
    "fmean": "f32",
    "map": "f32",
    "softmax": "f32",
    "layer_norm": "f32",
}
ISAS = [
    *("scalar", "popcnt", "avx2", "avx512"),
    *("neon", "neon_wide", "neon_dotprod", "zbb", "simd128"),
]
CHANNEL_BY_CHANNEL = {
    *("faffine", "fprelu", "affine_prelu", "binarize_within", "binarize_planes_within"),
    *("fdepthwise", "bdepthwise", "fmax", "fmean"),
}
OF_TRANSFORMERS = {"map", "softmax", "layer_norm"}
FEWER = {
    "popcnt": {"bgemm", "bgemv", "peak"},
    "neon_wide": set(),
    "neon_dotprod": set(),
    "zbb": {"bgemm", "bgemv", "fgemm"},
    "simd128": set(OUTPUTS) - {"peak"} - CHANNEL_BY_CHANNEL - OF_TRANSFORMERS,
}
"""What these do not speed up has no row of theirs; channel by channel, scalar rows are vectors."""

ONE_PIXEL = {("tables", "f32"), ("tables", "i16"), ("wgemv", "f32"), ("wgemv", "i32")}
BY_TABLES = {("wgemm", "f32"), ("wgemm", "i32")}
BY_SLICES = {(op, out) for op in ("slice_tables", "slice_sums") for out in ("f32", "i16")}
TOGETHER = (
    *(ONE_PIXEL, BY_TABLES, BY_SLICES),
    {("igemm", "i32"), ("igemv", "i32")},
    {("sgemm", "i32"), ("sgemv", "i32")},
)
"""Ops that an ISA has all of or none."""
by_name = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def enumerator(name: str) -> int:
    """A constant of kernel.h."""
    found = re.search(rf"\b{name} = (\d+)", (SOURCES / "kernel.h").read_text())
    assert found
    return int(found[1])


@by_name
def test_a_name_says_what_its_row_says(kernel):
    tile = f"{kernel.mr}x{kernel.nr}"
    assert kernel.name == f"bd_{kernel.op}_{kernel.out}_{tile}__{kernel.isa}"


@by_name
def test_a_kernel_stands_in_the_file_of_its_isa(kernel):
    homes = [path.stem for path in SOURCES.glob("kernels/*.c") if defines(path, kernel.name)]
    kinds = "_(float|edge|edge_32|channels|weights|int8|dotprod|functions|saturating)$"
    assert {re.sub(kinds, "", home) for home in homes} == {kernel.isa.split("_")[0]}


def defines(path, name: str) -> bool:
    return (
        re.search(
            rf"^(void |uint64_t |#define \w+ |[A-Z_]+\(){name}\b", path.read_text(), re.MULTILINE
        )
        is not None
    )


@by_name
def test_a_tile_fits_the_drivers_buffer(kernel):
    assert 1 <= kernel.mr <= enumerator("BD_MAX_MR")
    assert 1 <= kernel.nr <= enumerator("BD_MAX_NR")


def test_names_are_unique():
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS)


@pytest.mark.parametrize("isa", ISAS)
def test_every_isa_has_every_op_it_can_speed_up(isa):
    """Edges pay where a vector is counted at once; what follows products at once with them."""
    ops = FEWER.get(isa, OUTPUTS)
    rows = {(kernel.op, kernel.out) for kernel in KERNELS if kernel.isa == isa}
    edges = {("bgemm_edge", "i32"), ("edge_tile", "u64"), ("bgemm_threshold", "b1")}
    fused = {("fgemm_affine", "f32")}
    assert rows - edges - fused - set().union(*TOGETHER) == {(op, OUTPUTS[op]) for op in ops}
    for together in TOGETHER:
        assert rows & together in (set(), together)
    assert rows.issuperset(BY_TABLES) + rows.issuperset(BY_SLICES) == rows.issuperset(ONE_PIXEL)


def test_isas_stand_together_slowest_first():
    assert list(dict.fromkeys(kernel.isa for kernel in KERNELS)) == ISAS
    order = [ISAS.index(kernel.isa) for kernel in KERNELS]
    assert order == sorted(order)


def test_rows_keep_the_tables_order():
    rows = (
        "BD_KERNEL(bgemm, i32, 4, 8, neon, b)\n#if 1\nBD_KERNEL(fgemm, f32, 1, 2, neon, a)\n#endif"
    )
    assert read(rows) == (
        Kernel("bgemm", "i32", 4, 8, "neon", "b"),
        Kernel("fgemm", "f32", 1, 2, "neon", "a"),
    )


def test_a_broken_row_is_an_error_that_shows_it():
    with pytest.raises(BindeployError, match=r"`BD_KERNEL\(bgemm, i32, 4\)` is no row"):
        read("BD_KERNEL(bgemm, i32, 4)")
