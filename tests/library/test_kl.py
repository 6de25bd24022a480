from __future__ import annotations

import math

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.kl import KLDivergence

from . import oracle
from .golden import agrees
from .test_losses import normal


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_the_sum_over_classes(temperature: float) -> None:
    student, teacher = normal(4, 3, 7) * 5, normal(4, 3, 7, seed=1) * 5
    loss = KLDivergence(temperature)(student, teacher)
    for b in range(4):
        for t in range(3):
            truth = oracle.kl(student[b, t].tolist(), teacher[b, t].tolist(), temperature)
            assert loss[b, t].item() == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_is_that_of_the_oracle(temperature: float) -> None:
    student, teacher = (normal(4, 7, seed=s).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(KLDivergence(temperature), (student, teacher))
    (slope,) = torch.autograd.grad(KLDivergence(temperature)(student, teacher).sum(), student)
    gap = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(slope, temperature * gap, rtol=1e-10, atol=1e-12)


def test_zero_at_equality_and_blind_to_shifts() -> None:
    student, teacher = normal(4, 7), normal(4, 7, seed=1)
    kl = KLDivergence(2.0)
    assert kl(teacher, teacher).abs().max() == 0
    assert (kl(student, teacher) > 0).all()
    torch.testing.assert_close(kl(student + 100, teacher - 7), kl(student, teacher))


def test_hot_limit_is_the_error_of_centred_logits() -> None:
    student, teacher = normal(4, 7), normal(4, 7, seed=1)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(KLDivergence(1e4)(student, teacher), gap.square().sum(1) / 14, rtol=1e-3, atol=0)


def test_classes_that_cannot_be() -> None:
    """-inf in the teacher, in both, and only in the student."""
    student, teacher = normal(3, 5), normal(3, 5, seed=1)
    teacher[:2, 0] = -math.inf
    student[1:, 0] = -math.inf
    student.requires_grad_()
    teacher.requires_grad_()
    loss = KLDivergence()(student, teacher)
    for b in range(2):
        assert loss[b].item() == pytest.approx(oracle.kl(student[b].tolist(), teacher[b].tolist()), rel=1e-10)
    assert loss[2].item() == math.inf
    loss[:2].sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert teacher.grad is not None
    assert teacher.grad[:2].isfinite().all()
    expected = student.detach().softmax(1) - teacher.detach().softmax(1)
    torch.testing.assert_close(student.grad[:2], expected[:2])


def test_certain_teacher_is_cross_entropy() -> None:
    student, teacher = normal(2, 5).float(), torch.tensor([[0, 6e4, 0, 0, 0], [-6e4, 0, -6e4, -6e4, -6e4]])
    torch.testing.assert_close(KLDivergence()(student, teacher), -student.log_softmax(1)[:, 1])


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(GraphError, match=r"student \[4, 7\] and teacher \[1, 7\]"):
        KLDivergence()(normal(4, 7), normal(1, 7))


def test_standardized_logits_lose_their_size_and_shift() -> None:
    """What Sun et al. ask for: a student of the right shape is right, whatever its size."""
    student, teacher = normal(4, 7), normal(4, 7, seed=1)
    plain, standard = KLDivergence(2.0), KLDivergence(2.0, standardize=True)
    torch.testing.assert_close(standard(9 * student - 4, teacher), standard(student, teacher), rtol=1e-5, atol=1e-9)
    assert standard(9 * teacher - 4, teacher).max() < 1e-9
    assert plain(9 * teacher - 4, teacher).min() > 1e-2


def test_standardized_agrees_with_its_authors() -> None:
    """They divide by the unbiased deviation, which is a higher temperature, and multiply by their own `T^2`."""
    ratio = math.sqrt(6 / 5)
    agrees(
        "logit_standardization",
        lambda o: (KLDivergence(o["temperature"] * ratio, standardize=True), 1 / ratio**2, 0.0),
    )
