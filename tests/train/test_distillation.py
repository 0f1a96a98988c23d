"""The loss between the logits of a student and those of its teacher."""

from __future__ import annotations

import math

import pytest
import torch

from bindeploy.errors import BindeployError
from bindeploy.train.distillation import distillation_loss

GENERATOR = torch.Generator().manual_seed(5)
STUDENT = 3 * torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)
TEACHER = 3 * torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in row]
    return [power / sum(powers) for power in powers]


def by_hand(temperature: float) -> float:
    """T^2 sum p log(p / q) / N with Python's own floats."""
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        q, p = softmax(student, temperature), softmax(teacher, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(STUDENT)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_formula(temperature):
    loss = distillation_loss(STUDENT, TEACHER, temperature)
    assert loss.dtype == torch.float64 and loss.shape == ()
    assert float(loss) == pytest.approx(by_hand(temperature), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_the_distributions(temperature):
    student = STUDENT.clone().requires_grad_()
    distillation_loss(student, TEACHER, temperature).backward()
    q = [softmax(row, temperature) for row in STUDENT.tolist()]
    p = [softmax(row, temperature) for row in TEACHER.tolist()]
    expected = temperature * (torch.tensor(q) - torch.tensor(p)).double() / len(STUDENT)
    torch.testing.assert_close(student.grad, expected, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_that_of_finite_differences():
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, TEACHER, 2.0), student)


def test_the_teacher_learns_nothing():
    teacher = TEACHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None


def test_a_student_like_its_teacher_loses_nothing_and_any_other_something():
    assert float(distillation_loss(TEACHER, TEACHER + 7.0)) == pytest.approx(0, abs=1e-12)
    assert float(distillation_loss(STUDENT, TEACHER)) > 0.1


def test_large_temperatures_leave_the_size_of_the_gradient():
    """Hinton (2015), section 2.1: towards the mean squared difference of centred logits."""
    centred = [x - x.mean(1, keepdim=True) for x in (STUDENT, TEACHER)]
    squares = (centred[0] - centred[1]).square().sum() / (2 * STUDENT.shape[1] * len(STUDENT))
    assert float(distillation_loss(STUDENT, TEACHER, 1e3)) == pytest.approx(
        float(squares), rel=1e-2
    )


def test_short_floats_are_computed_in_float32():
    student, teacher = STUDENT.bfloat16(), TEACHER.bfloat16()
    loss = distillation_loss(student, teacher, 1.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(student.float(), teacher.float(), 1.0))


def test_certain_teachers_give_finite_losses():
    certain = torch.tensor([[1000.0, -1000.0]])
    assert float(distillation_loss(-certain, certain, 1.0)) == 2000


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(BindeployError, match="temperature `.*`: give a number above 0"):
        distillation_loss(STUDENT, TEACHER, temperature)


def test_logits_of_other_classes_are_refused():
    with pytest.raises(BindeployError, match=r"\[6, 4\] of the student and \[6, 3\]"):
        distillation_loss(STUDENT, TEACHER[:, :3])
