"""Pass: operators that cannot change the sign go, where only the sign is read.

    sign(Clip(x, a, b)) = sign(x)   iff   a < 0 <= b

For x >= 0 the clip gives min(x, b) >= 0, as b >= 0; for x < 0 it gives max(x, a) < 0, as a < 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, dialect
from bindeploy.convert.sign_flow import one_output, only_signs_are_read

SIGN = (dialect.LATENT, "BinarySign")
GIVE_SIGNS = frozenset(
    {SIGN, (dialect.DOMAIN, "BinaryMaxPool2d")}
    | {key for key, op in dialect.OPS.items() if "threshold" in op.inputs}
)


class DropClipBeforeSign(InPlacePass):
    """1. Identity, and Dropout outside training: y = x, dropped everywhere.
    2. Clip(x, a, b) with a < 0 <= b (HardTanh): dropped where only signs are read.
    3. BinarySign: sign(sign(x)) = sign(x), dropped where only signs are read, and where it reads
       the output of an op that gives signs.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in reversed(list(model.graph)):
            superfluous = _keeps_sign(node) and only_signs_are_read(node.outputs[0])
            if superfluous or _changes_nothing(node) or _is_second_sign(node):
                modified |= _drop(node)
        return PassResult(model, modified)


def _drop(node: ir.Node) -> bool:
    """Bypass the node; one that feeds an output of the graph stays, for the output's name."""
    if node.outputs[0].is_graph_output():
        return False
    constants.bypass(node)
    return True


def _changes_nothing(node: ir.Node) -> bool:
    if node.domain != "":
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or not one_output(node):
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = constants.read(node.inputs[2])
    return training is not None and not training.any()


def _is_second_sign(node: ir.Node) -> bool:
    producer = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return (
        (node.domain, node.op_type) == SIGN
        and producer is not None
        and (producer.domain, producer.op_type) in GIVE_SIGNS
    )


def _keeps_sign(node: ir.Node) -> bool:
    if (node.domain, node.op_type) == SIGN:
        return True
    if node.domain != "" or node.op_type != "Clip":
        return False
    low, high = _bound(node, 1, -np.inf), _bound(node, 2, np.inf)
    return low is not None and high is not None and low < 0 <= high


def _bound(node: ir.Node, index: int, absent: float) -> float | None:
    """A bound of Clip: `absent` where it is not given, None where it is computed."""
    if index >= len(node.inputs) or node.inputs[index] is None:
        return absent
    array = constants.read(node.inputs[index])
    return None if array is None else float(array.reshape(()))
