"""LCE's own interpreter, one thread: `lce_engine.py FOLDER NAME ...` serves the networks FOLDER/NAME.tflite.

Questions: `versions`, `NAME macs`, and for each of `SETTINGS`: `NAME SETTING`. Runs in LCE's environment.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from engine import serve, timed
from flatbuffers import flexbuffers
from larq_compute_engine.mlir.python import tflite_schema
from larq_compute_engine.tflite.python.interpreter import Interpreter

SETTINGS = {
    "default": {},
    "indirect": {"use_indirect_bgemm": True},
    "indirect + XNNPACK": {"use_indirect_bgemm": True, "use_xnnpack": True},
}
PACKAGES = ("larq-compute-engine", "tensorflow", "tf_keras", "larq", "larq-zoo")
CONVOLUTION, DEPTHWISE, DENSE = 3, 4, 9
"""TFLite's codes of its own operators."""


def layers(content: bytes) -> Iterator[tuple[str, int]]:
    """("binary" or "float", multiply-accumulates) of every convolution and dense layer of a .tflite file."""
    model = tflite_schema.ModelT.InitFromObj(tflite_schema.Model.GetRootAsModel(content, 0))
    (graph,) = model.subgraphs
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        shapes = [[int(size) for size in graph.tensors[index].shape] for index in (*operator.inputs[:2], operator.outputs[0])]
        if code.customCode == b"LceBconv2d":
            channels = flexbuffers.Loads(bytes(operator.customOptions))["channels_in"]
            (_, weights, (_, height, width, _)) = shapes
            yield "binary", height * width * weights[0] * weights[1] * weights[2] * channels
        elif code.builtinCode in (CONVOLUTION, DEPTHWISE, DENSE):
            (_, weights, output) = shapes
            yield "float", int(np.prod(weights)) * int(np.prod(output[1:-1]))


def macs(content: bytes) -> dict[str, int]:
    found = [*layers(content)]
    return {kind: sum(macs for of, macs in found if of == kind) for kind in ("binary", "float")}


def questions(folder: Path, names: list[str]) -> dict[str, Callable[[], object]]:
    image = np.random.default_rng(0).standard_normal((1, 224, 224, 3), dtype=np.float32)
    asked = {"versions": lambda: {package: metadata.version(package) for package in PACKAGES}}
    for name in names:
        content = (folder / f"{name}.tflite").read_bytes()
        asked[f"{name} macs"] = partial(macs, content)
        for setting, options in SETTINGS.items():
            predict = Interpreter(content, num_threads=1, **options).interpreter.predict
            asked[f"{name} {setting}"] = partial(timed, partial(predict, [image]))
    return asked


if __name__ == "__main__":
    serve(questions(Path(sys.argv[1]), sys.argv[2:]))
