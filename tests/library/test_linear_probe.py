from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmkd.errors import DataError, GraphError, RecipeError
from mmkd.library.metrics.linear_probe import LinearProbe, minimise

from .test_losses import normal
from .test_metrics import label

KEYS = [f"sample/{i}" for i in range(400)]


def scored(student: torch.Tensor, labels: torch.Tensor, l2: float = 1e-3, **split: Any) -> float:
    metric = LinearProbe(l2)
    for rows in (slice(0, 33), slice(33, 33), slice(33, None)):
        metric(student[rows], labels[rows], **{name: column[rows] for name, column in split.items()})
    return metric.compute()["linear_probe_accuracy"]


def noisy(size: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clusters, the features of very different size."""
    labels = label(size, classes)
    clusters = 1.2 * torch.nn.functional.one_hot(labels, 6).double() + normal(size, 6)
    return clusters * torch.tensor([1e3, 1.0, 1e-3, 1.0, 1.0, 1.0]) + 5.0, labels


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_equals_scikit_learn(l2: float) -> None:
    student, labels = noisy(400)
    fit = torch.arange(400) % 3 > 0
    scaler = StandardScaler().fit(student[fit].numpy())
    inputs = torch.from_numpy(scaler.transform(student.numpy()))
    regression = LogisticRegression(C=1 / (l2 * int(fit.sum())), tol=1e-10, max_iter=10_000)
    regression.fit(inputs[fit].numpy(), labels[fit].numpy())
    weight, bias = minimise(inputs[fit], labels[fit], 3, l2)
    np.testing.assert_allclose(weight.numpy(), regression.coef_, atol=1e-5)
    np.testing.assert_allclose(bias - bias.mean(), regression.intercept_ - regression.intercept_.mean(), atol=1e-5)
    truth = regression.score(inputs[~fit].numpy(), labels[~fit].numpy())
    assert scored(student, labels, l2, fit=fit) == truth and 0.5 < truth < 1.0


def test_the_minimum_has_no_slope() -> None:
    student, labels = noisy(400)
    inputs = (student - student.mean(0)) / student.std(0)
    weight, bias = minimise(inputs, labels, 3, 1e-3)
    errors = (inputs @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    assert (errors.T @ inputs / 400 + 1e-3 * weight).abs().max() < 1e-7
    assert errors.mean(0).abs().max() < 1e-7


def test_halves_by_key_depend_on_nothing_else() -> None:
    student, labels = noisy(400)
    score = scored(student, labels, key=KEYS)
    turn = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    assert scored(student[turn], labels[turn], key=[KEYS[i] for i in turn]) == score
    assert scored(student * 7 - 3, labels * 10 - 4, key=KEYS) == score
    metric = LinearProbe()
    metric(student, labels, key=KEYS)
    assert 150 < int(metric.fits.joined().sum()) < 250


def test_of_the_perfect_and_the_collapsed() -> None:
    labels = label(400)
    assert scored(torch.eye(3)[labels], labels, key=KEYS) == 1.0
    assert scored(torch.full((400, 4), 0.1), labels, key=KEYS) <= 0.45  # no more than its largest class


def test_a_class_that_nobody_fitted_is_never_guessed() -> None:
    labels = torch.arange(60) % 3
    fit = (torch.arange(60) < 40) & (labels < 2)
    assert scored(torch.eye(3)[labels], labels, fit=fit) == int((~fit & (labels < 2)).sum()) / int((~fit).sum())


def test_refusals() -> None:
    student, labels = noisy(40)
    with pytest.raises(GraphError, match=r"key: batch\.key"):
        LinearProbe()(student, labels)
    with pytest.raises(GraphError, match=r"label \[B\]"):
        LinearProbe()(student, labels[:3], KEYS[:40])
    with pytest.raises(RecipeError):
        LinearProbe(0.0)
    for fit in (torch.ones(40), torch.zeros(40), labels == 0):
        with pytest.raises(DataError, match="to fit on and"):
            scored(student, labels, fit=fit)
    with pytest.raises(DataError, match="needs at least"):
        LinearProbe().compute()
    with pytest.raises(DataError, match="40 of 40 samples are not finite"):
        scored(student * math.nan, labels, key=KEYS[:40])
