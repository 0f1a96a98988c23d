"""Pass: every spelling of sign becomes `bindeploy.latent::BinarySign`, which is +1 at 0.

A value that is c where x > 0 and -c where x < 0 (`sign_spellings`) is, by what it is where x = 0,

     c       c * BinarySign(x)        always
    -c      -c * BinarySign(-x)       always: x > 0 is not (-x >= 0)
     0       c * BinarySign(x)        but where x = 0: Sign(x)

Where x can never be 0, as an odd number of +-1 adds up to (`exact_zeros`), the first form serves
all three. Where it is 0 by accident alone, as a float sum can be, it does too, 0 is read as +1, and
the pass says so. Where x is often 0, Sign(x) takes three values and stays what it is.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, dialect, exact_zeros, names, notes, sign_spellings
from bindeploy.convert.exact_zeros import NEVER, OFTEN, Zeros
from bindeploy.convert.inspect import is_layer
from bindeploy.convert.names import Names
from bindeploy.convert.node_tape import Tape
from bindeploy.convert.sign_flow import gives_signs, sources
from bindeploy.convert.sign_spellings import Spelling, Spellings

ASSUMPTION = "0 read as +1"
SCALINGS = frozenset({"Mul", "Div", "Neg"})


class ImportSigns(InPlacePass):
    """1. c at x >= 0, -c elsewhere: BinarySign(x), times c where c is not 1.
    2. c at x > 0, -c elsewhere, x often 0: BinarySign(-x), times -c.
    3. c at x > 0, -c at x < 0, something else at 0, x never or seldom 0: as 1, with the note
       `ASSUMPTION` on the BinarySign where it is one.
    4. What alone computed a sign that is so replaced goes.

    x and the sign are float32 and of one shape. A sign that stays, and a choice between two other
    numbers, has the reason noted on its node, where `why_not_binary` finds it.
    """

    def call(self, model: ir.Model) -> PassResult:
        spellings = sign_spellings.read(model.graph)
        zeros: dict[ir.Value, Zeros] = {}
        modified, taken = False, names.of(model)
        for node in list(model.graph):
            output = node.outputs[0] if node.outputs else None
            if output is not None and output in spellings and _is_end(output, spellings):
                sign = _sign(output, spellings, zeros, taken)
                if sign is not None:
                    modified = True
                    zeros[sign] = Zeros(NEVER, whole=True)
                    continue
            often = exact_zeros.of(node, zeros)
            zeros.update((each, often) for each in node.outputs)
        if modified:
            model.opset_imports.setdefault(dialect.LATENT, dialect.VERSION)
            common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified)


def why_not_binary(value: ir.Value | None) -> str:
    """Why the numbers of `value` are not +-1 throughout, in words that follow a value: `preceded by
    Relu`, ``computed by Conv `stem` ``, `0 or 1`; empty where they are.
    """
    if value is None:
        return "absent"
    return next((_why(each) for each in sources(value) if not gives_signs(each)), "")


def assumption(value: ir.Value | None) -> str | None:
    """What was assumed of the signs that `value` holds, scaled or not: `ASSUMPTION`, or None."""
    waiting = [] if value is None else sources(value)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and _is_binary_sign(node) and notes.RULE in node.metadata_props:
            return node.metadata_props[notes.RULE]
        if node is not None and node.domain == "" and node.op_type in SCALINGS:
            signs = [each for each in node.inputs if each is not None and not _is_constant(each)]
            waiting.extend(source for each in signs[:1] for source in sources(each))
    return None


def _why(value: ir.Value) -> str:
    node = value.producer()
    if node is None:
        return "a constant" if value.is_initializer() else "the input of the network"
    if is_layer(node):
        return f"computed by {node.op_type} `{node.name}`"
    if notes.REASON in node.metadata_props:
        return node.metadata_props[notes.REASON]
    signs = any(map(gives_signs, node.inputs))
    if signs and node.op_type == "Pad":
        return "signs padded with 0"
    if signs and node.op_type in SCALINGS:
        return "signs times a scale"
    return f"preceded by {node.op_type}"


def _is_end(value: ir.Value, spellings: Spellings) -> bool:
    """Whether the spelling ends here: something reads the value that does not go on spelling."""
    readers = [node for node in value.consumers() if node.op_type != "Shape"]
    return value.is_graph_output() or not all(
        node.outputs and node.outputs[0] in spellings for node in readers
    )


def _sign(
    output: ir.Value, spellings: Spellings, known: dict[ir.Value, Zeros], taken: Names
) -> ir.Value | None:
    """The sign, times a constant, that now stands in the place of `output`; None where it stays."""
    spelling = spellings[output]
    node, x = output.producer(), spelling.x
    if node is None or x is None or _is_constant(x) or _is_imported(node, x):
        return None
    if not {x.dtype, output.dtype} <= {ir.DataType.FLOAT}:
        notes.reason(node, "a sign of numbers not known to be float32")
        return None
    if not sign_spellings.has_shape_of_x(spelling, spellings):
        return None
    if not spelling.is_sign:
        _say_which(node, spelling)
        return None
    _, at, above = spelling.numbers
    zeros = exact_zeros.of_value(x, known)
    op = Tape(x)
    if at == -above and zeros.often == OFTEN:
        x, above = op("Neg", x), -above
    elif at != above and zeros.often == OFTEN:
        notes.reason(node, f"Sign gives {at:g} at 0 and {zeros.why}")
        return None
    sign = op("BinarySign", x, domain=dialect.LATENT)
    if x is op.x and at != above and zeros.often != NEVER:
        notes.rule(op.nodes[-1], ASSUMPTION)
    scaled = sign if above == 1 else op("Mul", sign, above)
    op.replace(node, scaled, taken)
    return scaled


def _say_which(node: ir.Node, spelling: Spelling) -> None:
    """Note of a choice between two floats that they are not c and -c."""
    numbers = sorted(set(spelling.numbers.tolist()))
    if spelling.numbers.dtype.kind == "f" and len(numbers) == 2:
        notes.reason(node, f"{numbers[0]:g} or {numbers[1]:g}")


def _is_imported(node: ir.Node, x: ir.Value) -> bool:
    """Whether the node is BinarySign(x), or that times a constant, already."""
    if _is_binary_sign(node):
        return node.inputs[0] is x
    makers = [value.producer() for value in node.inputs if value is not None]
    return node.op_type in SCALINGS and any(map(_is_binary_sign, makers))


def _is_binary_sign(node: ir.Node | None) -> bool:
    return node is not None and (node.domain, node.op_type) == (dialect.LATENT, "BinarySign")


def _is_constant(value: ir.Value) -> bool:
    return constants.read(value) is not None
