from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.ofa import TargetEnhancedKL

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher, label = normal(5, 6) * 2, normal(5, 6, seed=1) * 2, torch.tensor([0, 5, 2, 2, 3])


@pytest.mark.parametrize("epsilon", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_the_sum_over_classes(epsilon: float, temperature: float) -> None:
    loss = TargetEnhancedKL(epsilon, temperature)(student, teacher, label)
    for i in range(5):
        value = truth.ofa(student[i].tolist(), teacher[i].tolist(), int(label[i]), epsilon, temperature)
        assert loss[i].item() == pytest.approx(value, rel=1e-9)


def test_without_enhancement_it_is_kl() -> None:
    torch.testing.assert_close(TargetEnhancedKL(1.0, 2.0)(student, teacher, label), KLDivergence(2.0)(student, teacher))


def test_enhancement_moves_the_minimum_to_the_label() -> None:
    """Zero at the enhanced target, which is surer of the label than the teacher."""
    p, one = teacher.softmax(1), torch.nn.functional.one_hot(label, 6)
    weight = (p + one) ** 1.5 - one
    target = weight / weight.sum(1, keepdim=True)
    assert TargetEnhancedKL(1.5)(target.log(), teacher, label).abs().max() < 1e-12
    assert (target.gather(1, label[:, None]) > p.gather(1, label[:, None])).all()


def test_epsilon_is_greater_than_zero() -> None:
    with pytest.raises(RecipeError, match="epsilon must be greater than 0"):
        TargetEnhancedKL(0.0)


def test_agrees_with_its_authors() -> None:
    """They leave out `T^2` and the constant that makes the least value zero."""

    def make(o: dict[str, Any]) -> tuple[Loss, float, Tensor]:
        p, one = (o["inputs"]["teacher"] / o["temperature"]).softmax(1), torch.nn.functional.one_hot(label, 6)
        weight = (p + one) ** o["epsilon"] - one
        constant = (torch.xlogy(weight.sum(1), weight.sum(1)) - torch.xlogy(weight, weight).sum(1)).mean()
        return TargetEnhancedKL(o["epsilon"], o["temperature"]), 1 / o["temperature"] ** 2, constant

    agrees("ofa", make)
