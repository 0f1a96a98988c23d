"""Pass: operators that cannot change the sign go, where only the sign is read.

    sign(Clip(x, a, b)) = sign(x)   iff   a < 0 <= b
    sign(c * x)         = sign(x)   iff   c > 0
    sign(PRelu(x, s))   = sign(x)   iff   s > 0
    sign(tanh(x))       = sign(x)

For x >= 0 the clip gives min(x, b) >= 0, as b >= 0; for x < 0 it gives max(x, a) < 0, as a < 0. A
product with x < 0 is negative, unless it is so small (below 2^-150) that float32 rounds it to -0.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import channelwise, dialect, notes
from bindeploy.convert.channelwise import Function
from bindeploy.convert.channelwise_operators import read_anywhere
from bindeploy.convert.sign_flow import GIVE_SIGNS, only_signs_are_read


class DropClipBeforeSign(InPlacePass):
    """1. Identity, and Dropout outside training: y = x, dropped everywhere.
    2. Clip(x, a, b) with a < 0 <= b (HardTanh), Tanh, Softsign, LeakyRelu and PRelu of positive
       slopes, Mul and Div by positive constants: dropped where only signs are read.
    3. BinarySign: sign(sign(x)) = sign(x), dropped where only signs are read, and where it reads
       the output of an op that gives signs.

    Relu and its like, of which only signs are read, make +1 of everything. They stay, as nobody can
    have meant that, and the layers that read them say so.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in reversed(list(model.graph)):
            function = read_anywhere(node)
            if function is None or node.outputs[0].is_graph_output():
                continue
            needless = function.keeps_sign and only_signs_are_read(node.outputs[0])
            if needless or function.changes_nothing or _is_second_sign(function):
                channelwise.bypass(function)
                modified = True
            elif function.never_negative and only_signs_are_read(node.outputs[0]):
                _say_constant(function)
        return PassResult(model, modified)


def _is_second_sign(function: Function) -> bool:
    producer = function.x.producer()
    return (
        function.binarizes
        and producer is not None
        and (producer.domain, producer.op_type) in GIVE_SIGNS
    )


def _say_constant(function: Function) -> None:
    """Once, however often the pass runs."""
    node = function.node
    text = f"input +1 everywhere after {node.op_type} `{node.name}`"
    for layer in _layers(node.outputs[0]):
        if text not in layer.metadata_props.get(notes.RULE, ""):
            notes.rule(layer, text)


def _layers(value: ir.Value) -> Iterator[ir.Node]:
    """The layers that read `value`, at once or through operators that keep its signs."""
    waiting = [value]
    while waiting:
        for node, _ in waiting.pop().uses():
            op = dialect.op_of(node)
            if op is not None and "bits" in op.inputs:
                yield node
            elif node.op_type != "Shape":
                waiting.extend(node.outputs[:1])
