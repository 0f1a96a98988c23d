"""Sums that saturate: products with 8-bit accumulators, word by word.

The channels of a tap are taken in words of 32. In the order (kernel row, kernel column, word) each
word's dot product is added to the accumulator, which then saturates (convention):

    a <- min(max(a + dot(word), -128), 127)

On signs the result is an integer, the same in every engine that keeps the order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

WORD = 32
LOWEST, HIGHEST = -128, 127


def conv2d(
    x: Tensor,
    weight: Tensor,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Tensor:
    """x [N, C, H, W], padded before, weight [F, C/groups, KH, KW] -> [N, F, H', W'], saturated."""
    rows, columns = weight.shape[2:]
    height = (x.shape[2] - dilations[0] * (rows - 1) - 1) // strides[0] + 1
    width = (x.shape[3] - dilations[1] * (columns - 1) - 1) // strides[1] + 1
    total = x.new_zeros(x.shape[0], weight.shape[0], height, width)
    for row in range(rows):
        for column in range(columns):
            top, left = row * dilations[0], column * dilations[1]
            tap = x[
                :,
                :,
                top : top + (height - 1) * strides[0] + 1 : strides[0],
                left : left + (width - 1) * strides[1] + 1 : strides[1],
            ]
            by_group = tap.unflatten(1, (groups, -1))
            for first in range(0, weight.shape[1], WORD):
                word = by_group[:, :, first : first + WORD].flatten(1, 2)
                part = weight[:, first : first + WORD, row, column, None, None]
                dot = functional.conv2d(word, part, groups=groups)
                total = torch.clamp(total + dot, LOWEST, HIGHEST)
    return total


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., C], weight [F, C] -> [..., F], saturated."""
    total = x.new_zeros(*x.shape[:-1], weight.shape[0])
    for first in range(0, weight.shape[1], WORD):
        words = slice(first, first + WORD)
        dot = functional.linear(x[..., words], weight[:, words])
        total = torch.clamp(total + dot, LOWEST, HIGHEST)
    return total
