"""A BatchNormalization node's numbers: y = (x - mean) * gamma / sqrt(var + epsilon) + beta."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bindeploy.convert import constants
from bindeploy.convert.sign_flow import one_output
from bindeploy.errors import BindeployError


@dataclass(frozen=True)
class BatchNormalization:
    """Parameters of a node, float64 [C]: y = (x - mean) * slope + beta."""

    mean: NDArray[np.float64]
    slope: NDArray[np.float64]
    beta: NDArray[np.float64]


def read(node: ir.Node) -> BatchNormalization | None:
    """The numbers of a node in inference mode with constant parameters; None for any other node.

    Raises BindeployError, naming the node, when a parameter is not finite or a variance is
    negative.
    """
    if (node.domain, node.op_type) != ("", "BatchNormalization") or not one_output(node):
        return None
    arrays = [constants.read(value) for value in node.inputs[1:]]
    given = [array.astype(np.float64) for array in arrays if array is not None]
    if node.attributes.get_int("training_mode", 0) or len(given) != 4:
        return None
    gamma, beta, mean, var = given
    if gamma.ndim != 1 or any(array.shape != gamma.shape for array in given):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
    if not all(np.isfinite(array).all() for array in (slope, mean, beta)):
        raise BindeployError(
            f"node `{node.name}` normalizes by numbers that are not finite: retrain it, or drop "
            "its dead channels"
        )
    return BatchNormalization(mean, slope, beta)
