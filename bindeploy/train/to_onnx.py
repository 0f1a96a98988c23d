"""torch -> ONNX: the latent graph, one node of domain `bindeploy.latent` for every binary layer.

Exported are the hard layers: latent weight, scale and bias go into the file as they are, the sign
is taken by whoever reads it. A binary node is named after its torch module, as its weight is.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bindeploy.convert import dialect
from bindeploy.errors import BindeployError
from bindeploy.train import operators
from bindeploy.train import run as runs
from bindeploy.train.layers import binary_layers
from bindeploy.train.states import harden

Floats = NDArray[np.float32]
Integers = dict[str, NDArray[np.int32]]

LATENT = onnxscript.values.Opset(dialect.LATENT, dialect.VERSION)
STANDARD = onnxscript.values.Opset("", dialect.OPSET)


def _convolution(name: str) -> Callable[..., Any]:
    op = getattr(LATENT, name)

    def translate(x, weight, scale, bias, strides, pads, dilations, group, pad_value):
        return op(
            x,
            weight,
            scale,
            bias,
            strides=list(strides),
            pads=list(pads),
            dilations=list(dilations),
            group=group,
            pad_value=pad_value,
        )

    return translate


def _linear(name: str) -> Callable[..., Any]:
    op = getattr(LATENT, name)
    return lambda x, weight, scale, bias: op(x, weight, scale, bias)


def _sign() -> Callable[..., Any]:
    op = LATENT.BinarySign
    return lambda x: op(x)


def _quantize_int8() -> Callable[..., Any]:
    """Standard nodes, so that any engine runs them. The zero point is what says int8."""

    def translate(x, scale):
        zero = STANDARD.Constant(value=ir.tensor(np.int8(0)))
        return STANDARD.DequantizeLinear(STANDARD.QuantizeLinear(x, scale, zero), scale, zero)

    return translate


TRANSLATIONS: dict[Callable, Callable] = {
    operators.binary_conv2d._opoverload: _convolution("BinaryConv2d"),
    operators.binary_weight_conv2d._opoverload: _convolution("BinaryWeightConv2d"),
    operators.binary_linear._opoverload: _linear("BinaryLinear"),
    operators.binary_weight_linear._opoverload: _linear("BinaryWeightLinear"),
    operators.saturating_conv2d._opoverload: _convolution("SaturatingBinaryConv2d"),
    operators.saturating_linear._opoverload: _linear("SaturatingBinaryLinear"),
    operators.binary_sign._opoverload: _sign(),
    operators.quantize_int8._opoverload: _quantize_int8(),
}
"""Which node each torch operator of a hard layer becomes."""


@dataclass(frozen=True)
class Exported:
    """A run as the rest of the road takes it.

    `candidates` are normalized test images float32 [N, C, H, W], N up to 64. `evaluate(x)` runs the
    hardened network in torch: logits float32 [N, classes], and the integers of every layer that
    binarizes its input, by node name, int32 [N, F, H', W'] or [N, F].
    """

    model: ir.Model
    candidates: Floats
    evaluate: Callable[[Floats], tuple[Floats, Integers]]


def from_run(run: Path) -> Exported:
    """Export the run in folder `run`; one that is none, or is damaged, raises BindeployError."""
    network, metadata = runs.load_run(Path(run))
    if not metadata["quantizer"]["binary"]:
        raise BindeployError(
            f"`{run}` is of full precision, with nothing to pack into bits: train another method"
        )
    candidates = runs.candidates(Path(run), metadata)
    model = export(network, torch.from_numpy(candidates[:2]))
    return Exported(model, candidates, lambda x: evaluate(network, x))


def export(model: nn.Module, example: Tensor) -> ir.Model:
    """The latent graph of `model`, a torch module with binary layers; `model` is left as it is.

    `example` is an input [N, ...]; the first axis becomes the dynamic batch. The graph's input is
    called "input", its output "logits"; opset 20, IR version 10. A module that torch cannot trace,
    that does not run on `example`, that works for one size of the batch alone, or that calls a
    binary layer twice, raises BindeployError.
    """
    hard = harden(copy.deepcopy(model).cpu().eval())
    example = example.cpu()
    if len(example) < 2:
        example = example.repeat(2, *[1] * (example.dim() - 1))  # a batch of 1 is not traced as any
    _try(hard, example)
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                hard,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=["logits"],
                opset_version=dialect.OPSET,
                custom_translation_table=TRANSLATIONS,
                optimize=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise BindeployError(
            f"`{type(model).__name__}` cannot be exported ({reason}): torch.export has to trace it"
        ) from None
    assert program is not None
    traced = program.model.graph.inputs[0].shape
    if traced is None or isinstance(traced[0], int):
        raise BindeployError(
            f"`{type(model).__name__}` works for a batch of {len(example)} alone: where it gives "
            "the size of the batch as a number, let it say x.shape[0]"
        )
    _name_nodes(program.model, hard)
    program.optimize()
    graph = program.model
    graph.ir_version = dialect.IR_VERSION
    _forget_sources(graph)
    dialect.attach_functions(graph)
    dialect.verify(graph)
    return graph


@torch.no_grad()
def _try(network: nn.Module, example: Tensor) -> None:
    """Run the network once: where it fails by itself, the reason is plainer than a tracer's."""
    try:
        network(example)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BindeployError(
            f"`{type(network).__name__}` does not run on an example of shape "
            f"{list(example.shape)} ({reason}): give an input [N, ...] as it takes"
        ) from None


def _name_nodes(model: ir.Model, network: nn.Module) -> None:
    """Name every binary node after its module, its weight `<name>.weight`, and the nodes that make
    its input 8-bit integers `<name>/quantize` and `<name>/dequantize`.

    Of a module registered under several names the first counts, as in `evaluate`; the exporter
    tells it by the last.
    """
    first = {id(layer): name for name, layer in network.named_modules()}
    modules = {
        alias: first[id(layer)] for alias, layer in network.named_modules(remove_duplicate=False)
    }
    names: set[str] = set()
    for node in model.graph:
        if node.domain != dialect.LATENT or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        assert weight is not None and weight.name is not None
        exported = weight.name.rpartition(".")[0]  # its weight, or the weight standardized
        name = modules.get(exported, exported)
        if name in names:
            raise BindeployError(
                f"layer `{name}` is called twice: every binary layer needs one place in the network"
            )
        names.add(name)
        node.name, weight.name = name, f"{name}.weight"
        _name_quantization(node.inputs[0], name)


def _name_quantization(x: ir.Value | None, layer: str) -> None:
    """Name the two nodes that made `x`, where it is made of integers."""
    for op_type, name in (("DequantizeLinear", "dequantize"), ("QuantizeLinear", "quantize")):
        maker = x.producer() if x is not None else None
        if maker is None or (maker.domain, maker.op_type) != ("", op_type):
            return
        maker.name, x = f"{layer}/{name}", maker.inputs[0]


def _forget_sources(model: ir.Model) -> None:
    """Drop the exporter's notes of source lines and tracing: they differ between machines."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@torch.no_grad()
def evaluate(network: nn.Module, x: Floats) -> tuple[Floats, Integers]:
    """Logits, and the exact integers by layer, of a hardened network in inference mode."""
    integers: Integers = {}

    def record(name: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            integers[name] = layer.dot(inputs[0]).numpy()

        return hook

    handles = [
        layer.register_forward_hook(record(name))
        for name, layer in binary_layers(network)
        if layer.mode.binary_input
    ]
    try:
        logits = network(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    finally:
        for handle in handles:
            handle.remove()
    return logits, integers


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's notes on versions, and its dumps of graphs that it cannot trace."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
