"""The dialect: every op of the domains `bindeploy` (packed bits) and `bindeploy.latent`, once.

One row of `OPS` gives an op its schema, its body in standard operators, its numpy meaning, its
output type and its checks. Importing this module registers the schemas, so `onnx.checker` and
`onnx.shape_inference` know the ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
from onnx.defs import OpSchema
from onnx.reference.op_run import OpRun

from bindeploy.convert import dialect_checks as checks
from bindeploy.convert import dialect_functions as functions
from bindeploy.convert import dialect_int8 as int8
from bindeploy.convert import dialect_reference as reference
from bindeploy.convert import dialect_saturating as saturating
from bindeploy.convert import dialect_shapes as shapes
from bindeploy.convert.dialect_compact import compact
from bindeploy.errors import BindeployError

DOMAIN = "bindeploy"
LATENT = "bindeploy.latent"
VERSION = 1
OPSET = 20
IR_VERSION = 10

INPUT_TYPES = {
    "x": ir.DataType.FLOAT,
    "weight": ir.DataType.FLOAT,
    "bits": ir.DataType.UINT8,
    "scale": ir.DataType.FLOAT,
    "bias": ir.DataType.FLOAT,
    "threshold": ir.DataType.INT32,
    "direction": ir.DataType.INT8,
    "int8_weight": ir.DataType.INT8,
    "input_scale": ir.DataType.FLOAT,
}
ATTRIBUTE_TYPES = {
    "channels": ir.AttributeType.INT,
    "group": ir.AttributeType.INT,
    "kernel_shape": ir.AttributeType.INTS,
    "strides": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "dilations": ir.AttributeType.INTS,
    "pad_value": ir.AttributeType.FLOAT,
}

AFFINE = ("x", "bits", "scale", "bias")
THRESHOLD = ("x", "bits", "threshold", "direction")
LATENT_AFFINE = ("x", "weight", "scale", "bias")
INT8_AFFINE = ("x", "int8_weight", "input_scale", "scale", "bias")
INT8_THRESHOLD = ("x", "int8_weight", "input_scale", "threshold", "direction")
INT8_WINDOW = ("group", "strides", "pads", "dilations")
WINDOW = (*INT8_WINDOW, "pad_value")
CONVOLUTION = ("channels", *WINDOW)
LINEAR = ("channels",)
POOL = ("kernel_shape", "strides", "pads")


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op: its name, inputs and attributes (all required), and what each engine makes of it.

    `binarizes` says whether the op reads only the sign of `x`, and so takes any float there.
    """

    domain: str
    name: str
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    binarizes: bool
    body: Callable[..., Any]
    meaning: Callable[..., Any]
    infer: Callable[[Any], None]
    check: Callable[[checks.Layer], None]
    title: str

    @property
    def key(self) -> tuple[str, str]:
        return self.domain, self.name


