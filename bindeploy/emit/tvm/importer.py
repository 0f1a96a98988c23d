"""ONNX -> Relax, with our ops: TVM's importer, and a converter of ours where we have one.

TVM has no public way to add a converter. The private one used here is that of the versions in
`KNOWN`; any other version is refused before it is touched.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from tvm.relax.frontend.onnx import onnx_frontend as frontend

from bindeploy.emit.tvm import runtime_layers
from bindeploy.emit.tvm.layers import LAYERS
from bindeploy.emit.tvm.pictures import ELEMENTWISE, PICTURES, elementwise
from bindeploy.emit.tvm.processor import Processor
from bindeploy.emit.tvm.values import Values
from bindeploy.errors import BindeployError

KNOWN = ("0.27.",)
"""How versions of TVM begin whose importer is known."""

LOWERINGS = LAYERS | PICTURES | {runtime_layers.OP: runtime_layers.run_chain}


def to_relax(model: onnx.ModelProto, processor: Processor) -> tvm.IRModule:
    """`main` of a model with fixed shapes, N = 1.

    Raises BindeployError for a TVM whose importer is not known, for an operator that TVM does not
    know, by the name of its node, and for an input whose size is open.
    """
    check_operators(model)
    known = frontend._get_convert_map()
    lower = _Lowering(processor, model.graph)
    converters = {
        name: _Converter(name, known.get(name), lower) for name in known.keys() | LOWERINGS.keys()
    }
    with _converters(converters), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        with in_words(f"import `{model.graph.name}`"):
            return frontend.from_onnx(model)


@contextlib.contextmanager
def in_words(what: str) -> Any:
    """What TVM raises while it is to do `what`, of any kind and length, as one line."""
    try:
        yield
    except BindeployError:
        raise
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BindeployError(
            f"TVM does not {what}: {line}: export with --format onnx, or leave that operator out"
        ) from error


def _check_version() -> None:
    if not tvm.__version__.startswith(KNOWN) or not hasattr(frontend, "_get_convert_map"):
        raise BindeployError(
            f"tvm {tvm.__version__} is not known here: pip install 'bindeploy[tvm]' brings "
            f"{' or '.join(f'{version}x' for version in KNOWN)}"
        )


def check_operators(model: onnx.ModelProto) -> None:
    """BindeployError for a TVM whose importer is not known, for an operator without converter, by
    the name of its node, and for an input whose size is open."""
    _check_version()
    _check_sizes(model.graph)
    known = frontend._get_convert_map()
    for node in model.graph.node:
        ours = node.domain.startswith("bindeploy") and node.op_type in LOWERINGS
        theirs = node.domain in ("", "ai.onnx") and node.op_type in known
        if not ours and not theirs and node.op_type != "Constant":
            op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise BindeployError(
                f"TVM has no `{op}` (node `{node.name}`): replace that operator, or export "
                "with --format onnx"
            )


def _check_sizes(graph: onnx.GraphProto) -> None:
    for value in graph.input:
        sizes = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        if not all(isinstance(size, int) for size in sizes):
            shape = ", ".join(map(str, sizes))
            raise BindeployError(
                f"input `{value.name}` has shape [{shape}]: TVM compiles for fixed sizes; export "
                "the model with numbers for all but the batch"
            )


def _reads(graph: onnx.GraphProto) -> dict[str, int]:
    """How often the first output of each node is read, by the node's name; names are unique."""
    names = [name for node in graph.node for name in node.input]
    counts = Counter([*names, *(output.name for output in graph.output)])
    return {node.name: counts[node.output[0]] for node in graph.node}


@contextlib.contextmanager
def _converters(table: Mapping[str, Any]) -> Any:
    original = frontend._get_convert_map
    frontend._get_convert_map = lambda: table
    try:
        yield
    finally:
        frontend._get_convert_map = original


@contextlib.contextmanager
def _quiet() -> Any:
    """TVM prints what it raises as well."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


class _Lowering:
    """Lowers one node after the other into `values`, which begins with the first of them."""

    def __init__(self, processor: Processor, graph: onnx.GraphProto) -> None:
        self.processor, self.reads = processor, _reads(graph)
        self.numbers = {node.name: number for number, node in enumerate(graph.node)}
        self.values: Values | None = None

    def __call__(
        self,
        op: str,
        original: Callable[..., Any] | None,
        block: Any,
        inputs: Sequence[Any],
        attributes: dict[str, Any],
        parameters: Any,
    ) -> Any:
        if self.values is None:
            self.values = Values(block, self.processor)

        def theirs(given: Sequence[Any]) -> Any:
            if original is None:
                raise NotImplementedError(f"{op} with these inputs")
            return original(block, given, attributes, parameters)

        name = attributes["tvm_custom"]["name"]
        self.values.node = self.numbers[name]
        with in_words(f"import `{op}` (node `{name}`)"):
            made = self._ours(op, inputs, attributes, theirs)
            made = theirs(inputs) if made is None else made
            if isinstance(made, tvm.ir.Call):
                made = block.emit(made)
        if isinstance(made, tvm.ir.Var):
            self.values.forms(made).reads = self.reads[name]
        return made

    def _ours(
        self,
        op: str,
        inputs: Sequence[Any],
        attributes: Mapping[str, Any],
        theirs: Callable[[Sequence[Any]], Any],
    ) -> Any:
        """What we make of a node; None where TVM's converter is to have it."""
        assert self.values is not None
        made = LOWERINGS[op](self.values, inputs, attributes) if op in LOWERINGS else None
        if made is None and op in ELEMENTWISE:
            made = elementwise(self.values, inputs, theirs)
        return made


@dataclass(frozen=True)
class _Converter:
    """What TVM's importer asks for the conversion of one op."""

    op: str
    original: Any
    lower: _Lowering

    def get_converter(self, opset: int) -> Callable[..., Any]:
        original = self.original.get_converter(opset) if self.original else None

        def convert(
            block: Any, inputs: Sequence[Any], attributes: dict[str, Any], parameters: Any
        ) -> Any:
            return self.lower(self.op, original, block, inputs, attributes, parameters)

        return convert
