"""Pass: every call of a model-local function becomes the function's body."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from bindeploy.convert import names
from bindeploy.convert.names import Names
from bindeploy.errors import BindeployError

MOST_NODES = 100_000
"""Nodes that functions may expand to: ten functions that call each other ten times each are
10^10 of them."""


class InlineFunctions(InPlacePass):
    """1. A call is replaced by a copy of the body, its names `<call>/<name>`.
    2. An attribute of the body that refers to one of the call takes its value, else the function's
       default, else it is absent.
    3. A standard node of a copy keeps the opset of its function, as `node.version`: functions and
       the graph may be written for different ones.

    No function is left. Raises BindeployError where functions call themselves, or expand to more
    than `MOST_NODES` nodes.
    """

    def call(self, model: ir.Model) -> PassResult:
        _refuse_recursion(model)
        taken, made = names.of(model), 0
        for graph in [model.graph, *model.graph.subgraphs()]:
            for node in graph:
                function = model.functions.get(node.op_identifier())
                if function is not None:
                    made += len(function)
                    if made > MOST_NODES:
                        raise BindeployError(
                            f"function `{function.name}` and those beside it expand to more than "
                            f"{MOST_NODES} nodes: export the model with fewer calls"
                        )
                    inline(model, node, function, taken)
        modified = bool(model.functions)
        model.functions.clear()
        return PassResult(model, modified)


def _refuse_recursion(model: ir.Model) -> None:
    calls = {
        key: {node.op_identifier() for node in function.all_nodes()} & model.functions.keys()
        for key, function in model.functions.items()
    }
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        circle = " -> ".join(f"`{name}`" for _, name, _ in error.args[1][:10])
        raise BindeployError(
            f"the model's functions call themselves ({circle}), which never ends: export it anew"
        ) from None


def inline(model: ir.Model, call: ir.Node, function: ir.Function, taken: Names) -> None:
    """Put a copy of the body of `function` in the place of the node `call`."""
    _import_domains(model, function)
    body = function.clone().graph
    if len(call.inputs) > len(body.inputs) or len(call.outputs) > len(body.outputs):
        raise BindeployError(
            f"node `{call.name}` gives function `{function.name}` more inputs or outputs than it "
            "has: export the model anew"
        )
    for node in body.all_nodes():
        _resolve_attributes(node, call, function)
        if node.domain == "" and node.version is None:
            node.version = function.opset_imports.get("")
    outputs = [_made_inside(body, output) for output in body.outputs]
    body.outputs.clear()
    inputs = [*call.inputs, *[None] * (len(body.inputs) - len(call.inputs))]
    for formal, actual in zip(body.inputs, inputs, strict=True):
        for node, index in formal.uses():
            node.replace_input_with(index, actual)
    prefix = call.name or call.op_type
    for node in body.all_nodes():
        node.name = taken.new(f"{prefix}/{node.name or node.op_type}")
        node.metadata_props.update({**call.metadata_props, **node.metadata_props})
        for value in node.outputs:
            value.name = taken.new(f"{prefix}/{value.name or node.op_type}")
    for graph in body.subgraphs():
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.name = taken.new(f"{prefix}/{value.name}")
    given = [pair for pair in zip(call.outputs, outputs, strict=False) if pair[0].name]
    replace(call, body, list(body), given)


def replace(
    node: ir.Node,
    body: ir.Graph,
    nodes: Sequence[ir.Node],
    outputs: Sequence[tuple[ir.Value, ir.Value]],
) -> None:
    """Take `nodes` out of `body` and put them in the place of `node`, in its graph.

    `outputs` pairs what `node` gave with what is given now.
    """
    graph = node.graph
    assert graph is not None, "only nodes of a graph are replaced"
    body.remove(nodes)
    old, new = [pair[0] for pair in outputs], [pair[1] for pair in outputs]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, old, new)


def _made_inside(body: ir.Graph, output: ir.Value) -> ir.Value:
    """The output of a body; through an Identity where it is an input, or was given out before."""
    if output.producer() is not None and list(body.outputs).count(output) == 1:
        return output
    identity = ir.node("Identity", [output])
    body.append(identity)
    return identity.outputs[0]


def _resolve_attributes(node: ir.Node, call: ir.Node, function: ir.Function) -> None:
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref():
            continue
        wanted = attribute.ref_attr_name or ""
        given = call.attributes.get(wanted) or function.attributes.get(wanted)
        if given is None or given.is_ref() or given.value is None:
            del node.attributes[name]
        elif given.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            raise BindeployError(
                f"node `{call.name}` hands a graph to function `{function.name}`: export the model "
                "without functions"
            )
        else:
            node.attributes[name] = ir.Attr(name, given.type, given.value)


def _import_domains(model: ir.Model, function: ir.Function) -> None:
    for domain, version in function.opset_imports.items():
        if domain != "" and model.opset_imports.setdefault(domain, version) != version:
            raise BindeployError(
                f"function `{function.name}` uses version {version} of domain `{domain}`, the "
                f"model version {model.opset_imports[domain]}: export it with one of them"
            )
