from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmkd.errors import DataError, GraphError, RecipeError
from mmkd.library.metrics.calibration import Calibration

from . import oracle
from .test_losses import normal
from .test_metrics import label


def scored(student: torch.Tensor, labels: torch.Tensor, bins: int = 15, *mask: torch.Tensor) -> dict[str, float]:
    metric = Calibration(bins)
    for rows in (slice(0, 7), slice(7, 7), slice(7, None)):
        metric(student[rows], labels[rows], *(m[rows] for m in mask))
    return metric.compute()


@pytest.mark.parametrize("bins", [1, 4, 15, 100])
def test_equals_bins_written_out(bins: int) -> None:
    student, labels = 3 * normal(60, 5), label(60, 5)
    confidence = np.array([max(oracle.softmax(row)) for row in student.tolist()])
    right = np.array([row.index(max(row)) == y for row, y in zip(student.tolist(), labels.tolist(), strict=True)])
    gap = 0.0
    for m in range(bins):
        inside = [i for i, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins]
        if inside:
            gap += len(inside) / 60 * abs(right[inside].mean() - confidence[inside].mean())
    order = sorted(range(60), key=lambda i: confidence[i])
    mass = 0.0
    for m in range(min(bins, 60)):
        inside = [i for place, i in enumerate(order) if place * min(bins, 60) // 60 == m]
        assert len(inside) in (60 // min(bins, 60), 60 // min(bins, 60) + 1)
        mass += len(inside) / 60 * abs(right[inside].mean() - confidence[inside].mean())
    scores = scored(student, labels, bins)
    assert scores == {
        "ece": pytest.approx(gap), "adaptive_ece": pytest.approx(mass),
        "accuracy": pytest.approx(right.mean()), "confidence": pytest.approx(confidence.mean()),
    }  # fmt: skip


def test_a_network_that_draws_from_its_own_answer_is_calibrated() -> None:
    student = 2 * normal(20_000, 4)
    labels = torch.multinomial(student.softmax(1), 1, generator=torch.Generator().manual_seed(7)).squeeze(1)
    scores = scored(student, labels)
    assert scores["ece"] < 0.02 and scores["adaptive_ece"] < 0.02
    sure = scored(5 * student, labels)
    assert sure["accuracy"] == scores["accuracy"] and sure["ece"] > 0.1 and sure["adaptive_ece"] > 0.1


def test_bins_are_closed_above() -> None:
    """A quarter stands in the first of four bins, two fifths in the second: the gaps do not cancel."""
    quarter, fifths = [0.25, 0.25, 0.25, 0.25, 0.0], [0.4, 0.3, 0.2, 0.1, 0.0]
    scores = scored(torch.tensor([quarter, fifths], dtype=torch.float64).log(), torch.tensor([4, 0]), bins=4)
    assert scores["ece"] == pytest.approx((0.25 + 0.6) / 2)


def test_what_it_says_of_the_certain_the_wrong_and_the_collapsed() -> None:
    labels = torch.arange(12) % 4
    certain = 1000 * torch.eye(4)[labels]
    assert scored(certain, labels) == {"ece": 0.0, "adaptive_ece": 0.0, "accuracy": 1.0, "confidence": 1.0}
    assert scored(certain, (labels + 1) % 4) == {"ece": 1.0, "adaptive_ece": 1.0, "accuracy": 0.0, "confidence": 1.0}
    collapsed = scored(torch.zeros(12, 4), labels)
    assert collapsed == {"ece": 0.0, "adaptive_ece": 0.0, "accuracy": 0.25, "confidence": 0.25}


def test_the_order_of_samples_is_nothing() -> None:
    student, labels = normal(4, 3).repeat(15, 1), label(60)
    turn = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert scored(student[turn], labels[turn], 7) == pytest.approx(scored(student, labels, 7))


def test_tokens_and_masks() -> None:
    student, labels = normal(9, 3, 5), torch.randint(5, (9, 3), generator=torch.Generator().manual_seed(2))
    assert scored(student, labels) == pytest.approx(scored(student.flatten(0, 1), labels.flatten()))
    mask = torch.tensor([1, 0, 1]).expand(9, 3)
    kept = scored(student[:, [0, 2]], labels[:, [0, 2]])
    assert scored(torch.where(mask[..., None] > 0, student, math.nan), labels, 15, mask) == pytest.approx(kept)


def test_refusals() -> None:
    with pytest.raises(GraphError, match="a label each"):
        Calibration()(normal(4, 3), label(3))
    with pytest.raises(RecipeError):
        Calibration(0)
    with pytest.raises(DataError, match="4 of 12 samples are not finite"):
        scored(torch.cat([normal(8, 3), torch.full((4, 3), math.nan)]), label(12))
