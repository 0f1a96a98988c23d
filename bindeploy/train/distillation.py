"""Learning from the logits of a full-precision teacher."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from bindeploy.errors import BindeployError


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0
) -> Tensor:
    """T^2 KL(p || q), the mean over the batch: logits [N, classes] of both -> a scalar.

    p = softmax(teacher / T), q = softmax(student / T), KL(p || q) = sum p (log p - log q). Its
    gradient for the student is T (q - p) / N, and the factor T^2 is what keeps it as large as that
    of the cross entropy when T grows. The teacher gets none. Logits of fewer than 32 bits are
    computed in float32. Logits of two shapes, and a T that is not above 0, raise BindeployError.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015),
    section 2.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise BindeployError(
            f"logits {list(student_logits.shape)} of the student and {list(teacher_logits.shape)}"
            " of the teacher: give a teacher of the same classes"
        )
    if not 0 < temperature < math.inf:
        raise BindeployError(f"temperature `{temperature}`: give a number above 0")
    student, teacher = (
        functional.log_softmax(logits / temperature, 1, dtype=_computed_in(logits))
        for logits in (student_logits, teacher_logits.detach())
    )
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def _computed_in(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
