from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.uld import SortedDistance

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher = normal(4, 3, 6) * 2, normal(4, 3, 9, seed=1) * 2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_the_sum_over_ranks(temperature: float) -> None:
    for s, t in ((student, teacher), (teacher, student)):
        loss = SortedDistance(temperature)(s, t)
        for b in range(4):
            for i in range(3):
                expected = truth.uld(s[b, i].tolist(), t[b, i].tolist(), temperature)
                assert loss[b, i].item() == pytest.approx(expected, rel=1e-10)


def test_blind_to_which_class_is_which() -> None:
    loss = SortedDistance()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(student, teacher[..., order]), loss(student, teacher))
    assert loss(teacher[..., order], teacher).abs().max() < 1e-12
    assert (loss(student, teacher) > 1e-3).all()


def test_classes_that_cannot_be_are_as_good_as_absent() -> None:
    padded = torch.cat([student, torch.full((4, 3, 5), -torch.inf, dtype=torch.float64)], -1).requires_grad_()
    value = SortedDistance()(padded, teacher)
    torch.testing.assert_close(value, SortedDistance()(student, teacher))
    value.sum().backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()


def test_agrees_with_its_authors() -> None:
    agrees("uld", lambda o: (SortedDistance(o["temperature"]), 1.0, 0.0))


def test_positions_correspond() -> None:
    with pytest.raises(GraphError, match=r"\[4, 3, 6\] and teacher \[4, 2, 9\]"):
        SortedDistance()(student, teacher[:, :2])
