from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from goldens import cases
from torch import Tensor

from mmkd.errors import RecipeError
from mmkd.library.losses.divergences import JensenShannon, ReverseKL, SkewKL
from mmkd.library.losses.kl import KLDivergence

from . import logit_oracle as truth
from .test_losses import normal

student, teacher = normal(4, 7) * 3, normal(4, 7, seed=1) * 3


def rows(temperature: float) -> list[tuple[list[float], list[float]]]:
    return [
        (truth.soft(s, temperature), truth.soft(t, temperature))
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equal_the_sum_over_classes(temperature: float) -> None:
    for i, (q, p) in enumerate(rows(temperature)):
        square = temperature**2
        reverse = square * truth.divergence(q, p)
        assert ReverseKL(temperature)(student, teacher)[i].item() == pytest.approx(reverse, rel=1e-10)
        for share in (0.1, 0.5, 0.8):
            m = truth.mix(p, q, share)
            jsd = square * (share * truth.divergence(p, m) + (1 - share) * truth.divergence(q, m))
            assert JensenShannon(share, temperature)(student, teacher)[i].item() == pytest.approx(jsd, rel=1e-10)
            skew = square * truth.divergence(p, m)
            assert SkewKL(share, False, temperature)(student, teacher)[i].item() == pytest.approx(skew, rel=1e-10)
            skew = square * truth.divergence(q, truth.mix(q, p, share))
            assert SkewKL(share, True, temperature)(student, teacher)[i].item() == pytest.approx(skew, rel=1e-10)


@pytest.mark.parametrize("loss", [ReverseKL(2.0), JensenShannon(0.3), SkewKL(), SkewKL(reverse=True)])
def test_zero_at_equality_and_blind_to_shifts(loss: Any) -> None:
    assert loss(teacher, teacher).abs().max() < 1e-12
    assert (loss(student, teacher) > 0).all()
    torch.testing.assert_close(loss(student + 100, teacher - 7), loss(student, teacher))


def test_reverse_is_kl_with_the_ports_exchanged() -> None:
    torch.testing.assert_close(ReverseKL(3.0)(student, teacher), KLDivergence(3.0)(teacher, student))


def test_jsd_tends_to_both_divergences_and_is_symmetric_between() -> None:
    small = 1e-8
    torch.testing.assert_close(
        JensenShannon(small)(student, teacher) / small, KLDivergence()(student, teacher), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        JensenShannon(1 - small)(student, teacher) / small, ReverseKL()(student, teacher), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(JensenShannon()(student, teacher), JensenShannon()(teacher, student))


def test_without_skew_nothing_changes() -> None:
    torch.testing.assert_close(SkewKL(0.0)(student, teacher), KLDivergence()(student, teacher))
    torch.testing.assert_close(SkewKL(0.0, reverse=True)(student, teacher), ReverseKL()(student, teacher))


def test_bounds_hold_where_supports_are_disjoint() -> None:
    """A KL is infinite here, and the skew keeps the gradient finite too."""
    apart = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    other = apart.flip(1).requires_grad_()
    assert KLDivergence()(other, apart).item() == math.inf
    assert ReverseKL()(other, apart).item() == math.inf
    for loss, bound in (
        (SkewKL(0.1), -math.log(0.1)),
        (SkewKL(0.1, True), -math.log(0.1)),
        (JensenShannon(), math.log(2)),
    ):
        value = loss(other, apart)
        assert value.item() == pytest.approx(bound, rel=1e-10)
        (gradient,) = torch.autograd.grad(value.sum(), other)
        assert gradient.isfinite().all()


def test_gradient_of_the_skew_stays_small_where_that_of_kl_explodes() -> None:
    """In the probability of a class that the student all but rules out: `p / q` against `(1 - skew) p / m`."""
    logits = torch.tensor([[-30.0, 0.0]], dtype=torch.float64)
    certain = torch.tensor([[0.0, -30.0]], dtype=torch.float64)
    slopes = []
    for loss in (KLDivergence(), SkewKL(0.1)):
        q = logits.softmax(1).requires_grad_()
        (slope,) = torch.autograd.grad(loss(q.log(), certain).sum(), q)
        slopes.append(slope.abs().max().item())
    assert slopes[0] > 1e12 and slopes[1] < 10


@pytest.mark.parametrize("make", [lambda x: JensenShannon(x), lambda x: SkewKL(x)])
def test_a_share_lies_between_zero_and_one(make: Any) -> None:
    for wrong in (-0.1, 1.0, 1.5):
        with pytest.raises(RecipeError, match="must be between 0 and 1"):
            make(wrong)


def test_agrees_with_the_authors_of_distillm() -> None:
    """Their `lam` is one minus our `beta`, their forward skew lacks the teacher's entropy; means over valid tokens."""
    seen = set()
    for options, inputs, output, gradients in cases("distillm"):
        share, name = options["share"], options["function"]
        s, t = inputs["student"].requires_grad_(), inputs["teacher"]
        p = t.softmax(-1)
        made: dict[str, tuple[Any, Tensor | float]] = {
            "reverse_kl": (lambda: ReverseKL(), 0.0),
            "js_distance": (lambda share=share: JensenShannon(1 - share), 0.0),
            "skewed_forward_kl": (lambda share=share: SkewKL(share), -(p * p.log()).sum(-1)),
            "skewed_reverse_kl": (lambda share=share: SkewKL(share, reverse=True), 0.0),
        }
        make, entropy = made[name]
        valid = torch.tensor(options["valid"])
        value = (make()(s, t) + entropy)[valid].mean()
        torch.testing.assert_close(value, output, rtol=1e-10, atol=0)
        value.backward()
        torch.testing.assert_close(s.grad, gradients["student"], rtol=1e-8, atol=1e-12)
        seen.add(name)
    assert len(seen) == 4
