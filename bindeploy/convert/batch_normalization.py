"""A BatchNormalization node's numbers: y = (x - mean) * gamma / sqrt(var + epsilon) + beta."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert.sign_flow import one_output, only_consumer
from bindeploy.errors import BindeployError


@dataclass(frozen=True)
class BatchNormalization:
    """Parameters of one node, float64 [C]; `slope` is gamma / sqrt(var + epsilon)."""

    node: ir.Node
    slope: NDArray[np.float64]
    mean: NDArray[np.float64]
    beta: NDArray[np.float64]

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x - self.mean) * self.slope + self.beta

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]


def read(node: ir.Node) -> BatchNormalization | None:
    """The numbers of a node in inference mode with constant parameters; None for any other node.

    Raises BindeployError, naming the node, when a parameter is not finite or a variance is
    negative.
    """
    if node.domain != "" or node.op_type != "BatchNormalization" or not one_output(node):
        return None
    if node.attributes.get_int("training_mode", 0):
        return None
    tensors = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value]
    if len(tensors) != 4 or None in tensors:
        return None
    gamma, beta, mean, var = (
        tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None
    )
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = gamma / np.sqrt(var + epsilon)
    if not all(np.isfinite(array).all() for array in (slope, mean, beta)):
        raise BindeployError(
            f"node `{node.name}` normalizes by numbers that are not finite: retrain it, or drop "
            "its dead channels"
        )
    return BatchNormalization(node, slope, mean, beta)


def following(value: ir.Value) -> BatchNormalization | None:
    """The batch normalization that alone reads `value` along its channels, axis 1."""
    node = only_consumer(value)
    return None if node is None else read(node)
