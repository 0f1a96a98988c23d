"""Models compiled in this process, for any `Processor`, and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

tvm = pytest.importorskip("tvm", reason="tvm is not installed: pip install 'bindeploy[tvm]'")

from bindeploy import target  # noqa: E402
from bindeploy.convert import dialect  # noqa: E402
from bindeploy.emit.tvm.compiler import build  # noqa: E402
from bindeploy.emit.tvm.importer import to_relax  # noqa: E402
from bindeploy.emit.tvm.processor import Processor  # noqa: E402
from bindeploy.emit.tvm.targets import Described, describe  # noqa: E402

HOST = describe(target.load("host"))

PROCESSORS = {
    "16 lanes": Processor(16, 16, x86=HOST.processor.x86),
    "8 lanes": Processor(8, 8, x86=HOST.processor.x86, burst=True),
    "4 lanes": Processor(4, 16),
    "1 lane": Processor(1, 8),
}
"""LLVM cuts vectors that this machine does not have, so each runs here."""

Arrays = Sequence[np.ndarray]


def compiled(model: onnx.ModelProto, processor: Processor = HOST.processor) -> Callable[..., list]:
    """A function from the inputs of a model with fixed shapes to its outputs."""
    executable = build(to_relax(model, processor), Described(HOST.target, processor))
    main = tvm.relax.VirtualMachine(executable, tvm.cpu())["main"]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        found = main(*(tvm.runtime.tensor(x) for x in inputs))
        return [y.numpy() for y in ([found] if hasattr(found, "numpy") else found)]

    return run


class Drawing:
    """A graph in the making; every node has constant inputs beside its first."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, shape: Sequence[int]) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        return name

    def node(self, op: str, x: str | Sequence[str], *constants, domain="", **attributes) -> str:
        given = [x] if isinstance(x, str) else list(x)
        for array in constants:
            given.append(f"constant{len(self.constants)}")
            self.constants.append(onnx.numpy_helper.from_array(np.asarray(array), given[-1]))
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(
            onnx.helper.make_node(op, given, [name], name=name, domain=domain, **attributes)
        )
        return name

    def output(self, name: str, kind: int = onnx.TensorProto.FLOAT) -> None:
        self.outputs.append(onnx.helper.make_tensor_value_info(name, kind, None))

    def model(self) -> onnx.ModelProto:
        graph = onnx.helper.make_graph(
            self.nodes, "drawing", self.inputs, self.outputs, self.constants
        )
        domains = ("", dialect.DOMAIN, dialect.LATENT)
        imports = [(domain, dialect.VERSION if domain else dialect.OPSET) for domain in domains]
        opsets = [onnx.helper.make_opsetid(*pair) for pair in imports]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=dialect.IR_VERSION)


@pytest.fixture
def drawing() -> Drawing:
    return Drawing()


@pytest.fixture
def compile_model() -> Callable[..., Callable[..., list]]:
    return compiled


@pytest.fixture
def processors() -> list[Processor]:
    return list(PROCESSORS.values())


@pytest.fixture(params=PROCESSORS)
def processor(request) -> Processor:
    return PROCESSORS[request.param]
