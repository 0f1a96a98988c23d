"""Sparse constants become dense ones: no engine here computes with sparse tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, numpy_helper

from bindeploy.errors import BindeployError

MOST_NUMBERS = 2**24
"""Of a sparse tensor made dense: few bytes of a file may claim any number."""


def make_dense(messages: Iterable[Message], label: str) -> None:
    """Every sparse initializer, and every sparse value of a Constant, as an ordinary tensor."""
    for message in messages:
        if isinstance(message, GraphProto):
            message.initializer.extend(_dense(each, label) for each in message.sparse_initializer)
            del message.sparse_initializer[:]
        elif isinstance(message, NodeProto) and message.op_type == "Constant":
            for attribute in message.attribute:
                if attribute.name == "sparse_value":
                    attribute.name, attribute.type = "value", AttributeProto.TENSOR
                    attribute.t.CopyFrom(_dense(attribute.sparse_tensor, label))
                    attribute.ClearField("sparse_tensor")


def _dense(sparse: SparseTensorProto, label: str) -> onnx.TensorProto:
    """The values at their places, zeros elsewhere; a place is one index, or one for each axis."""
    name, shape = sparse.values.name, list(sparse.dims)
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_NUMBERS:
        raise BindeployError(
            f"{label} has a sparse tensor `{name}` of {shape[:8]}: at most {MOST_NUMBERS} numbers "
            "of one are taken"
        )
    try:
        values = ir.serde.deserialize_tensor(sparse.values).numpy()
        places = ir.serde.deserialize_tensor(sparse.indices).numpy()
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        array = np.zeros(shape, values.dtype)
        if places.size:
            array.reshape(-1)[places] = values
        return numpy_helper.from_array(array, name)
    except Exception as error:  # of half a dozen kinds, by numbers that do not fit together
        line = " ".join(str(error).split())[:200]
        raise BindeployError(
            f"{label} is no valid ONNX model (sparse tensor `{name}`: {line}): export it anew"
        ) from None
