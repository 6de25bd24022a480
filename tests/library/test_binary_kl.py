from __future__ import annotations

import math

import pytest
import torch

from mmkd.library.losses.binary_kl import BinaryKL
from mmkd.library.losses.kl import KLDivergence

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher = normal(5, 6) * 3, normal(5, 6, seed=1) * 3


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_equals_the_sum_over_classes(temperature: float, normalized: bool) -> None:
    loss = BinaryKL(temperature, normalized)(student, teacher)
    for i in range(5):
        value = truth.binary_kl(student[i].tolist(), teacher[i].tolist(), temperature, normalized)
        assert loss[i].item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("loss", [BinaryKL(), BinaryKL(2.0, normalized=True)])
def test_zero_only_where_every_logit_is_equal(loss: BinaryKL) -> None:
    assert loss(teacher, teacher).abs().max() < 1e-12
    assert (loss(teacher + 1, teacher) > 0.01).all()
    assert KLDivergence()(teacher + 1, teacher).abs().max() < 1e-12  # which a softmax cannot see


def test_two_classes_of_a_softmax_are_one_of_a_sigmoid() -> None:
    both = torch.stack([student[:, 0], torch.zeros(5, dtype=torch.float64)], 1)
    other = torch.stack([teacher[:, 0], torch.zeros(5, dtype=torch.float64)], 1)
    torch.testing.assert_close(BinaryKL(2.0)(student[:, :1], teacher[:, :1]), KLDivergence(2.0)(both, other))


@pytest.mark.parametrize("normalized", [False, True])
def test_gradient_is_that_of_the_docstring(normalized: bool) -> None:
    s = student.clone().requires_grad_()
    BinaryKL(2.0, normalized)(s, teacher).sum().backward()
    difference = ((s - teacher) / 2).sigmoid() - 0.5 if normalized else (s / 2).sigmoid() - (teacher / 2).sigmoid()
    torch.testing.assert_close(s.grad, 2 * difference)


def test_only_the_normalized_one_moves_a_saturated_student() -> None:
    s, t = torch.tensor([[40.0]], requires_grad=True), torch.tensor([[60.0]])
    (still,) = torch.autograd.grad(BinaryKL()(s, t).sum(), s)
    (moved,) = torch.autograd.grad(BinaryKL(normalized=True)(s, t).sum(), s)
    assert abs(still.item()) < 1e-12 and moved.item() == pytest.approx(-0.5, abs=1e-6)


def test_classes_that_cannot_be() -> None:
    """Ruled out by both: nothing. By the student alone: infinity."""
    never = torch.tensor([[-math.inf, 1.0]])
    s = never.clone().requires_grad_()
    value = BinaryKL()(s, never)
    assert value.item() == 0
    value.sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert BinaryKL()(never, torch.ones(1, 2)).item() == math.inf


def test_agrees_with_the_authors_of_l2d() -> None:
    agrees("l2d_logits", lambda o: (BinaryKL(), 1.0, 0.0))


def test_agrees_with_the_authors_of_dhkd() -> None:
    agrees("dhkd", lambda o: (BinaryKL(o["temperature"], o["normalized"]), 1.0, 0.0))
