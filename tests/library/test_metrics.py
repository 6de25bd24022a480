"""Classification and fidelity: `core.top_k`, `core.agreement`, `core.knn`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from mmkd.errors import DataError, GraphError, RecipeError
from mmkd.library.metrics import chunk, correlation
from mmkd.library.metrics.agreement import Agreement
from mmkd.library.metrics.knn import NearestNeighbours
from mmkd.library.metrics.retrieval import Retrieval
from mmkd.library.metrics.top_k import TopK

from . import oracle
from .test_losses import normal


def label(size: int, classes: int = 3) -> torch.Tensor:
    return torch.randint(classes, (size,), generator=torch.Generator().manual_seed(9))


def test_top_k_equals_a_sort() -> None:
    student, labels = normal(50, 8), label(50, 8)
    metric = TopK((1, 3))
    for rows in (slice(0, 20), slice(20, 20), slice(20, 50)):
        metric(student[rows], labels[rows])
    order = student.argsort(1, descending=True)
    hits = [(order[:, :k] == labels[:, None]).any(1).double().mean().item() for k in (1, 3)]
    assert metric.compute() == {"top_1_accuracy": hits[0], "top_3_accuracy": hits[1]}


def test_top_k_gives_nothing_for_ties_or_nan() -> None:
    metric = TopK((1, 3))
    for value in (0.0, math.nan):
        metric(torch.full((4, 8), value), label(4, 8))
    assert set(metric.compute().values()) == {0.0}


def test_top_k_refuses_what_is_always_right() -> None:
    with pytest.raises(GraphError, match="top 5 of 3 classes"):
        TopK((1, 5))(normal(4, 3), label(4))
    with pytest.raises(GraphError, match=r"student \[B, V\]"):
        TopK()(normal(4, 3), label(3))
    for k in [(), (0,)]:
        with pytest.raises(RecipeError):
            TopK(k)


def test_agreement_counts_same_answers_and_means_divergence() -> None:
    student, teacher = normal(40, 5), normal(40, 5, seed=1)
    metric = Agreement()
    metric(student[:15], teacher[:15])
    metric(student[15:], teacher[15:])
    rows = list(zip(student.tolist(), teacher.tolist(), strict=True))
    scores = metric.compute()
    assert scores["agreement"] == sum(s.index(max(s)) == t.index(max(t)) for s, t in rows) / 40
    assert scores["kl"] == pytest.approx(sum(oracle.kl(s, t) for s, t in rows) / 40)


def test_agreement_of_equals_of_the_collapsed_and_of_masked_tokens() -> None:
    teacher = normal(4, 3, 5)
    metric = Agreement()
    metric(teacher, teacher)
    assert metric.compute() == {"agreement": 1.0, "kl": 0.0}
    metric.reset()
    metric(torch.zeros(4, 3, 5).double(), teacher)
    assert metric.compute()["agreement"] == 0.0
    metric.reset()
    half = torch.cat([teacher[:, :2], -teacher[:, 2:]], dim=1)
    metric(half, teacher, torch.tensor([1, 1, 0]).expand(4, 3))
    assert metric.compute() == {"agreement": 1.0, "kl": 0.0}


@pytest.mark.parametrize("whole", [False, True], ids=["distinct", "tied"])
def test_agreement_of_orders_equals_scipy(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "MAX_CELLS", 1600)
    student, teacher = normal(20, 9), normal(20, 9) + normal(20, 9, seed=1)
    if whole:
        student, teacher = student.round(), teacher.round()
    metric = Agreement(("spearman", "kendall"))
    metric(student[:3], teacher[:3])
    metric(student[3:], teacher[3:])
    scores = metric.compute()
    rows = list(zip(student.tolist(), teacher.tolist(), strict=True))
    assert scores["spearman"] == pytest.approx(sum(spearmanr(s, t).statistic for s, t in rows) / 20)
    assert scores["kendall"] == pytest.approx(sum(kendalltau(s, t).statistic for s, t in rows) / 20)
    assert list(scores) == ["agreement", "kl", "spearman", "kendall"]


def test_agreement_of_the_same_the_reverse_and_no_order() -> None:
    teacher = normal(6, 7)
    for student, expected in ((teacher.exp(), 1.0), (-teacher, -1.0), (torch.ones(6, 7).double(), 0.0)):
        metric = Agreement(("kendall", "spearman"))
        metric(student, teacher)
        scores = metric.compute()
        assert scores["spearman"] == pytest.approx(expected) and scores["kendall"] == pytest.approx(expected)


def test_agreement_with_what_is_not_a_number_is_refused() -> None:
    metric = Agreement()
    metric(torch.tensor([[1.0, math.nan], [0.0, 1.0]]), torch.zeros(2, 2))
    with pytest.raises(DataError, match="the divergence of 1 of 2 samples is NaN"):
        metric.compute()


@pytest.mark.parametrize("k", [1, 5, 100])
def test_knn_equals_a_vote_written_out(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "MAX_CELLS", 100)
    embeddings, labels = normal(40, 4), label(40)
    metric = NearestNeighbours(k, temperature=0.3)
    metric(embeddings[:13], labels[:13])
    metric(embeddings[13:], labels[13:])
    truth = oracle.knn(embeddings.tolist(), labels.tolist(), k, 0.3)
    assert metric.compute() == {"knn_accuracy": pytest.approx(truth)}


def test_knn_of_clusters_and_of_the_collapsed() -> None:
    labels = torch.arange(60) % 3
    metric = NearestNeighbours(5)
    metric(torch.eye(8)[labels] + 0.01 * normal(60, 8).float(), labels * 10)
    assert metric.compute() == {"knn_accuracy": 1.0}
    metric.reset()
    metric(torch.ones(60, 8), labels)
    assert metric.compute()["knn_accuracy"] <= 1 / 3
    metric.reset()
    metric(torch.ones(60, 8), labels.sort().values)
    assert metric.compute()["knn_accuracy"] <= 1 / 3


@pytest.mark.parametrize(
    ("metric", "inputs"),
    [
        (TopK(), (normal(4, 3), label(4))),
        (Agreement(), (normal(4, 3), normal(4, 3))),
        (NearestNeighbours(), (normal(4, 3), label(4))),
        (Retrieval(), (normal(4, 3), normal(4, 3))),
    ],
    ids=["top_k", "agreement", "knn", "retrieval"],
)
def test_forgets_on_reset_and_needs_samples(metric: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    metric(*inputs)
    first = metric.compute()
    assert metric.compute() == first
    metric.reset()
    metric(*(v.flip(0) for v in inputs))
    assert metric.compute() == first
    metric.reset()
    with pytest.raises(DataError, match="saw 0 samples"):
        metric.compute()
    metric(*(v[:0] for v in inputs))
    with pytest.raises(DataError, match="saw 0 samples"):
        metric.compute()
