from __future__ import annotations

import pytest
import torch

from mmkd.library.losses.balanced_kl import BalancedKL
from mmkd.library.losses.divergences import ReverseKL
from mmkd.library.losses.kl import KLDivergence

from . import logit_oracle as truth
from .test_losses import normal

student, teacher = normal(8, 6) * 2, normal(8, 6, seed=1) * 2


@pytest.mark.parametrize(("delta", "temperature"), [(2.0, 1.0), (5.0, 4.0), (0.0, 1.0)])
def test_equals_the_weighted_sums(delta: float, temperature: float) -> None:
    loss = BalancedKL(delta, temperature)(student, teacher)
    for i in range(8):
        value = truth.balanced(student[i].tolist(), teacher[i].tolist(), delta, temperature)
        assert loss[i].item() == pytest.approx(value, rel=1e-9)


def test_without_a_favour_it_is_the_sum_of_both() -> None:
    both = KLDivergence(2.0)(student, teacher) + ReverseKL(2.0)(student, teacher)
    torch.testing.assert_close(BalancedKL(1.0, 2.0)(student, teacher), both)
    assert not torch.allclose(BalancedKL(2.0, 2.0)(student, teacher), both)


def test_the_side_depends_on_who_is_the_surer() -> None:
    unsure, sure = torch.tensor([[0.1, 0.0, 0.0]]), torch.tensor([[6.0, 0.0, 0.0]])
    forward, reverse = KLDivergence(), ReverseKL()
    for s, t, favoured in ((sure, unsure, forward), (unsure, sure, reverse)):
        torch.testing.assert_close(BalancedKL(3.0)(s, t) - BalancedKL(1.0)(s, t), 2 * favoured(s, t))


def test_zero_at_equality() -> None:
    assert BalancedKL()(teacher, teacher).abs().max() < 1e-12
