"""Pass: a Pad before a convolution becomes the convolution's own padding.

    Conv(Pad(x, v))          = Conv(x) that pads with v    v = 0 for a standard Conv
    BinaryConv2d(Pad(x, v))  = the same with sign(v)       it takes the sign of what it reads

The dialect pads with 1 or 0; a binarizing layer reads sign(v) = +1 for v >= 0, so its pad_value is
1, and a padding of -1 stays where it is. Larq and the networks after XNOR-Net write their padding
of ones this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import constants, dialect, notes
from bindeploy.convert.sign_flow import only_consumer

SIGN = (dialect.LATENT, "BinarySign")


class AbsorbPadding(InPlacePass):
    """1. Pad with 0 -> Conv, over any number of axes.
    2. Pad with v -> a convolution of the dialect that binarizes, v >= 0: pad_value 1.
    3. Pad with 0 or 1 -> BinaryWeightConv2d: pad_value 0 or 1.

    In 2 and 3 also through BinarySign and an Unsqueeze that makes an image of a row, where nothing
    else reads them. Pad is constant, over axes that are convolved, and takes nothing away; a
    convolution that already pads does so with the same number.
    """

    def call(self, model: ir.Model) -> PassResult:
        modified = False
        for node in model.graph:
            while _is_convolution(node) and (padding := _padding(node)) is not None:
                if not _absorb(node, padding):
                    break
                modified = True
        return PassResult(model, modified)


@dataclass(frozen=True)
class Padding:
    """A Pad, what it means to the convolution that reads it, and the nodes between, last first.

    `value` is what a padded tap reads; `before` and `after` are counts along the convolved axes.
    """

    node: ir.Node
    value: float
    before: list[int]
    after: list[int]
    between: Sequence[ir.Node]


def _is_convolution(node: ir.Node) -> bool:
    if (node.domain, node.op_type) == ("", "Conv"):
        return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    op = dialect.op_of(node)
    return op is not None and "pad_value" in op.attributes


def _padding(node: ir.Node) -> Padding | None:
    """The Pad before a convolution; None where there is none, or none that can be taken in."""
    op = dialect.op_of(node)
    value, between = node.inputs[0], []
    maker = value.producer() if value is not None else None
    while maker is not None and op is not None and _is_passed(maker):
        if only_consumer(maker.outputs[0]) is None:
            return None
        between.append(maker)
        value = maker.inputs[0]
        maker = value.producer() if value is not None else None
    if maker is None or (maker.domain, maker.op_type) != ("", "Pad"):
        return None
    read = _read(maker)
    if read is None:
        return None
    number, before, after = read
    if (op is not None and op.binarizes) or any(_is_sign(step) for step in between):
        number = 1.0 if number >= 0 else -1.0
    if any(not _is_sign(step) for step in between):
        before, after = [0, *before], [0, *after]
    return Padding(maker, number, before, after, between)


def _is_sign(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == SIGN


def _is_passed(node: ir.Node) -> bool:
    """BinarySign, and Unsqueeze of [N, C, L] to [N, C, 1, L]."""
    if (node.domain, node.op_type) != ("", "Unsqueeze"):
        return _is_sign(node)
    axes, x = constants.read(node.inputs[1]), node.inputs[0]
    row = x is not None and x.shape is not None and len(x.shape) == 3
    return row and axes is not None and axes.tolist() in ([2], [-2])


def _read(pad: ir.Node) -> tuple[float, list[int], list[int]] | None:
    """The constant of a Pad and its counts before and after each axis from the third on.

    None for another mode, for what is computed, negative, or reaches into the first two axes.
    """
    x = pad.inputs[0]
    given = [constants.read(value) for value in pad.inputs[1:]]
    names = [index for index, value in enumerate(pad.inputs[1:]) if value is not None]
    if pad.attributes.get_string("mode", "constant") != "constant" or x is None or x.shape is None:
        return None
    if any(given[index] is None for index in names):
        return None
    counts, value, axes = [*given, None, None][:3]
    assert counts is not None, "Pad demands its pads"
    rank = len(x.shape)
    chosen = np.arange(rank) if axes is None else axes % rank
    if counts.shape != (2 * len(chosen),) or (counts < 0).any():
        return None
    if value is not None and value.size != 1:
        return None
    widths = np.zeros((2, rank), int)
    widths[:, chosen] = counts.reshape(2, -1)
    if widths[:, :2].any():
        return None
    number = 0.0 if value is None else float(value.reshape(()))
    return number, widths[0, 2:].tolist(), widths[1, 2:].tolist()


def _absorb(node: ir.Node, padding: Padding) -> bool:
    """Let the convolution pad as the Pad did, and read what that read; False where it cannot."""
    axes = len(padding.before)
    pads = list(node.attributes.get_ints("pads", [])) or [0] * 2 * axes
    standard = node.domain == ""
    takes = (0.0,) if standard else (0.0, 1.0)
    own = 0.0 if standard else node.attributes["pad_value"].as_float()
    if padding.value not in takes or len(pads) != 2 * axes or (any(pads) and own != padding.value):
        return False
    widths = zip(pads, padding.before + padding.after, strict=True)
    node.attributes["pads"] = ir.AttrInt64s("pads", [own + more for own, more in widths])
    node.attributes.pop("auto_pad", None)
    if not standard:
        node.attributes["pad_value"] = ir.AttrFloat32("pad_value", padding.value)
    notes.rule(node, f"{padding.node.name} in its pads")
    _bypass(node, padding)
    return True


def _bypass(node: ir.Node, padding: Padding) -> None:
    """Whoever stands after the Pad reads what it read; the shapes between are those before it."""
    reader = padding.between[-1] if padding.between else node
    reader.replace_input_with(0, padding.node.inputs[0])
    for step in reversed(padding.between):
        x = step.inputs[0]
        shape = list(x.shape) if x is not None and x.shape is not None else None
        if shape is not None and not _is_sign(step):
            shape.insert(2, 1)
        step.outputs[0].shape = None if shape is None else ir.Shape(shape)
    output, graph = padding.node.outputs[0], padding.node.graph
    if graph is not None and not output.uses() and not output.is_graph_output():
        graph.remove(padding.node, safe=True)
