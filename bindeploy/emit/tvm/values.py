"""A Relax function in the making, and the other forms in which its tensors exist.

ONNX has pictures as NCHW floats. Our kernels read and write NHWC, of floats or of packed words. So
a tensor that a kernel of ours wrote is known in both forms: whoever can read NHWC or words asks for
them, all others get NCHW, and what nobody asked for is dropped before anything is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, s_tir

from bindeploy.emit.tvm import packing
from bindeploy.emit.tvm.outputs import UNBOUNDED, Bounds
from bindeploy.emit.tvm.processor import Processor

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)

OF_NODE = "of_node_"
"""How tensors are called that kernels of ours made, before the number of the node and `_`."""


@dataclass(frozen=True)
class Recipe:
    """How a layer was computed, so that what follows it can be computed with it: `outputs.Affine`.

    `run(residual, bounds, last_bounds)` emits the layer anew, `node` of the graph; what was emitted
    before is dropped if nobody reads it.
    """

    run: Callable[[Any, Bounds, Bounds], Any]
    node: int | None = None
    residual: Any = None
    bounds: Bounds = UNBOUNDED
    last_bounds: Bounds = UNBOUNDED

    def with_bounds(self, bounds: Bounds) -> Recipe | None:
        """The layer clamped; None where it is already."""
        if self.residual is None and self.bounds == UNBOUNDED:
            return replace(self, bounds=bounds)
        if self.residual is not None and self.last_bounds == UNBOUNDED:
            return replace(self, last_bounds=bounds)
        return None

    def with_residual(self, residual: Any) -> Recipe | None:
        """The layer with an NHWC tensor added; None where there is one already."""
        return replace(self, residual=residual) if self.residual is None else None


@dataclass
class Forms:
    """What a tensor exists as, beside the form that ONNX gives it.

    `last` is NHWC; `words` are packed, by the number of groups that begin at a word, and `signs`
    says that it holds nothing else. `recipe` is that of the layer that made it, if it was one.
    `reads` counts who reads it.
    """

    last: Any = None
    words: dict[int, Any] = field(default_factory=dict)
    signs: bool = False
    recipe: Recipe | None = None
    reads: int = 0


class Values:
    """Tensors of the function that the block builder `block` is in.

    `node` counts the nodes of the graph: what is emitted belongs to that one, and is called so.
    """

    def __init__(self, block: Any, processor: Processor) -> None:
        self.block, self.processor, self.node = block, processor, 0
        self._forms: dict[Any, Forms] = {}

    def forms(self, value: Any) -> Forms:
        return self._forms.setdefault(value, Forms())

    def recipe(self, value: Any) -> Recipe | None:
        """How `value` was computed, where nobody but the node being lowered reads it."""
        forms = self.forms(value)
        return forms.recipe if forms.reads == 1 else None

    def follow(self, recipe: Recipe) -> Any:
        """The tensor that a recipe gives."""
        now = self.node
        self.node = now if recipe.node is None else recipe.node
        value = recipe.run(recipe.residual, recipe.bounds, recipe.last_bounds)
        self.forms(value).recipe = replace(recipe, node=self.node)
        self.node = now
        return value

    def emit(self, expression: Any) -> Any:
        return expression if isinstance(expression, tvm.ir.Var) else self.block.emit(expression)

    def call(self, function: Any, inputs: Sequence[Any], shape: Sequence[int], dtype: str) -> Any:
        """The tensor that a PrimFunc of ours computes from tensors and arrays."""
        name = str(function.attrs["global_symbol"])
        function = _in_block(function).without_attr("global_symbol")  # TVM tells equal names apart
        tensors = [constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        made = relax.call_tir(
            self.block.add_func(function, name), tensors, out_ty=relax.TensorType(shape, dtype)
        )
        return self.block.emit(made, f"{OF_NODE}{self.node}_")

    def picture(self, value: Any) -> tuple[int, int, int]:
        """Height, width and channels of a tensor as kernels of ours see it: see `channels_last`."""
        sizes = shape_of(value)
        if len(sizes) != 4:
            return 1, math.prod(sizes[:-1]), sizes[-1]
        if sizes[0] != 1:
            raise NotImplementedError(f"pictures are {sizes[0]}, not one")
        return sizes[2], sizes[3], sizes[1]

    def rows(self, value: Any) -> Any:
        """`value` [..., C] so that it is no picture: a dense layer reads the last axis of four."""
        shape = shape_of(value)
        if len(shape) != 4:
            return value
        return self.emit(relax.op.reshape(value, (math.prod(shape[:-1]), shape[-1])))

    def channels_last(self, value: Any) -> Any:
        """`value` as [1, H, W, C]: rows of features [..., C] are pixels of one picture row."""
        forms = self.forms(value)
        if forms.last is None:
            shape = (1, *self.picture(value))
            if len(shape_of(value)) == 4:
                forms.last = self.emit(relax.op.permute_dims(value, TO_LAST))
            else:
                forms.last = self.emit(relax.op.reshape(value, shape))
        return forms.last

    def from_last(self, last: Any, rank: Sequence[int] | None = None) -> Any:
        """The tensor as ONNX has it, of NHWC: NCHW, or reshaped to `rank`."""
        if rank is None:
            value = self.emit(relax.op.permute_dims(last, TO_FIRST))
        else:
            value = self.emit(relax.op.reshape(last, rank))
        self.forms(value).last = last
        return value

    def words(self, value: Any, groups: int) -> Any:
        """`value` binarized and packed, [1, H, W, words]."""
        forms = self.forms(value)
        if groups not in forms.words:
            last = self.channels_last(value)
            function = packing.binarize("binarize", shape_of(last), groups, self.processor)
            height, width, channels = self.picture(value)
            shape = (1, height, width, packing.words_of(channels, groups))
            forms.words[groups] = self.call(function, [last], shape, "uint32")
        return forms.words[groups]

    def from_words(
        self, words: Any, channels: int, groups: int, rank: Sequence[int] | None = None
    ) -> Any:
        """The tensor of +-1 as ONNX has it, of packed words."""
        shape = (*shape_of(words)[:3], channels)
        function = packing.unpack("unpack", shape, groups, self.processor)
        value = self.from_last(self.call(function, [words], shape, "float32"), rank)
        forms = self.forms(value)
        forms.words[groups], forms.signs = words, True
        return value

    def quantized(self, last: Any, step: float) -> Any:
        """NHWC floats as int8: clamp(round(x / step), -128, 127)."""
        shape = shape_of(last)
        flat = (math.prod(shape),)
        function = packing.quantize("quantize", flat, step, self.processor)
        made = self.call(function, [self.emit(relax.op.reshape(last, flat))], flat, "int8")
        return self.emit(relax.op.reshape(made, shape))

    def padded(self, last: Any, pads: Sequence[int], fill: float) -> Any:
        """NHWC floats or words with `pads` (top, left, bottom, right) of `fill` around them."""
        if not any(pads):
            return last
        shape, dtype = shape_of(last), last.ty.dtype
        top, left, bottom, right = pads
        function = packing.pad("pad", shape, tuple(pads), str(dtype), fill, self.processor)
        out = (1, top + shape[1] + bottom, left + shape[2] + right, shape[3])
        return self.call(function, [last], out, str(dtype))


def _in_block(function: Any) -> Any:
    """The function as TVM's passes over Relax expect one: all of it in a block."""
    block = s_tir.SBlock([], [], [], "root", function.body)
    return function.with_body(s_tir.SBlockRealize([], True, block))


def constant(array: NDArray) -> Any:
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(array)))


def array_of(value: Any) -> Any:
    """The numbers of a constant, None of anything else."""
    return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value.ty.shape)
