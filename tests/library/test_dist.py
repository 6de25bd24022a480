from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.dist import PearsonDistance

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher = normal(5, 6) * 2, normal(5, 6, seed=1) * 2


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (0.3, 2.0, 4.0)])
def test_equals_the_correlations(beta: float, gamma: float, temperature: float) -> None:
    expected = truth.dist(student.tolist(), teacher.tolist(), beta, gamma, temperature)
    loss = PearsonDistance(beta, gamma, temperature)(student, teacher)
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_zero_at_equality_and_where_one_is_a_positive_map_of_the_other() -> None:
    assert PearsonDistance()(teacher, teacher).abs().max() < 1e-5
    p = teacher.softmax(1)
    flat = 0.3 * p + 0.7 / 6  # each row scaled and shifted, and it still sums to one
    assert PearsonDistance()(flat.log(), teacher).abs().max() < 1e-5


def test_weights_switch_their_part_off() -> None:
    inter = PearsonDistance(gamma=0.0)
    torch.testing.assert_close(inter(student[:3], teacher[:3]), inter(student, teacher)[:3])
    intra = PearsonDistance(beta=0.0)(student, teacher)
    assert intra.std() < 1e-12 and intra[0] > 0
    assert PearsonDistance(0.0, 0.0)(student, teacher).abs().max() == 0


def test_a_student_that_says_nothing_is_told_so_without_a_blow() -> None:
    """A head that starts at zero: divided by its own vanishing spread, the gradient would be about 1e7."""
    even = torch.zeros(5, 10, requires_grad=True)
    loss = PearsonDistance()(even, normal(5, 10, seed=1).float())
    torch.testing.assert_close(loss, torch.full((5,), 2.0))
    loss.sum().backward()
    assert even.grad is not None
    assert even.grad.abs().max() == 0


def test_needs_logits_of_a_batch() -> None:
    with pytest.raises(GraphError, match=r"needs logits \[B, C\]"):
        PearsonDistance()(normal(2, 3, 4), normal(2, 3, 4))


def test_agrees_with_its_authors() -> None:
    agrees("dist", lambda o: (PearsonDistance(o["beta"], o["gamma"]), 1.0, 0.0))
