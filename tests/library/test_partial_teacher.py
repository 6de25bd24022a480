from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.partial_teacher import ClassSimilarityKL, ConfidenceKL

from . import logit_oracle as truth, oracle
from .test_losses import normal

student, teacher, label = normal(5, 6) * 2, normal(5, 6, seed=1) * 2, torch.tensor([0, 5, 2, 2, 3])
classifier = normal(6, 4, seed=2)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_confidence_equals_the_sum_over_classes(temperature: float) -> None:
    loss = ConfidenceKL(temperature)(student, teacher, label)
    for i, y in enumerate(label.tolist()):
        p, q = (truth.soft(x[i].tolist(), temperature) for x in (teacher, student))
        expected = temperature**2 * truth.divergence(truth.peaked(p[y], y, 6), q)
        assert loss[i].item() == pytest.approx(expected, rel=1e-9)


def test_confidence_forgets_how_classes_are_alike() -> None:
    """Any order of the other classes' logits gives the same loss; KL tells them apart."""
    mixed = teacher.clone()
    mixed[0, 1:] = teacher[0, 1:].flip(0)
    torch.testing.assert_close(ConfidenceKL()(student, mixed, label), ConfidenceKL()(student, teacher, label))
    assert not torch.allclose(KLDivergence()(student, mixed), KLDivergence()(student, teacher))


def test_confidence_between_two_classes_is_kl() -> None:
    s, t, y = student[:, :2], teacher[:, :2], label % 2
    torch.testing.assert_close(ConfidenceKL(2.0)(s, t, y), KLDivergence(2.0)(s, t))


def test_confidence_of_one_size_is_label_smoothing() -> None:
    even = torch.full((5, 6), -2.0, dtype=torch.float64)
    even[torch.arange(5), label] = 3.0
    p = float(even.softmax(1)[0, 0])
    smooth = (1 - p) * 6 / 5
    gap = CrossEntropy(label_smoothing=smooth)(student, label) - ConfidenceKL()(student, even, label)
    torch.testing.assert_close(gap, torch.full_like(gap, truth.entropy(truth.peaked(p, 0, 6))))


@pytest.mark.parametrize(("temperature", "power"), [(0.3, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_similarity_equals_the_sum_over_classes(temperature: float, power: float) -> None:
    loss = ClassSimilarityKL(temperature, power)(student, classifier, label)
    rows = classifier.tolist()
    for i, y in enumerate(label.tolist()):
        cosines = [oracle.cosine(rows[y], row) / temperature for row in rows]
        target = oracle.softmax([abs(c) ** power * (1 if c > 0 else -1) for c in cosines])
        expected = truth.divergence(target, truth.soft(student[i].tolist()))
        assert loss[i].item() == pytest.approx(expected, rel=1e-9)


def test_similarity_is_the_same_for_all_samples_of_a_class_and_blind_to_lengths() -> None:
    loss = ClassSimilarityKL()
    same = student[:1].expand(5, -1)
    values = loss(same, classifier, label)
    assert values[2] == values[3] and values[0] != values[1]
    torch.testing.assert_close(loss(same, classifier * torch.arange(1.0, 7)[:, None], label), values)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(GraphError, match=r"needs a classifier \[6, D\], not \[5, 4\]"):
        ClassSimilarityKL()(student, classifier[:5], label)
    with pytest.raises(GraphError, match="two classes at least"):
        ConfidenceKL()(student[:, :1], teacher[:, :1], label * 0)
    with pytest.raises(RecipeError, match="power must be greater than 0"):
        ClassSimilarityKL(power=0.0)