OPS: dict[tuple[str, str], Op] = {
    op.key: op
    for op in (
        Op(
            domain=DOMAIN,
            name="BinaryConv2d",
            inputs=AFFINE,
            attributes=CONVOLUTION,
            binarizes=True,
            body=functions.binary_conv2d,
            meaning=reference.binary_conv2d,
            infer=shapes.packed_convolution,
            check=checks.packed_convolution,
            title="scale * conv(sign(x), +-1) + bias",
        ),
        Op(
            domain=DOMAIN,
            name="BinaryConv2dThreshold",
            inputs=THRESHOLD,
            attributes=CONVOLUTION,
            binarizes=True,
            body=functions.binary_conv2d_threshold,
            meaning=reference.binary_conv2d_threshold,
            infer=shapes.packed_convolution,
            check=checks.packed_convolution,
            title="+1 iff (conv(sign(x), +-1) >= threshold), negated where direction is -1",
        ),
        Op(
            domain=DOMAIN,
            name="BinaryLinear",
            inputs=AFFINE,
            attributes=LINEAR,
            binarizes=True,
            body=functions.binary_linear,
            meaning=reference.binary_linear,
            infer=shapes.linear,
            check=checks.packed_linear,
            title="scale * (sign(x) @ +-1) + bias",
        ),
        Op(
            domain=DOMAIN,
            name="BinaryLinearThreshold",
            inputs=THRESHOLD,
            attributes=LINEAR,
            binarizes=True,
            body=functions.binary_linear_threshold,
            meaning=reference.binary_linear_threshold,
            infer=shapes.linear,
            check=checks.packed_linear,
            title="+1 iff (sign(x) @ +-1 >= threshold), negated where direction is -1",
        ),
        Op(
            domain=DOMAIN,
            name="BinaryWeightConv2d",
            inputs=AFFINE,
            attributes=CONVOLUTION,
            binarizes=False,
            body=functions.binary_weight_conv2d,
            meaning=reference.binary_weight_conv2d,
            infer=shapes.packed_convolution,
            check=checks.packed_convolution,
            title="scale * conv(x, +-1) + bias",
        ),
        Op(
            domain=DOMAIN,
            name="BinaryWeightLinear",
            inputs=AFFINE,
            attributes=LINEAR,
            binarizes=False,
            body=functions.binary_weight_linear,
            meaning=reference.binary_weight_linear,
            infer=shapes.linear,
            check=checks.packed_linear,
            title="scale * (x @ +-1) + bias",
        ),
        Op(
            domain=DOMAIN,
            name="BinaryMaxPool2d",
            inputs=("x", "direction"),
            attributes=POOL,
            binarizes=True,
            body=functions.binary_max_pool2d,
            meaning=reference.binary_max_pool2d,
            infer=shapes.pool,
            check=checks.pool,
            title="direction * MaxPool(direction * sign(x))",
        ),
        Op(
            domain=DOMAIN,
            name="Int8Conv2d",
            inputs=INT8_AFFINE,
            attributes=INT8_WINDOW,
            binarizes=False,
            body=int8.conv2d_body,
            meaning=int8.int8_conv2d,
            infer=shapes.latent_convolution,
            check=int8.check_convolution,
            title="scale * conv(q(x), int8) + bias, q(x) = clamp(round(x / input_scale))",
        ),
        Op(
            domain=DOMAIN,
            name="Int8Conv2dThreshold",
            inputs=INT8_THRESHOLD,
            attributes=INT8_WINDOW,
            binarizes=False,
            body=int8.conv2d_threshold_body,
            meaning=int8.int8_conv2d_threshold,
            infer=shapes.latent_convolution,
            check=int8.check_convolution,
            title="+1 iff (conv(q(x), int8) >= threshold), negated where direction is -1",
        ),
        Op(
            domain=DOMAIN,
            name="Int8Linear",
            inputs=INT8_AFFINE,
            attributes=(),
            binarizes=False,
            body=int8.linear_body,
            meaning=int8.int8_linear,
            infer=shapes.linear,
            check=int8.check_linear,
            title="scale * (q(x) @ int8) + bias, q(x) = clamp(round(x / input_scale))",
        ),
        Op(
            domain=DOMAIN,
            name="Int8LinearThreshold",
            inputs=INT8_THRESHOLD,
            attributes=(),
            binarizes=False,
            body=int8.linear_threshold_body,
            meaning=int8.int8_linear_threshold,
            infer=shapes.linear,
            check=int8.check_linear,
            title="+1 iff (q(x) @ int8 >= threshold), negated where direction is -1",
        ),
        Op(
            domain=DOMAIN,
            name="SaturatingBinaryConv2d",
            inputs=AFFINE,
            attributes=CONVOLUTION,
            binarizes=True,
            body=saturating.conv2d_body,
            meaning=saturating.conv2d,
            infer=shapes.packed_convolution,
            check=checks.packed_convolution,
            title="scale * conv8(sign(x), +-1) + bias, conv8 a sum of 8 bits that saturates",
        ),
        Op(
            domain=DOMAIN,
            name="SaturatingBinaryConv2dThreshold",
            inputs=THRESHOLD,
            attributes=CONVOLUTION,
            binarizes=True,
            body=saturating.conv2d_threshold_body,
            meaning=saturating.conv2d_threshold,
            infer=shapes.packed_convolution,
            check=checks.packed_convolution,
            title="+1 iff (conv8(sign(x), +-1) >= threshold), negated where direction is -1",
        ),
        Op(
            domain=DOMAIN,
            name="SaturatingBinaryLinear",
            inputs=AFFINE,
            attributes=LINEAR,
            binarizes=True,
            body=saturating.linear_body,
            meaning=saturating.linear,
            infer=shapes.linear,
            check=checks.packed_linear,
            title="scale * dot8(sign(x), +-1) + bias, dot8 a sum of 8 bits that saturates",
        ),
        Op(
            domain=DOMAIN,
            name="SaturatingBinaryLinearThreshold",
            inputs=THRESHOLD,
            attributes=LINEAR,
            binarizes=True,
            body=saturating.linear_threshold_body,
            meaning=saturating.linear_threshold,
            infer=shapes.linear,
            check=checks.packed_linear,
            title="+1 iff (dot8(sign(x), +-1) >= threshold), negated where direction is -1",
        ),
        Op(
            domain=LATENT,
            name="BinaryConv2d",
            inputs=LATENT_AFFINE,
            attributes=WINDOW,
            binarizes=True,
            body=functions.latent_binary_conv2d,
            meaning=reference.latent_binary_conv2d,
            infer=shapes.latent_convolution,
            check=checks.latent_convolution,
            title="scale * conv(sign(x), sign(weight)) + bias",
        ),
        Op(
            domain=LATENT,
            name="BinaryWeightConv2d",
            inputs=LATENT_AFFINE,
            attributes=WINDOW,
            binarizes=False,
            body=functions.latent_binary_weight_conv2d,
            meaning=reference.latent_binary_weight_conv2d,
            infer=shapes.latent_convolution,
            check=checks.latent_convolution,
            title="scale * conv(x, sign(weight)) + bias",
        ),
        Op(
            domain=LATENT,
            name="BinaryLinear",
            inputs=LATENT_AFFINE,
            attributes=(),
            binarizes=True,
            body=functions.latent_binary_linear,
            meaning=reference.latent_binary_linear,
            infer=shapes.linear,
            check=checks.latent_linear,
            title="scale * (sign(x) @ sign(weight)) + bias",
        ),
        Op(
            domain=LATENT,
            name="BinaryWeightLinear",
            inputs=LATENT_AFFINE,
            attributes=(),
            binarizes=False,
            body=functions.latent_binary_weight_linear,
            meaning=reference.latent_binary_weight_linear,
            infer=shapes.linear,
            check=checks.latent_linear,
            title="scale * (x @ sign(weight)) + bias",
        ),
        Op(
            domain=LATENT,
            name="SaturatingBinaryConv2d",
            inputs=LATENT_AFFINE,
            attributes=WINDOW,
            binarizes=True,
            body=saturating.latent_conv2d_body,
            meaning=saturating.latent_conv2d,
            infer=shapes.latent_convolution,
            check=checks.latent_convolution,
            title="scale * conv8(sign(x), sign(weight)) + bias",
        ),
        Op(
            domain=LATENT,
            name="SaturatingBinaryLinear",
            inputs=LATENT_AFFINE,
            attributes=(),
            binarizes=True,
            body=saturating.latent_linear_body,
            meaning=saturating.latent_linear,
            infer=shapes.linear,
            check=checks.latent_linear,
            title="scale * dot8(sign(x), sign(weight)) + bias",
        ),
        Op(
            domain=LATENT,
            name="BinarySign",
            inputs=("x",),
            attributes=(),
            binarizes=True,
            body=functions.binary_sign,
            meaning=reference.binary_sign,
            infer=shapes.same,
            check=checks.sign,
            title="+1 where x >= 0, else -1",
        ),
    )
}


