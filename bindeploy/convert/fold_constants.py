"""Pass: what depends on constants alone is computed, within bounds.

A file of a thousand bytes can ask for a constant of 10^12 numbers, or for a million products of
large ones. So only operators are computed that take a few steps for each number they read or write,
and all of them together hold and handle no more than a multiple of the numbers the file itself
brings; a node beyond that stays as it is.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnxscript.optimizer import fold_constants

from bindeploy.convert import dialect
from bindeploy.errors import BindeployError

LINEAR = frozenset(
    word
    for line in (
        "Abs Add And ArgMax ArgMin BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil",
        "Clip Concat ConstantOfShape Cos CumSum DepthToSpace Div Elu Equal Erf Exp Expand Flatten",
        "Floor Gather GatherElements Greater GreaterOrEqual HardSigmoid Identity IsInf IsNaN",
        "LeakyRelu Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or PRelu Pad Pow Range",
        "Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd",
        "ReduceSum ReduceSumSquare Relu Reshape Round Shape Sigmoid Sign Sin Size Slice Softmax",
        "Softplus SpaceToDepth Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where Xor",
    )
    for word in line.split()
)
"""Operators of a few steps a number."""

PRODUCTS = frozenset({"MatMul", "Gemm"})
"""Operators of as many steps for each number they write as the sum they make is long."""

HELD = (2**22, 4)
"""Numbers that are held at once beyond those of the file: so many, and times those of the file."""

HANDLED = (2**26, 64)
"""Numbers that are read, written and summed altogether."""

NO_LIMIT = 1 << 40
"""The folder's own limits are for single tensors, and weights are large."""

MOST_SLICES = 1000
"""The folder makes a node of every slice of a sequence."""


class FoldConstants(InPlacePass):
    """1. A standard operator of constant inputs becomes its value."""

    def call(self, model: ir.Model) -> PassResult:
        return PassResult(model, fold(model))


def fold(model: ir.Model) -> bool:
    """Compute what depends on constants alone, in place; whether anything was changed."""
    for node in model.graph.all_nodes():
        _refuse_many_slices(node)
    with np.errstate(all="ignore"):
        result = fold_constants(
            model,
            onnx_shape_inference=False,
            input_size_limit=NO_LIMIT,
            output_size_limit=NO_LIMIT,
            should_fold=_Bounds(model).allow,
        )
    return bool(result.modified)


class _Bounds:
    """What is left to be held and to be handled."""

    def __init__(self, model: ir.Model) -> None:
        tensors = [value.const_value for value in model.graph.initializers.values()]
        stored = sum(tensor.size for tensor in tensors if tensor is not None)
        self.held, self.handled = (least + times * stored for least, times in (HELD, HANDLED))

    def allow(self, node: ir.Node) -> bool | None:
        """For a node whose inputs are constant: False where it stays, None for the usual rules."""
        if node.domain != "" or node.op_type not in LINEAR | PRODUCTS:
            return False
        inputs = [value for value in node.inputs if value is not None]
        sizes = [value.const_value.size for value in inputs if value.const_value is not None]
        written = _numbers_written(node, inputs)
        if written is None:
            return False
        steps = _longest_sum(node) if node.op_type in PRODUCTS else 1
        handled = written * steps + sum(sizes)
        freed = sum(
            size for value, size in zip(inputs, sizes, strict=True) if len(value.uses()) == 1
        )
        if written > self.held or handled > self.handled:
            return False
        self.held -= written - freed
        self.handled -= handled
        return True if node.op_type == "ConstantOfShape" else None


def _numbers_written(node: ir.Node, inputs: list[ir.Value]) -> int | None:
    """The size of the output, by ONNX's own rule from the constants; None where it does not say."""
    types, data = {}, {}
    for value in inputs:
        tensor = value.const_value
        if tensor is None:
            return None
        name = str(value.name)
        types[name] = onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape.numpy())
        if tensor.size <= 64:
            data[name] = ir.serde.serialize_tensor(tensor)
    try:
        schema = onnx.defs.get_schema(node.op_type, dialect.OPSET, "")
        outputs = onnx.shape_inference.infer_node_outputs(
            schema, ir.serde.serialize_node(node), types, data
        )
    except Exception:  # of half a dozen kinds: a node that makes no sense stays as it is
        return None
    told = outputs.get(str(node.outputs[0].name))
    if told is None or not told.tensor_type.HasField("shape"):
        return None
    sizes = [dim.dim_value for dim in told.tensor_type.shape.dim if dim.HasField("dim_value")]
    known = len(sizes) == len(told.tensor_type.shape.dim) and min(sizes, default=0) >= 0
    return math.prod(sizes) if known else None


def _longest_sum(node: ir.Node) -> int:
    first = node.inputs[0]
    tensor = None if first is None else first.const_value
    return 1 if tensor is None else max(tensor.shape.numpy(), default=1)


def _refuse_many_slices(node: ir.Node) -> None:
    if node.domain != "" or node.op_type != "SplitToSequence" or node.inputs[0] is None:
        return
    longest = max((dim for dim in node.inputs[0].shape or [] if isinstance(dim, int)), default=0)
    if longest > MOST_SLICES:
        raise BindeployError(
            f"node `{node.name}` splits a tensor of {longest} slices into a sequence: at most "
            f"{MOST_SLICES} are taken"
        )
