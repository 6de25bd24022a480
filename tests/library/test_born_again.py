from __future__ import annotations

import pytest
import torch

from mmkd.library.losses.born_again import ConfidenceWeightedCrossEntropy, PermutedKL, scramble
from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.kl import KLDivergence

from . import logit_oracle as truth, oracle
from .test_losses import normal

student, teacher, label = normal(5, 6) * 2, normal(5, 6, seed=1) * 2, torch.tensor([0, 5, 2, 2, 3])


def test_weights_are_the_teachers_confidence_over_the_batch() -> None:
    weights = [max(truth.soft(row)) for row in teacher.tolist()]
    costs = [oracle.cross_entropy(row, y) for row, y in zip(student.tolist(), label.tolist(), strict=True)]
    loss = ConfidenceWeightedCrossEntropy()(student, teacher, label)
    assert loss.tolist() == pytest.approx([5 * w / sum(weights) * c for w, c in zip(weights, costs, strict=True)])
    mean = sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights)
    assert loss.mean().item() == pytest.approx(mean)


def test_a_teacher_equally_sure_of_all_leaves_cross_entropy() -> None:
    even = teacher[:1].expand(5, -1)
    loss = ConfidenceWeightedCrossEntropy()
    torch.testing.assert_close(loss(student, even, label), CrossEntropy()(student, label))
    assert not torch.allclose(loss(student, teacher, label), CrossEntropy()(student, label))


def test_the_teachers_answer_is_not_used() -> None:
    loss = ConfidenceWeightedCrossEntropy()
    torch.testing.assert_close(loss(student, teacher.flip(1), label), loss(student, teacher, label))


def test_first_class_stays_and_the_others_are_permuted() -> None:
    p = teacher.softmax(1)
    target = PermutedKL().permute(p)
    first = p.argmax(1, keepdim=True)
    assert torch.equal(target.gather(1, first), p.gather(1, first))
    assert torch.equal(target.sort(1).values, p.sort(1).values)
    assert not torch.equal(target, p)


def test_equals_kl_to_the_permuted_target() -> None:
    loss = PermutedKL(2.0)
    target = loss.permute((teacher / 2).softmax(1))
    for i, value in enumerate(loss(student, teacher).tolist()):
        expected = 4 * truth.divergence(target[i].tolist(), truth.soft(student[i].tolist(), 2.0))
        assert value == pytest.approx(expected, rel=1e-9)
    assert not torch.allclose(loss(student, teacher), KLDivergence(2.0)(student, teacher))


def test_two_classes_have_nothing_to_permute() -> None:
    torch.testing.assert_close(
        PermutedKL(2.0)(student[:, :2], teacher[:, :2]), KLDivergence(2.0)(student[:, :2], teacher[:, :2])
    )


def test_a_draw_lasts_one_step_follows_the_seed_and_is_saved() -> None:
    p = normal(40, 10).softmax(1)
    loss, twin, other = PermutedKL(seed=3), PermutedKL(seed=3), PermutedKL(seed=4)
    before = loss.permute(p)
    assert torch.equal(before, loss.permute(p)) and torch.equal(before, twin.permute(p))
    assert not torch.equal(before, other.permute(p))
    loss.update()
    after = loss.permute(p)
    assert not torch.equal(before, after)
    twin.load_state_dict(loss.state_dict())
    assert torch.equal(after, twin.permute(p))


def test_over_the_steps_every_class_gets_each_place_as_often() -> None:
    """Chi-squared over 500 draws of where the second largest of six goes: five places, 100 each."""
    loss, counts = PermutedKL(seed=1), torch.zeros(6)
    p = torch.tensor([[0.5, 0.3, 0.05, 0.05, 0.05, 0.05]])
    for _ in range(500):
        counts[loss.permute(p)[0, 1:].argmax() + 1] += 1
        loss.update()
    assert counts[0] == 0
    assert ((counts[1:] - 100).square() / 100).sum() < 18.5  # 0.1% of chi-squared with four degrees


def test_numbers_are_those_of_splitmix64() -> None:
    assert scramble(torch.tensor(0)).item() == 0xE220A8397B1DCDAF - 2**64  # its first output from the seed 0
    numbers = scramble(torch.arange(-5000, 5000))
    assert len(numbers.unique()) == 10000
    assert abs((numbers > 0).double().mean() - 0.5) < 0.02