def op_of(node: ir.Node) -> Op | None:
    """The dialect's row for `node`, or None for a node of another domain."""
    return OPS.get((node.domain, node.op_type))


def layers(model: ir.Model) -> Iterator[tuple[ir.Node, Op]]:
    """Every dialect node of the graph with its row, in graph order."""
    for node in model.graph:
        op = op_of(node)
        if op is not None:
            yield node, op


def _schema(op: Op) -> OpSchema:
    inputs = [
        OpSchema.FormalParameter(name, f"tensor({INPUT_TYPES[name].name.lower()})")
        for name in op.inputs
    ]
    attributes = [
        OpSchema.Attribute(
            name, getattr(OpSchema.AttrType, ATTRIBUTE_TYPES[name].name), required=True
        )
        for name in op.attributes
    ]
    outputs = [OpSchema.FormalParameter("y", "tensor(float)")]
    schema = OpSchema(
        op.name,
        op.domain,
        VERSION,
        doc=op.title,
        inputs=inputs,
        outputs=outputs,
        attributes=attributes,
    )
    schema.set_type_and_shape_inference_function(op.infer)
    return schema


def register_schemas() -> None:
    """Make the dialect known to `onnx`; a second call changes nothing."""
    for op in OPS.values():
        if not onnx.defs.has(op.name, domain=op.domain):
            onnx.defs.register_schema(_schema(op))


