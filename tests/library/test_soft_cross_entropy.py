from __future__ import annotations

import math

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.soft_cross_entropy import SoftCrossEntropy

from . import logit_oracle as truth
from .test_losses import normal

student, label = normal(5, 6) * 2, torch.tensor([0, 5, 2, 2, 3])
one = torch.nn.functional.one_hot(label, 6).double()


def test_equals_the_sum_over_classes() -> None:
    target = normal(5, 6, seed=1).softmax(1)
    loss = SoftCrossEntropy()(student, target)
    for i in range(5):
        p = target[i].tolist()
        expected = truth.divergence(p, truth.soft(student[i].tolist())) + truth.entropy(p)
        assert loss[i].item() == pytest.approx(expected, rel=1e-10)


def test_one_hot_is_cross_entropy_and_a_mix_costs_the_mix() -> None:
    loss, hard = SoftCrossEntropy(), CrossEntropy()
    torch.testing.assert_close(loss(student, one), hard(student, label))
    mixed = 0.3 * one + 0.7 * one.flip(0)
    torch.testing.assert_close(loss(student, mixed), 0.3 * hard(student, label) + 0.7 * hard(student, label.flip(0)))
    smooth = 0.9 * one + 0.1 / 6
    torch.testing.assert_close(loss(student, smooth), CrossEntropy(0.1)(student, label))


def test_classes_that_cannot_be() -> None:
    s = student.clone()
    s[:, 1] = -math.inf  # no sample has this label
    s.requires_grad_()
    loss = SoftCrossEntropy()(s, one)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_class_numbers_are_refused() -> None:
    with pytest.raises(GraphError, match=r"(?s)\[5, 6\] and target \[5\].*core.cross_entropy"):
        SoftCrossEntropy()(student, label)
