"""Layers of bits by the C runtime inside of a TVM module: chains of them become plans.

A chain begins anywhere and goes on as long as what it computes is signs that one layer alone reads,
so that bits never leave the runtime between its layers. Its plan is data of the module itself, read
in place, and one call of C runs it: `runtime/tvm/chains.c`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tvm.tirx.script import builder as T

from bindeploy.convert import constants, dialect
from bindeploy.emit.plan import lower
from bindeploy.emit.tvm.processor import kernel
from bindeploy.emit.tvm.values import Values, shape_of
from bindeploy.errors import BindeployError

OP = "RuntimeChain"
"""What a chain is in the graph: x, and attributes `number` and `shape` (NCHW, or of features)."""

CALL = "bd_run_chain"
"""int32 (number of the chain, x, y): runtime/tvm/chains.c."""

GIVES_SIGNS = ("Threshold", "BinaryMaxPool2d", "BinarySign")
"""How the names of ops end whose result is signs."""

TO_FIRST, TO_LAST = {4: [0, 3, 1, 2], 3: [0, 1, 2]}, {4: [0, 2, 3, 1], 3: [0, 1, 2]}


def take_chains(model: ir.Model) -> list[bytes]:
    """Put every chain of `model` into one node, in place; return their plans, by number."""
    plans: list[bytes] = []
    taken: set[ir.Node] = set()
    for node, _ in list(dialect.layers(model)):
        if node not in taken:
            chain = _chain(node)
            taken.update(chain)
            plans.append(_plan(chain))
            _replace(model.graph, chain, len(plans) - 1)
    constants.remove_unused(model.graph)
    return plans


def _chain(first: ir.Node) -> list[ir.Node]:
    chain = [first]
    while chain[-1].op_type.endswith(GIVES_SIGNS):
        output = chain[-1].outputs[0]
        uses = list(output.uses())
        if len(uses) != 1 or output.is_graph_output() or dialect.op_of(uses[0].node) is None:
            break
        chain.append(uses[0].node)
    return chain


def _shape(value: ir.Value, node: ir.Node) -> list[int]:
    """The sizes of one image."""
    sizes = [size for size in list(value.shape or [])[1:] if isinstance(size, int)]
    if not sizes or len(sizes) != len(value.shape or []) - 1:
        raise BindeployError(f"node `{node.name}`: the shape of `{value.name}` is not known")
    return [1, *sizes]


def _plan(chain: Sequence[ir.Node]) -> bytes:
    """The chain alone as a plan that takes and gives channels last."""
    source = chain[0].inputs[0]
    assert source is not None
    shape = _shape(source, chain[0])
    graph = ir.Graph([], [], nodes=[], name="chain", opset_imports={"": 20, "bindeploy": 1})
    last = shape if len(shape) != 4 else [shape[axis] for axis in TO_LAST[4]]
    x = ir.Value(name="x", shape=ir.Shape(last), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(x)
    value = _turned(graph, x, TO_FIRST, "first")
    for node in chain:
        inputs = [value, *(_copied(graph, constant) for constant in node.inputs[1:])]
        copy = ir.node(
            node.op_type, inputs, node.attributes, domain=node.domain, name=node.name or ""
        )
        graph.append(copy)
        value = copy.outputs[0]
        value.shape, value.type = node.outputs[0].shape, node.outputs[0].type
    graph.outputs.append(_turned(graph, value, TO_LAST, "last"))
    return lower(ir.Model(graph, ir_version=dialect.IR_VERSION)).to_bytes()


def _copied(graph: ir.Graph, constant: ir.Value | None) -> ir.Value:
    array = constants.read(constant)
    assert constant is not None and array is not None, "the dialect's weights are constants"
    return constants.initializer(graph, constant.name or "constant", array)


def _turned(graph: ir.Graph, value: ir.Value, axes: Mapping[int, list[int]], name: str) -> ir.Value:
    rank = len(value.shape or [])
    if rank != 4:
        return value
    turn = ir.node("Transpose", [value], {"perm": axes[rank]}, name=name)
    graph.append(turn)
    (turned,) = turn.outputs
    turned.type = value.type
    assert value.shape is not None
    turned.shape = ir.Shape([value.shape[axis] for axis in axes[rank]])
    return turned


def _replace(graph: ir.Graph, chain: Sequence[ir.Node], number: int) -> None:
    old = chain[-1].outputs[0]
    node = ir.node(
        OP,
        chain[0].inputs[:1],
        {"number": number, "shape": _shape(old, chain[-1])},
        domain=dialect.DOMAIN,
        name=chain[-1].name or "",
    )
    node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
    ir.convenience.replace_nodes_and_values(
        graph, chain[-1], chain[::-1], [node], [old], node.outputs
    )


def run_chain(values: Values, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    """RuntimeChain, as the importer meets it."""
    shape = [int(size) for size in attributes["shape"]]
    last = values.channels_last(inputs[0])
    rank = None if len(shape) == 4 else shape
    out = [shape[axis] for axis in TO_LAST[4]] if rank is None else _row(shape)
    function = _call(int(attributes["number"]), shape_of(last), out)
    return values.from_last(values.call(function, [last], out, "float32"), rank)


def _row(shape: Sequence[int]) -> list[int]:
    return [1, 1, math.prod(shape[1:-1]), shape[-1]]


def _call(number: int, x_shape: Sequence[int], y_shape: Sequence[int]) -> Any:
    with kernel("runtime_chain") as builder:
        x = T.arg("x", T.Buffer(tuple(x_shape), "float32"))
        y = T.arg("y", T.Buffer(tuple(y_shape), "float32"))
        T.evaluate(T.call_extern("int32", CALL, number, x.data, y.data))
    return builder.get()


def write_data(plans: Sequence[bytes], folder: Path) -> Path:
    """A C file in `folder` whose data are the plans; it finds them beside itself when compiled."""
    rows, assembly = [], []
    for number, plan in enumerate(plans):
        file = folder / f"chain{number}.bd"
        file.write_bytes(plan)
        name = f"bd_chain_{number}"
        assembly.append(
            f'__asm__(".section .rodata\\n.balign 64\\n{name}: .incbin \\"{file}\\"\\n.text");\n'
            f'extern const uint8_t {name}[] __attribute__((visibility("hidden")));\n'
        )
        rows.append(f"    {{{name}, {len(plan)}}},\n")
    path = folder / "chains_data.c"
    path.write_text(
        '#include "tvm/chains.h"\n\n'
        + "".join(assembly)
        + f"\nconst struct bd_chain bd_chains[] = {{\n{''.join(rows)}}};\n"
        + f"const size_t bd_chain_count = {len(plans)};\n",
        encoding="utf-8",
    )
    return path
