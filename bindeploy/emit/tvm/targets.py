"""What TVM and our kernels are told about the machine of a `Target`: its table `tvm`."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import tvm

from bindeploy.emit.tvm.processor import GPUS, WORD, Processor
from bindeploy.errors import BindeployError
from bindeploy.target import Target, targets

OURS = ("lanes", "sums", "burst")
"""Keys of the table that are for our kernels; the others are TVM's."""

LANGUAGES = ("c", *GPUS)
"""Kinds whose kernels are source."""

NATIVE = "native"
"""The `mcpu` of this machine, whatever it is."""

ARCHITECTURES = ("aarch64", "arm", "i686", "riscv", "thumb", "x86_64")
"""How the triples begin that TVM may be asked about: it crashes on one that LLVM does not know."""

VECTORS = {
    "avx512vpopcntdq": {"lanes": 16, "sums": 16},
    "avx2": {"lanes": 8, "sums": 8, "burst": True},
    "sse2": {"lanes": 4, "sums": 8},
    "dotprod": {"lanes": 4, "sums": 16},
    "neon": {"lanes": 4, "sums": 16, "burst": True},
}
"""What a processor has for our kernels where the target does not say: by the first of these
features that it has."""

PAIRS = {"aarch64": "llvm.aarch64.neon.uaddlp"}
"""LLVM's name of the instruction that adds neighbours, by architecture."""

SCALAR = {"lanes": 1, "sums": 16}


@dataclass(frozen=True)
class Described:
    """A target as TVM describes one, and the processor that kernels are written for."""

    target: Any
    processor: Processor


def describe(target: Target) -> Described:
    """`target` for TVM; BindeployError for one that TVM cannot compile for."""
    if not target.tvm:
        known = ", ".join(known.name for known in targets() if known.tvm)
        raise BindeployError(
            f"target `{target.name}` has no table `tvm`: choose from {known}, or add one"
        )
    given = {key: value for key, value in target.tvm.items() if key not in OURS}
    if given["kind"] in LANGUAGES:
        host = {"host": {"kind": "llvm"}} if given["kind"] in GPUS else {}
        return Described(tvm.target.Target(given | host), Processor(kind=given["kind"]))
    if given.get("mcpu") == NATIVE:
        given["mcpu"] = tvm.target.codegen.llvm_get_system_cpu()
    triple = given.get("mtriple")
    if triple is not None:
        _check_triple(triple, target)
    try:
        described = tvm.target.Target(given)
        _check_words(described, target)
        return Described(described, _processor(described, target))
    except BindeployError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())
        raise BindeployError(f"TVM does not take target `{target.name}`: {line}") from error


def _check_triple(triple: str, target: Target) -> None:
    """Architecture, maker, system and interface: LLVM reads three words as another machine's."""
    if not triple.startswith(ARCHITECTURES) or triple.count("-") != 3:
        raise BindeployError(
            f"target `{target.name}`: `tvm.mtriple` is `{triple}`: four words, as in "
            f"aarch64-unknown-linux-gnu, the first of them one of {', '.join(ARCHITECTURES)}"
        )


def _check_words(described: Any, target: Target) -> None:
    """TVM takes any word for a processor or a feature, and compiles without it then."""
    cpu = target.tvm.get("mcpu", NATIVE)
    if cpu != NATIVE and cpu not in tvm.target.codegen.llvm_get_cpu_archlist(described):
        raise BindeployError(f"target `{target.name}`: LLVM knows no `tvm.mcpu` `{cpu}`")
    features = tvm.target.codegen.llvm_get_cpu_features(described)
    for word in target.tvm.get("mattr", []):
        known = word[1:] in features if word.startswith("+") else word.startswith("-")
        if not known:
            raise BindeployError(
                f"target `{target.name}`: LLVM knows no `{word}` of `tvm.mattr`: as in +neon"
            )
    lanes = target.tvm.get("lanes", 1)
    if WORD % lanes:
        raise BindeployError(f"target `{target.name}`: `tvm.lanes` is {lanes}: 1, 2, 4, 8, 16, 32")


def _processor(described: Any, target: Target) -> Processor:
    """Of the target's own numbers, and of what LLVM knows of its features where it gives none."""
    with described:
        has = tvm.target.codegen.llvm_cpu_has_features
        found = next((VECTORS[name] for name in VECTORS if has(name)), SCALAR)
        x86 = has("avx2")
    ours = {key: target.tvm[key] for key in OURS if key in target.tvm}
    architecture = str(target.tvm.get("mtriple", platform.machine())).partition("-")[0]
    return Processor(**(found | ours), x86=x86, pairs=PAIRS.get(architecture, ""))
