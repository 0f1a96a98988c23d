"""The rows of `runtime/src/kernels.inc`: the C compiler and Python read the same table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bindeploy.errors import BindeployError
from bindeploy.files import resource

ROW = re.compile(r"BD_KERNEL\((\w+), (\w+), (\d+), (\d+), (\w+), (\w+)\)")


@dataclass(frozen=True)
class Kernel:
    """One function of the runtime: `op` on tiles of `mr` pixels by `nr` filters, for one ISA.

    `op` is bgemm (bits by bits), bgemm_edge (the same of accumulated words), edge_tile (what is
    done to such words of pixels before), bgemm_threshold (bgemm_edge and its thresholds in one),
    sgemm (bits by bits, in sums of 8 bits), fgemm (float by float), fgemm_affine (fgemm, its bias
    and its limits in one), igemm (int8 by int8), wgemm (sums of activations with 1-bit signs, read
    from what `tables` made), slice_sums (the same, from `slice_tables`), bgemv and so on (the same
    for one pixel) or, with a tile of 1 by 1, binarize (float to bits), affine (bgemm's integers to
    floats) or threshold (bgemm's integers to bits);
    `out` is the type it writes: i32, f32 or b1; `name` is `bd_<op>_<out>_<mr>x<nr>__<isa>`.
    """

    op: str
    out: str
    mr: int
    nr: int
    isa: str
    name: str


def read(text: str) -> tuple[Kernel, ...]:
    """The rows of a table, in its order: slowest instruction set first, of every architecture.

    >>> read("BD_KERNEL(bgemm, i32, 4, 8, avx2, bd_bgemm_i32_4x8__avx2)")[0].isa
    'avx2'

    Raises `BindeployError` for a line that begins as a row and is none.
    """
    kernels = []
    for line in text.splitlines():
        if not line.startswith("BD_KERNEL"):
            continue
        row = ROW.fullmatch(line)
        if row is None:
            raise BindeployError(
                f"kernels.inc: `{line}` is no row: write BD_KERNEL(op, out, mr, nr, isa, name)"
            )
        op, out, mr, nr, isa, name = row.groups()
        kernels.append(Kernel(op, out, int(mr), int(nr), isa, name))
    return tuple(kernels)


KERNELS = read((resource("runtime") / "src" / "kernels.inc").read_text(encoding="utf-8"))
"""Every kernel of every architecture."""
