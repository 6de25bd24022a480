from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.luminet import PerceptionKL

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher = normal(5, 6) * 2, normal(5, 6, seed=1) * 2


@pytest.mark.parametrize(("alpha", "temperature"), [(31.0, 4.0), (1.0, 0.5)])
def test_equals_the_sum_over_classes(alpha: float, temperature: float) -> None:
    expected = truth.luminet(student.tolist(), teacher.tolist(), alpha, temperature)
    assert PerceptionKL(temperature, alpha)(student, teacher).tolist() == pytest.approx(expected, rel=1e-9)


def test_without_alpha_the_factor_is_that_of_the_temperature() -> None:
    torch.testing.assert_close(PerceptionKL(3.0)(student, teacher), PerceptionKL(3.0, 3.0)(student, teacher))


def test_blind_to_the_scale_and_shift_of_a_class() -> None:
    """Which plain logits are not: an over-confident class is read like any other."""
    scale, shift = torch.tensor([1.0, 50, 2, 3, 9, 1]), torch.tensor([5.0, -100, 0, 1, 2, 3])
    loss = PerceptionKL()
    torch.testing.assert_close(loss(student, teacher * scale + shift), loss(student, teacher), rtol=1e-4, atol=1e-6)
    assert loss(teacher * scale + shift, teacher).abs().max() < 1e-8


def test_needs_logits_of_a_batch() -> None:
    with pytest.raises(GraphError, match=r"needs logits \[B, C\]"):
        PerceptionKL()(normal(2, 3, 4), normal(2, 3, 4))


def test_agrees_with_its_authors() -> None:
    agrees("luminet", lambda o: (PerceptionKL(o["temperature"], o["alpha"]), 1.0, 0.0))
