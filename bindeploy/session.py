"""Run a model here, with onnxruntime's interface: `Session(path).run(None, {"input": x})`.

A plan needs numpy alone; an ONNX model is converted and lowered to a plan in memory first. A bundle
that was compiled by TVM needs numpy and TVM's runtime.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bindeploy.emit.plan_format import ALIGNMENT
from bindeploy.emit.plan_source import PlanSource, read
from bindeploy.emit.tvm import module_source
from bindeploy.errors import BindeployError, not_installed, unknown
from bindeploy.library import (
    ERROR_BYTES,
    Description,
    NodeRow,
    Observer,
    Options,
    library_path,
    load_library,
)

if TYPE_CHECKING:
    import onnx_ir

Model: TypeAlias = "str | os.PathLike[str] | bytes | onnx_ir.Model"

MAX_THREADS = 256
"""As many as the runtime takes; above any machine it is meant for."""

GIVES_INTEGERS = {
    *("binary_conv", "binary_conv_threshold"),
    *("saturating_conv", "saturating_conv_threshold"),
}
"""The ops whose integers `Session.integers` reports."""


@dataclass(frozen=True)
class Value:
    """An input or output, as onnxruntime describes one; the first axis is called "N"."""

    name: str
    shape: tuple[str | int, ...]
    type: str = "tensor(float)"


@dataclass(frozen=True)
class Node:
    """One node of a plan. `kernel` is the row of kernels.inc that it runs, or "".

    `macs` counts multiply-accumulates of one image, binary or float. `output_shape` is
    [1, H, W, C], of the model's output [1, C, H, W]. Of a compiled module a node is a call of a
    kernel, named after its layer if it has one; neither its MACs nor its shape are known.
    """

    name: str
    op: str
    kernel: str
    macs: int
    output_shape: tuple[int, ...]


class Session:
    """A model ready to run.

    `model` is the path of a `.bd` or `.onnx` file or of a bundle's folder, the bytes of either
    file, or an onnx_ir.Model. `threads` work on each image together; the results are the same for
    any number of them, bit for bit. `isa` holds the kernels to one instruction set ("scalar",
    "avx2", "avx512", "neon"). Bad arguments, files and inputs raise BindeployError. Calls from
    several threads wait for each other. Use it as a context manager, or `close()` it. The folder of
    a bundle that TVM compiled gives a `ModuleSession`.
    """

    _model: int | None = None

    def __new__(cls, model: Model, *_arguments: Any, **_options: Any) -> Session:
        compiled = cls is Session and module_source.is_module(model)
        return object.__new__(ModuleSession if compiled else cls)

    def __init__(self, model: Model, threads: int = 1, isa: str | None = None) -> None:
        self._begin(threads)
        source = read(model)
        self._library = load_library(library_path())
        self._isa = isa
        self._plan = _aligned_copy(source.plan)
        self._model = self._load(source.label)
        self._describe(source)

    def _begin(self, threads: int) -> None:
        if threads not in range(1, MAX_THREADS + 1):
            raise BindeployError(f"`threads={threads}`: 1 to {MAX_THREADS} are possible")
        self.threads = threads
        self._lock = threading.Lock()

    def _load(self, label: str) -> int:
        handle = ctypes.c_void_p()
        error = ctypes.create_string_buffer(ERROR_BYTES)
        options = Options(self._isa.encode() if self._isa else None, self.threads)
        if self._library.bd_load(
            self._plan.ctypes.data,
            self._plan.nbytes,
            ctypes.byref(options),
            ctypes.byref(handle),
            error,
        ):
            raise BindeployError(f"{label}: {error.value.decode(errors='replace')}")
        assert handle.value is not None
        return handle.value

    def _describe(self, source: PlanSource) -> None:
        description = Description()
        self._library.bd_describe(self._model, ctypes.byref(description))
        self._input = _value(description.input_name, description.input_shape, source.input_rank)
        self._output = _value(description.output_name, description.output_shape, source.output_rank)
        self._output_shape = tuple(size for size in self._output.shape if isinstance(size, int))
        self.memory = {
            name: int(getattr(description, name))
            for name in ("plan_bytes", "arena_bytes", "weights_bytes", "scratch_bytes")
        }
        self.nodes = [_node(self._row(index)) for index in range(description.node_count)]

    def _row(self, index: int) -> NodeRow:
        row = NodeRow()
        self._library.bd_node_at(self._model, index, ctypes.byref(row))
        return row

    @property
    def isa(self) -> str:
        """The instruction set asked for, else the fastest one that this CPU has kernels for."""
        return self._isa or self._library.bd_isa().decode()

    def get_inputs(self) -> list[Value]:
        return [self._input]

    def get_outputs(self) -> list[Value]:
        return [self._output]

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, ArrayLike]
    ) -> list[NDArray[np.float32]]:
        """The outputs for any number of images: `input_feed` maps the input's name to them.

        float32 [N, C, H, W] (or [N, features]) -> one float32 array [N, ...] a name in
        `output_names`, or the only one for None.
        """
        names = [self._output.name] if output_names is None else list(output_names)
        for name in names:
            if name != self._output.name:
                raise unknown("output", name, [self._output.name])
        for name in input_feed:
            if name != self._input.name:
                raise unknown("input", name, [self._input.name])
        if self._input.name not in input_feed:
            raise BindeployError(f"input `{self._input.name}` is missing")
        images = self._images(input_feed[self._input.name])
        output = self._room(len(images))
        with self._lock:
            for index in range(len(images)):
                self._run_one(images, index, output)
        return [output for _ in names]

    def integers(self, x: ArrayLike) -> dict[str, NDArray[np.int32]]:
        """The integers of every binary layer before scale or threshold, by its name, in order.

        int32 [N, F, H, W], or [N, F] where the layer gives one pixel.
        """
        images = self._images(x)
        layers = {i: node for i, node in enumerate(self.nodes) if node.op in GIVES_INTEGERS}
        dots = {
            index: np.zeros((len(images), math.prod(shape[1:3]), shape[3]), np.int32)
            for index, shape in ((i, node.output_shape) for i, node in layers.items())
        }
        output = self._room(len(images))
        running = 0

        def observe(_user, node, first_pixel, pixels, first_filter, filters, tile, stride) -> None:
            if node in dots:
                rows = slice(first_pixel, first_pixel + pixels)
                columns = slice(first_filter, first_filter + filters)
                found = np.ctypeslib.as_array(tile, (pixels, stride))
                dots[node][running, rows, columns] = found[:, :filters]

        observer = Observer(observe)
        with self._lock:
            self._library.bd_observe(self._handle(), observer, None)
            try:
                for running in range(len(images)):
                    self._run_one(images, running, output)
            finally:
                self._library.bd_observe(self._handle(), Observer(), None)
        return {node.name: _channels_first(dots[index], node) for index, node in layers.items()}

    def profile(self, x: ArrayLike, runs: int = 50, warmup: int = 5) -> list[list[int]]:
        """Nanoseconds of every node of `nodes`, a list a run; run i takes image i modulo N."""
        images = self._images(x)
        if len(images) == 0 or runs < 1 or warmup < 0:
            raise BindeployError(
                f"profile of {len(images)} images, `runs={runs}`, `warmup={warmup}`: "
                "take at least one image and one run"
            )
        with self._lock:
            times = [self._times(images, run % len(images)) for run in range(-warmup, runs)]
        return times[warmup:]

    def _times(self, images: NDArray[np.float32], index: int) -> list[int]:
        """Nanoseconds of every node for image `index`."""
        self._library.bd_profile(self._handle(), 1)
        try:
            self._run_one(images, index, self._room(len(images)))
            return [self._row(index).nanoseconds for index in range(len(self.nodes))]
        finally:
            self._library.bd_profile(self._handle(), 0)

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        with self._lock:
            if self._model is not None:
                self._library.bd_close(self._model)
                self._model = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._model is not None:
            self.close()

    def _handle(self) -> int:
        if self._model is None:
            raise BindeployError("the session is closed: open another one")
        return self._model

    def _room(self, count: int) -> NDArray[np.float32]:
        """Room for the outputs of `count` images."""
        return np.empty((count, *self._output_shape), np.float32)

    def _run_one(
        self, images: NDArray[np.float32], index: int, output: NDArray[np.float32]
    ) -> None:
        """Image `index` through the model into output `index`; both are whole and contiguous."""
        source = images.ctypes.data + index * images.strides[0]
        target = output.ctypes.data + index * output.strides[0]
        self._library.bd_run(self._handle(), source, target)

    def _images(self, x: ArrayLike) -> NDArray[np.float32]:
        """`x`, checked, contiguous, one image after the other."""
        images = np.asarray(x)
        name, taken = self._input.name, self._input.shape[1:]
        if images.dtype != np.float32:
            raise BindeployError(f"input `{name}` is {images.dtype}; the model takes float32")
        one_pixel = {taken[:1], (*taken[:1], 1, 1)} if math.prod(taken[1:]) == 1 else {taken}
        if images.ndim == 0 or images.shape[1:] not in one_pixel:
            raise BindeployError(
                f"input `{name}` has shape {list(images.shape)}; "
                f"the model takes [{', '.join(map(str, self._input.shape))}]"
            )
        return np.ascontiguousarray(images)


class ModuleSession(Session):
    """A bundle's compiled module, run by TVM: `pip install 'bindeploy[tvm]'`.

    A module is machine code, which opening it loads into this process: open bundles of people you
    trust. There is no plan, so `memory` is empty; `isa` cannot be chosen and says what processor it
    was compiled for. TVM has no more threads than the machine has processors.
    """

    def __init__(self, model: Model, threads: int = 1, isa: str | None = None) -> None:
        self._begin(threads)
        if isa is not None:
            raise BindeployError(
                f"`isa={isa}`: a compiled module has the kernels of its target, leave `isa` out"
            )
        self._source = module_source.read(Path(os.fspath(model)))  # type: ignore[arg-type]
        self._machines: dict[str, Any] | None = {}
        source = self._source
        self._input = Value(source.input.name, ("N", *source.input.shape))
        self._output = Value(source.output.name, ("N", *source.output.shape))
        self._output_shape = source.output.shape
        self.memory = {}
        self.nodes = [_call(*call) for call in source.calls]
        self._machine(module_source.MODULE)

    @property
    def isa(self) -> str:
        return self._source.processor

    def integers(self, x: ArrayLike) -> dict[str, NDArray[np.int32]]:
        """As of a plan, from the bundle's other module, whose outputs they are."""
        images = self._images(x)
        layers = {
            name: np.empty((len(images), *shape), np.int32)
            for name, shape in self._source.layers.items()
        }
        shapes = [self._output_shape, *self._source.layers.values()]
        with self._lock:
            for index in range(len(images)):
                _logits, *found = self._found(module_source.INTEGERS, images, index, shapes)
                for array, integers in zip(layers.values(), found, strict=True):
                    array[index] = integers
        return layers

    def close(self) -> None:
        with self._lock:
            self._machines = None

    def _run_one(
        self, images: NDArray[np.float32], index: int, output: NDArray[np.float32]
    ) -> None:
        (output[index],) = self._found(module_source.MODULE, images, index, [self._output_shape])

    def _found(
        self, name: str, images: NDArray[np.float32], index: int, shapes: list[tuple[int, ...]]
    ) -> list[NDArray]:
        """What the module `name` gives for one image, of the shapes that the manifest promises."""
        found = [array[0] for array in self._machine(name).run(self._one(images, index))]
        if [array.shape for array in found] != shapes:
            raise self._other("outputs")
        return found

    def _times(self, images: NDArray[np.float32], index: int) -> list[int]:
        calls = self._machine(module_source.MODULE).profile(self._one(images, index))
        if [name for name, _ in calls] != [node.kernel for node in self.nodes]:
            raise self._other("kernels")
        return [nanoseconds for _, nanoseconds in calls]

    def _other(self, what: str) -> BindeployError:
        return BindeployError(
            f"bundle `{self._source.folder}` has other {what} than its manifest says: "
            "export it again"
        )

    def _one(self, images: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        return images[index].reshape(1, *self._source.input.shape)

    def _machine(self, name: str) -> Any:
        """The `Machine` of a module of the bundle, loaded when first asked for."""
        if self._machines is None:
            raise BindeployError("the session is closed: open another one")
        if name not in self._machines:
            try:
                from bindeploy.emit.tvm.machine import Machine
            except ModuleNotFoundError as error:
                raise not_installed(error) or error from None
            self._machines[name] = Machine(
                self._source.module(name), self.threads, self._source.device
            )
        return self._machines[name]


def _aligned_copy(content: bytes) -> NDArray[np.uint8]:
    """A copy that begins at a multiple of 64, where the runtime reads its constants in place."""
    room = np.empty(len(content) + ALIGNMENT, np.uint8)
    first = -room.ctypes.data % ALIGNMENT
    copy = room[first : first + len(content)]
    copy[:] = np.frombuffer(content, np.uint8)
    return copy


def _value(name: bytes, shape: Sequence[int], rank: int | None) -> Value:
    """[1, C, H, W], or [1, H, W, C], as ONNX wrote it: one pixel is [N, C] unless `rank` says
    otherwise; rank 3 has no height, where that is 1.
    """
    _, *sizes = map(int, shape)
    if rank in (None, 2) and sizes[1:] == [1, 1]:
        del sizes[1:]
    elif rank == 3 and 1 in sizes[:2]:
        del sizes[1 if sizes[1] == 1 else 0]
    return Value(name.decode(), ("N", *sizes))


def _node(row: NodeRow) -> Node:
    return Node(
        row.name.decode(), row.op.decode(), row.kernel.decode(), row.macs, tuple(row.output_shape)
    )


def _call(kernel: str, layer: str) -> Node:
    return Node(layer or kernel, kernel.rstrip("0123456789"), kernel, 0, ())


def _channels_first(dots: NDArray[np.int32], node: Node) -> NDArray[np.int32]:
    """[N, H * W, F] -> [N, F, H, W], or [N, F] for one pixel."""
    _, height, width, filters = node.output_shape
    if height * width == 1:
        return dots[:, 0]
    pixels = dots.reshape(-1, height, width, filters)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
