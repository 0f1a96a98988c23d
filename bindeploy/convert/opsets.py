"""From the opset a model was written for to the one of our files.

A node of an operator, written for opset v, means what the operator's newest schema up to v says.
Where that schema and the one of opset 20 have the same inputs, outputs and attributes, and
differ in the types they take alone, the node is kept as it is. Of the others

- an older one is brought up by `onnx.version_converter` (see `older_opsets`);
- a newer one is kept where it uses nothing new (an attribute that came later and stands at its
  default is dropped), else replaced by the function that ONNX itself defines its operator by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import dialect, newer_opsets, older_opsets, type_inference
from bindeploy.convert.newer_opsets import not_sayable

OLDEST_COMPARABLE = 13
"""Below it, operators changed their meaning without changing their schema (the axis of Softmax, the
slope of PRelu), so every node whose operator has a later schema goes through the converter."""

CHANGED = {"GroupNormalization": 21}
"""Operators that mean something else from an opset on, by the same inputs and attributes: a scale
of GroupNormalization belonged to a group and now belongs to a channel."""

DEEPEST = 8
"""Levels of ONNX functions that are defined by other functions; it has two."""


class ConvertOpset(InPlacePass):
    """1. A node that says the same at opset 20 is kept.
    2. A node of a newer operator becomes the nodes that define it.
    3. A node of an older operator becomes what `onnx.version_converter` makes of it.

    The model has no functions of its own. A node's `version`, where it is set, is the opset it was
    written for, else the model's is. Raises BindeployError, naming the node, for one that opset 20
    has no words for.
    """

    def call(self, model: ir.Model) -> PassResult:
        given = model.opset_imports.get("", dialect.OPSET)
        nodes = list(_standard(model))
        for node in nodes:
            node.version = node.version or given
        if any(node.version != dialect.OPSET for node in nodes):
            _convert(model)
        model.opset_imports[""] = dialect.OPSET
        return PassResult(model, given != dialect.OPSET)


def _convert(model: ir.Model) -> None:
    older: list[ir.Node] = []
    for _ in range(DEEPEST):
        _infer_types(model)
        foreign = [node for node in _standard(model) if not _settle(node)]
        newer = [node for node in foreign if _version(node) > dialect.OPSET]
        older = [node for node in foreign if _version(node) < dialect.OPSET]
        if not newer:
            break
        newer_opsets.expand(model, newer)
    older_opsets.bring_up(model, older)


def _standard(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph.all_nodes() if node.domain == "")


def _version(node: ir.Node) -> int:
    assert node.version is not None, "to_opset() has set it"
    return node.version


def _infer_types(model: ir.Model) -> None:
    """Of a model whose nodes are of several opsets what the newest of them tells."""
    versions = {_version(node) for node in _standard(model)}
    if versions - {dialect.OPSET}:
        model.opset_imports[""] = max(versions)
        type_inference.infer(model)


def _settle(node: ir.Node) -> bool:
    """Whether the node, less the attributes that say nothing, means the same at opset 20."""
    if _version(node) == dialect.OPSET:
        return True
    given, ours = _schema(node, _version(node)), _schema(node, dialect.OPSET)
    if given is None:
        raise not_sayable(node, "is in neither of them")
    if ours is None:
        return False
    if given.since_version != ours.since_version:
        if not _agree(node, given, ours):
            return False
        _drop_what_is_new(node, ours)
        _check_types(node, ours)
    node.version = dialect.OPSET
    return True


def _schema(node: ir.Node, opset: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except SchemaError:
        return None


def _agree(node: ir.Node, given: OpSchema, ours: OpSchema) -> bool:
    """Whether what the node says is said alike in both schemas."""
    older, newer = sorted((given.since_version, ours.since_version))
    if _version(node) < OLDEST_COMPARABLE or older < CHANGED.get(node.op_type, 0) <= newer:
        return False
    count = len(ours.inputs)
    return (
        _formals(given.inputs[:count]) == _formals(ours.inputs)
        and _formals(given.outputs) == _formals(ours.outputs)
        and (len(given.inputs) == count or not any(node.inputs[count:]))
        and set(ours.attributes) <= set(given.attributes)
        and all(_means_the_same(node, name, given, ours) for name in given.attributes)
    )


def _formals(formals: Sequence[OpSchema.FormalParameter]) -> list[tuple[str, object]]:
    return [(formal.name, formal.option) for formal in formals]


def _means_the_same(node: ir.Node, name: str, given: OpSchema, ours: OpSchema) -> bool:
    """Whether an attribute, or its absence, says the same in both schemas.

    Where the default changed, words changed: `bilinear` of GridSample is `linear` today.
    """
    stands, default = node.attributes.get(name), given.attributes[name].default_value
    if name in ours.attributes:
        return bool(default == ours.attributes[name].default_value)
    if stands is None:
        return True
    return bool(default.name) and stands.value == ir.serde.deserialize_attribute(default).value


def _drop_what_is_new(node: ir.Node, ours: OpSchema) -> None:
    """Attributes and inputs that opset 20 does not have, and that say nothing."""
    for name in set(node.attributes) - set(ours.attributes):
        del node.attributes[name]
    if len(node.inputs) > ours.max_input:
        node.resize_inputs(ours.max_input)


def _check_types(node: ir.Node, schema: OpSchema) -> None:
    """Raise BindeployError where the node reads or writes a type that came after opset 20."""
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            if value is None or not isinstance(value.type, ir.TensorType) or not formals:
                continue
            kind = f"tensor({value.type.dtype.name.lower()})"
            if kind not in formals[min(index, len(formals) - 1)].types:
                raise not_sayable(node, f"takes no {kind} there, as `{value.name}` is")
