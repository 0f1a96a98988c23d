"""What TVM is told of the languages of source: how C counts bits, what is rounded, literals.

Importing this registers it, for the whole process.
"""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.support.nvcc import compile_cuda

POPCOUNT = "bindeploy_popcount"

C_PRELUDE = f"""\
#include <math.h>
#include <stdint.h>
#include <string.h>
#define inff INFINITY  /* as TVM writes it */
#pragma STDC FP_CONTRACT OFF

/* Bits that are 1. Compilers know this form, and make one instruction of it where there is one. */
static inline int32_t {POPCOUNT}(uint32_t x) {{
  x = x - ((x >> 1) & 0x55555555u);
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  return (int32_t)((x * 0x01010101u) >> 24);
}}

static inline float bindeploy_float(uint32_t bits) {{
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}}
"""
"""What every C file of ours begins with."""


FROM_BITS = {"c": "bindeploy_float", "opencl": "as_float"}
"""A float of its 32 bits, in the languages whose literals TVM writes with seven digits."""


def exact_literals(kind: str) -> Any:
    """The pass that writes float32 literals by their bits, where seven digits are too few."""

    def replaced(literal: Any) -> Any:
        value = np.float32(literal.value)
        digits = np.float32(f"{value:.6e}")
        enough = np.isnan(value) or digits == value
        begins_a_maximum = value == np.finfo(np.float32).min  # TVM's passes look for it
        if str(literal.ty.dtype) != "float32" or enough or begins_a_maximum:
            return literal
        bits = tirx.const(int(value.view(np.uint32)), "uint32")
        return tirx.call_pure_extern("float32", FROM_BITS[kind], bits)

    @tvm.transform.module_pass(opt_level=0, name="ExactLiterals")
    def exact(module: tvm.IRModule, context: Any) -> tvm.IRModule:
        for name, function in module.functions_items():
            if kind in FROM_BITS and isinstance(function, tirx.PrimFunc):
                body = tvm_ffi.structural_map(function.body, [(tirx.FloatImm, replaced)])
                module[name] = function.with_body(body)
        return module

    return exact


def _popcount(call: Any) -> Any:
    return tirx.Cast("uint32", tirx.call_pure_extern("int32", POPCOUNT, *call.args))


def _absolute(call: Any) -> Any:
    return tirx.call_pure_extern("float32", "fabsf", *call.args)


tirx.register_intrin_lowering("tirx.popcount", target="c", f=_popcount)
tirx.register_intrin_lowering("tirx.fabs", target="c", f=_absolute)


@tvm.register_global_func("tvm_callback_opencl_postproc", override=True)
def _finish_opencl(code: str, target: Any) -> str:
    return "#pragma OPENCL FP_CONTRACT OFF\n" + code


def cuda_compiler() -> str | None:
    """Who compiles CUDA here: `nvcc` on PATH, or `nvrtc` of the package cuda-bindings."""
    if shutil.which("nvcc"):
        return "nvcc"
    if importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings"):
        return "nvrtc"
    return None


@tvm.register_global_func("tvm_callback_cuda_compile", override=True)
def _compile_cuda(code: str) -> Any:
    """PTX, which drivers translate for their GPU; the source itself where there is no compiler."""
    compiler = cuda_compiler()
    if compiler is None:
        return code
    return compile_cuda(code, target_format="ptx", compiler=compiler, options=["-fmad=false"])
