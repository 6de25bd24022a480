from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.divergences import JensenShannon
from mmkd.library.losses.sinkd import SinkhornKD

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher = normal(5, 4) * 2, normal(5, 4, seed=1) * 2


@pytest.mark.parametrize(("temperature", "epsilon", "iterations"), [(2.0, 0.1, 20), (1.0, 0.5, 3)])
def test_equals_the_plan_times_the_cost(temperature: float, epsilon: float, iterations: int) -> None:
    expected = truth.sinkd(student.tolist(), teacher.tolist(), temperature, epsilon, iterations)
    assert SinkhornKD(temperature, epsilon, iterations)(student, teacher).tolist() == pytest.approx(expected, rel=1e-9)


def test_tends_to_zero_at_equality_and_to_the_best_matching() -> None:
    """A permuted batch is as near as an equal one: the plan finds the partner, sample by sample distances do not."""
    order = torch.tensor([3, 0, 4, 1, 2])
    for partner in (teacher, teacher[order]):
        assert SinkhornKD(epsilon=0.01, iterations=200)(partner, teacher).max() < 1e-3
    assert SinkhornKD(epsilon=1.0)(teacher, teacher).mean() > 1e-2


def test_one_sample_is_its_l1_distance() -> None:
    value = SinkhornKD(1.0)(student[:1], teacher[:1])
    torch.testing.assert_close(value, (student[:1].softmax(1) - teacher[:1].softmax(1)).abs().sum(1))


def test_disjoint_supports_still_send_a_gradient() -> None:
    """JSD saturates where the student holds a class that the teacher rules out; the distance goes on falling."""
    t = torch.tensor([[30.0, 0, 0], [30, 0, 0]])
    s = torch.tensor([[0.0, 4, 0], [0, 0, 4]], requires_grad=True)
    (flat,) = torch.autograd.grad(JensenShannon(0.999)(s, t).sum(), s)
    (steep,) = torch.autograd.grad(SinkhornKD(1.0)(s, t).sum(), s)
    assert steep.abs().max() > 10 * flat.abs().max()
    assert (steep[:, 0] < 0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(GraphError, match=r"needs logits \[B, C\]"):
        SinkhornKD()(normal(2, 3, 4), normal(2, 3, 4))
    with pytest.raises(RecipeError, match="epsilon must be greater than 0"):
        SinkhornKD(epsilon=0.0)


def test_agrees_with_its_authors() -> None:
    """They add up over the batch of five and weigh with 0.001."""
    agrees("sinkd", lambda o: (SinkhornKD(o["temperature"], o["epsilon"], o["iterations"]), 5 * 0.001, 0.0))
