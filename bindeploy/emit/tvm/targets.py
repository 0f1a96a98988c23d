"""What TVM and our kernels are told about the machine of a `Target`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm

from bindeploy.emit.tvm.processor import Processor
from bindeploy.errors import BindeployError
from bindeploy.target import Target


@dataclass(frozen=True)
class Described:
    """A target as TVM describes one, and the processor that kernels are written for."""

    target: Any
    processor: Processor


def describe(target: Target) -> Described:
    """`target` for TVM; BindeployError for one that TVM cannot compile for."""
    if target.toolchain != "installed":
        raise BindeployError(f"target `{target.name}` is not known to TVM: choose from host")
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    described = tvm.target.Target({"kind": "llvm", "mcpu": cpu})
    return Described(described, _processor(described))


def _processor(target: Any) -> Processor:
    with target:
        if tvm.target.codegen.llvm_cpu_has_features("avx512vpopcntdq"):
            return Processor(lanes=16, sums=16, x86=True)
        if tvm.target.codegen.llvm_cpu_has_features("avx2"):
            return Processor(lanes=8, sums=8, x86=True, burst=True)
    return Processor(lanes=4, sums=16)