def function(op: Op, opset: int = OPSET) -> ir.Function:
    """The op as a model-local function; the operators it uses are the same from opset 18 on."""
    inputs = [ir.Value(name=name, type=ir.TensorType(INPUT_TYPES[name])) for name in op.inputs]
    attributes = {name: ir.Attr(name, ATTRIBUTE_TYPES[name], None) for name in op.attributes}
    body = onnxscript.build_function(
        lambda builder, *values: op.body(builder, attributes, *values),
        inputs,
        domain=op.domain,
        name=op.name,
        attributes=attributes,
        opset_imports={"": opset},
    )
    compact(body)
    return body


def attach_functions(model: ir.Model) -> None:
    """Give the model the function of every dialect op it uses, and of no other; imports follow.

    A function and its model must name the same opset, so the model's is taken.
    """
    opset = model.opset_imports.setdefault("", OPSET)
    used = {op.key: op for _, op in layers(model)}
    for identifier in list(model.functions):
        if identifier[:2] in OPS:
            del model.functions[identifier]
    for op in (op for key, op in OPS.items() if key in used):
        body = function(op, opset)
        model.functions[body.identifier()] = body
        model.opset_imports[op.domain] = VERSION


def verify(model: ir.Model) -> None:
    """Raise BindeployError, naming the node, unless every dialect node keeps its contract.

    Checked: op and attributes known and complete, types and shapes of inputs, pad bits 0, scale and
    bias finite, direction +-1, geometry possible, names given and unique.
    """
    seen: set[str] = set()
    for node in model.graph:
        if node.domain not in (DOMAIN, LATENT):
            continue
        op = op_of(node)
        if op is None:
            raise BindeployError(
                f"node `{node.name}` uses operator `{node.domain}::{node.op_type}`, which the "
                f"dialect does not have: choose from {', '.join(sorted({n for _, n in OPS}))}"
            )
        layer = checks.Layer(node, op.inputs, INPUT_TYPES)
        checks.signature(layer, {name: ATTRIBUTE_TYPES[name] for name in op.attributes})
        op.check(layer)
        if not node.name or node.name in seen:
            layer.fail("has no name of its own", "give every binary node a unique name")
        seen.add(node.name or "")


def _reference_op(op: Op) -> type[OpRun]:
    def run(self: OpRun, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        return (op.meaning(*inputs, **attributes),)

    return type(op.name, (OpRun,), {"op_domain": op.domain, "_run": run})


REFERENCE_OPS: list[type[OpRun]] = [_reference_op(op) for op in OPS.values()]
"""For `onnx.reference.ReferenceEvaluator(model, new_ops=REFERENCE_OPS)`: the numpy meanings."""

register_schemas()
