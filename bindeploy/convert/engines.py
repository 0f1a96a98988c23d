"""Two engines that are not ours run a model: stock onnxruntime, and ONNX's numpy evaluator.

onnxruntime runs the function bodies (a float convolution of +-1), the evaluator the numpy meanings
(xor and popcount). They share no code, so where their integers agree, both are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from bindeploy.convert import dialect
from bindeploy.convert.integers import PREFIX, with_integers
from bindeploy.errors import BindeployError

Integers = dict[str, NDArray[np.int32]]
Run = Callable[[NDArray[np.float32]], Sequence[NDArray]]


def run_onnxruntime(model: ir.Model, x: NDArray[np.float32]) -> tuple[NDArray, Integers]:
    """Logits [N, ...], and the integers of every binarizing layer by node name, for x [N, ...]."""
    proto, names = with_integers(model)
    return _named(_in_batches(onnxruntime_run(proto), proto, x), names)


def run_numpy(model: ir.Model, x: NDArray[np.float32]) -> tuple[NDArray, Integers]:
    """As `run_onnxruntime`, by `onnx.reference` with the dialect's numpy meanings."""
    proto, names = with_integers(model)
    evaluator = ReferenceEvaluator(proto, new_ops=dialect.REFERENCE_OPS)
    name = proto.graph.input[0].name

    def run(batch: NDArray[np.float32]) -> Sequence[NDArray]:
        outputs: Any = evaluator.run(None, {name: batch})
        return outputs

    return _named(_in_batches(run, proto, x), names)


def onnxruntime_session(proto: onnx.ModelProto, threads: int = 0) -> Any:
    """onnxruntime's session of a model on the CPU; `threads` 0 leaves their number to it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4  # what it refuses, it raises
    with _in_words(proto.graph.name):
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def onnxruntime_run(proto: onnx.ModelProto) -> Run:
    """A function from the input to every output, run by onnxruntime on the CPU."""
    name = proto.graph.input[0].name
    session = onnxruntime_session(proto)

    def run(batch: NDArray[np.float32]) -> Sequence[NDArray]:
        with _in_words(proto.graph.name):
            outputs: Any = session.run(None, {name: batch})
        return outputs

    return run


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    """onnxruntime's own refusals of a model, which are exceptions of a dozen kinds, in one line."""
    try:
        yield
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise BindeployError(
            f"onnxruntime does not run `{name}` ({line}): export a model that it runs"
        ) from error


def _in_batches(run: Run, proto: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray]:
    """Every output for all of `x`, in batches of the size that the model fixes, if it does."""
    fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    batches = [x] if not fixed else np.split(x, range(fixed, len(x), fixed))
    return [np.concatenate(arrays) for arrays in zip(*map(run, batches), strict=True)]


def _named(outputs: list[NDArray], names: list[str]) -> tuple[NDArray, Integers]:
    integers = outputs[len(outputs) - len(names) :]
    return outputs[0], {
        name.removeprefix(PREFIX): array for name, array in zip(names, integers, strict=True)
    }
