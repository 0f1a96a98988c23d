"""Pass: the straight-through estimator, as training code writes it and exporters keep it, goes.

A network that is trained through a sign s is often written with the gradient of another function b
(Bengio et al., 2013): its value is that of s, its derivative that of b.

    (s - b) + b  =  b + (s - b)  =  (s + b) - b  =  s + (b - b)  =  s

so the forward graph only adds the rounding of two float sums, at most 1 ulp of max(|s|, |b|)
each, which this pass takes away again: the network computes s, as its author meant.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import sign_spellings
from bindeploy.convert.sign_flow import MOVES


class DropStraightThrough(InPlacePass):
    """1. Add(Sub(s, b), b) and Add(b, Sub(s, b)): s.
    2. Sub(Add(s, b), b) and Sub(Add(b, s), b): s.
    3. Add(s, Sub(b, b)) and Add(Sub(b, b), s): s.
    4. What b alone was computed by goes too.

    s is a sign in any spelling, also times constants, or a choice between constants by a sign; so
    rounding by adding and subtracting a large number is never touched. Identity (which exporters
    write for `detach`) may stand anywhere between.
    """

    def call(self, model: ir.Model) -> PassResult:
        signs = _signs(model.graph)
        modified = False
        for node in list(model.graph):
            found = ((s, b) for s, b in _estimates(node) if s in signs and _is_as_large(s, b))
            sign, _ = next(found, (None, None))
            output = node.outputs[0] if node.outputs else None
            if sign is not None and output is not None and not output.is_graph_output():
                ir.convenience.replace_all_uses_with(output, sign)
                modified = True
        if modified:
            common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


def _estimates(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Every s and b of which the node computes s + b - b in one of the orders above."""
    if node.domain != "" or node.op_type not in ("Add", "Sub") or len(node.inputs) != 2:
        return
    left, right = map(_origin, node.inputs)
    pairs = []
    if node.op_type == "Sub":
        first, second = _inputs(left, "Add")
        pairs = [(first, second, right), (second, first, right)]
    else:
        for inner, other in ((left, right), (right, left)):
            first, second = _inputs(inner, "Sub")
            pairs += [(first, second, other), (other, first, second)]
    for s, b, same in pairs:
        if s is not None and b is not None and b is same:
            yield s, b


def _is_as_large(s: ir.Value, b: ir.Value) -> bool:
    """Whether s + b has the shape of s; two unknown sizes are taken to be one, as s comes of b."""
    if s.shape is None or b.shape is None or len(b.shape) > len(s.shape):
        return False
    pairs = zip(reversed(tuple(b.shape)), reversed(tuple(s.shape)), strict=False)
    return all(
        size == 1 or size == other or (not isinstance(size, int) and other != 1)
        for size, other in pairs
    )


def _inputs(value: ir.Value | None, kind: str) -> tuple[ir.Value | None, ir.Value | None]:
    """Both inputs of the standard node of that kind that makes `value`; nothing for another."""
    node = value.producer() if value is not None else None
    if node is None or (node.domain, node.op_type) != ("", kind) or len(node.inputs) != 2:
        return None, None
    first, second = map(_origin, node.inputs)
    return first, second


def _origin(value: ir.Value | None) -> ir.Value | None:
    """What `value` is another name of, through Identity."""
    while value is not None:
        node = value.producer()
        if node is None or (node.domain, node.op_type) != ("", "Identity"):
            break
        value = node.inputs[0]
    return value


def _signs(graph: ir.Graph) -> set[ir.Value]:
    """The floats that a sign chooses: signs, times constants, moved, and Where a sign chooses.

    A constant is here also what is computed of constants alone (mean |w| of a weight w).
    """
    spellings = sign_spellings.read(graph)
    constant: set[ir.Value] = set()
    found: set[ir.Value] = set()

    def is_constant(value: ir.Value | None) -> bool:
        return value is not None and (value.is_initializer() or value in constant)

    for node in graph:
        if node.domain != "" or not node.outputs:
            continue
        output, inputs = node.outputs[0], node.inputs
        spelling = spellings.get(output)
        if node.op_type == "Constant" or (inputs and all(map(is_constant, inputs))):
            constant.update(node.outputs)
        if spelling is not None and spelling.is_sign:
            found.add(output)
        elif node.op_type == "Where" and inputs[0] in spellings:
            if all(map(is_constant, inputs[1:])):
                found.add(output)
        elif node.op_type in MOVES | {"Neg"} and inputs and inputs[0] in found:
            found.add(output)
        elif node.op_type in ("Mul", "Div") and len(inputs) == 2:
            left, right = inputs
            if (left in found and is_constant(right)) or (
                node.op_type == "Mul" and right in found and is_constant(left)
            ):
                found.add(output)
    return found
