"""What a network costs before it is trained: the report of `convert.inspect`, from a torch module.

Nothing is computed: the network runs once on torch's meta device, where tensors have shapes and no
numbers, so that the largest of the zoo takes well under a second.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bindeploy import bits
from bindeploy.errors import BindeployError
from bindeploy.train import models
from bindeploy.train.binarization import REPLACEMENTS
from bindeploy.train.layers import BinaryLayer, binary_layers
from bindeploy.train.quantizers import Quantizer

FLOAT_BYTES = 4
FLOATING_OPERATIONS = 2
"""That make one multiply-accumulate."""

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
META = torch.device("meta")

Row = dict[str, Any]
Report = dict[str, Any]


def summarize(
    model: nn.Module | str,
    method: str | Quantizer | None = "bnn++",
    mode: str = "bwa",
    shape: Sequence[int] | None = None,
) -> Report:
    """Costs of one input: `layers`, a row for every module that multiplies or learns, and `total`.

    `model` is a name of the zoo, built with `method` (None: all float) and `mode`, or a module,
    counted as it is and left so. `shape` is that of one input, (channels, height, width) for an
    image; a model of the zoo without it has the images and classes it was published for.

    A row has name, op (the module's class), input_shape, output_shape (without the batch; [] for a
    module that is not called), binary_macs, float_macs, binary_parameters, float_parameters and
    bytes; `total` has binary_macs, float_macs, parameters, bytes and float_bytes. All products of
    matrices and all convolutions count, attention's among them, elementwise operations do not.
    A multiply-accumulate is binary when both factors are signs. BatchNorm counts as the scale and
    the shift that it is in inference. `bytes` has one bit a binary weight, in rows padded as in
    files, and float32 for the rest; the scale of a filter, which merges with BatchNorm, is not
    counted. Raises BindeployError for an unknown name, and a module that does not run on `shape`.
    """
    if isinstance(model, str):
        channels, size, classes = models.check(model).shape
        shape = (channels, size, size) if shape is None else _image(shape)
        with META:
            network = models.build(model, shape[0], classes, shape[1], method, mode)
    elif shape is None:
        raise BindeployError("`shape` is missing: a module needs that of one input, as (3, 32, 32)")
    else:
        network = _without_numbers(model)
    rows = _rows(network, tuple(shape))
    parameters = sum(row["binary_parameters"] + row["float_parameters"] for row in rows)
    total = {
        "binary_macs": sum(row["binary_macs"] for row in rows),
        "float_macs": sum(row["float_macs"] for row in rows),
        "parameters": parameters,
        "bytes": sum(row["bytes"] for row in rows),
        "float_bytes": FLOAT_BYTES * parameters,
    }
    return {"layers": rows, "total": total}


def _image(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[1] != shape[2] or min(shape) < 1:
        raise BindeployError(
            f"shape `{tuple(shape)}` is not of a square image: give (channels, pixels, pixels)"
        )
    return shape[0], shape[1], shape[2]


def _without_numbers(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device, in which shared parameters are shared as well."""
    tensors: dict[int, Tensor] = {
        id(parameter): nn.Parameter(parameter.detach().to(META)) for parameter in model.parameters()
    }
    tensors |= {id(buffer): buffer.detach().to(META) for buffer in model.buffers()}
    return copy.deepcopy(model, tensors)


@dataclass
class _Calls:
    """Shapes of the last call of a module, without the batch, and its own multiply-accumulates.

    Those of the modules within it are theirs.
    """

    input_shape: list[int]
    output_shape: list[int]
    macs: int = 0


def _rows(network: nn.Module, shape: tuple[int, ...]) -> list[Row]:
    """A row for every module of `network` with parameters or products, as registered.

    A parameter that several modules share counts for the first.
    """
    calls = _run(network, shape)
    counted: set[nn.Parameter] = set()
    rows = []
    for name, module in network.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if p not in counted}
        counted |= set(own.values())
        row = _row(name or ", ".join(own), module, own, calls.get(module, _Calls([], [])))
        if any(row[key] for key in ("binary_macs", "float_macs", "bytes")):
            rows.append(row)
    return rows


def _row(name: str, module: nn.Module, own: dict[str, nn.Parameter], calls: _Calls) -> Row:
    sizes = {key: parameter.numel() for key, parameter in own.items()}
    packed = weights = 0
    if isinstance(module, BinaryLayer) and "weight" in own:
        weights = sizes.pop("weight")
        filters, channels, *taps = own["weight"].shape
        packed = filters * math.prod(taps) * bits.row_bytes(channels)
    kept = 2 * module.num_features if isinstance(module, BATCH_NORMS) else sum(sizes.values())
    both_are_signs = isinstance(module, BinaryLayer) and module.mode.binary_input
    return {
        "name": name or type(module).__name__,
        "op": type(module).__name__,
        "input_shape": calls.input_shape,
        "output_shape": calls.output_shape,
        "binary_macs": calls.macs if both_are_signs else 0,
        "float_macs": 0 if both_are_signs else calls.macs,
        "binary_parameters": weights,
        "float_parameters": kept,
        "bytes": packed + FLOAT_BYTES * kept,
    }


def _run(network: nn.Module, shape: tuple[int, ...]) -> dict[nn.Module, _Calls]:
    """Run `network`, on the meta device, for one input of `shape`."""
    counter = FlopCounterMode(display=False)
    calls: dict[nn.Module, _Calls] = {}
    working: list[list[int]] = []  # of each module at work: the count as it began, its children's

    def begin(module: nn.Module, inputs: Any) -> None:
        working.append([counter.get_total_flops(), 0])

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        began, within = working.pop()
        spent = counter.get_total_flops() - began
        if working:
            working[-1][1] += spent
        call = calls.setdefault(module, _Calls([], []))
        call.input_shape, call.output_shape = _shape(inputs), _shape(output)
        call.macs += (spent - within) // FLOATING_OPERATIONS

    for module in network.modules():
        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)
    for _, layer in binary_layers(network):
        # One product of inputs and weights, whatever the mode, soft or hard.
        plain = next(plain for plain, binary in REPLACEMENTS.items() if isinstance(layer, binary))
        layer.forward = MethodType(plain.forward, layer)  # type: ignore[method-assign]
    try:
        with META, torch.no_grad(), counter:
            network.eval()(torch.empty(1, *shape))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BindeployError(
            f"`{type(network).__name__}` does not run on an input of shape {list(shape)} "
            f"({reason}): give `shape` as the network takes it, without the batch"
        ) from None
    return calls


def _shape(values: Any) -> list[int]:
    """Of the first tensor, without the batch; [] where there is none."""
    if isinstance(values, tuple | list):
        values = values[0] if values else None
    return list(values.shape[1:]) if isinstance(values, Tensor) else []
