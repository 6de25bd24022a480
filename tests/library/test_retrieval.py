from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from mmkd.errors import GraphError, RecipeError
from mmkd.library.metrics import chunk
from mmkd.library.metrics.retrieval import Retrieval

from . import oracle
from .test_losses import normal

GROUP = [i % 12 for i in range(30)]


def score(a: torch.Tensor, b: torch.Tensor, group: Any = None, **options: Any) -> dict[str, float]:
    metric = Retrieval(**options)
    for rows in (slice(0, 7), slice(7, None)):
        metric(a[rows], b[rows], None if group is None else group[rows])
    return metric.compute()


@pytest.mark.parametrize("group", [None, GROUP, torch.tensor(GROUP), [f"image {i}" for i in GROUP]])
def test_equals_a_sort(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "MAX_CELLS", 100)
    a, b = normal(30, 4), normal(30, 4) + normal(30, 4, seed=1)
    ids = list(range(30)) if group is None else GROUP
    scores = score(a, b, group)
    assert list(scores) == [f"{d}_recall_at_{k}" for d in ("a_to_b", "b_to_a") for k in (1, 5, 10)]
    for k in (1, 5, 10):
        assert scores[f"a_to_b_recall_at_{k}"] == oracle.recall(a.tolist(), b.tolist(), ids, ids, k)
        assert scores[f"b_to_a_recall_at_{k}"] == oracle.recall(b.tolist(), a.tolist(), ids, ids, k)
    assert score(a, b, group, direction="b_to_a", k=(5,)) == {"recall_at_5": scores["b_to_a_recall_at_5"]}


@pytest.mark.parametrize("one_per_group", ["a", "b"])
def test_repeated_rows_stand_once(one_per_group: Any) -> None:
    """Six images with five captions each, as 30 rows: a caption searches 6 images, an image 30 captions."""
    ids = [i // 5 for i in range(30)]
    once = normal(6, 4)
    images, captions = once.repeat_interleave(5, 0), once.repeat_interleave(5, 0) + normal(30, 4, seed=1)
    sides = {"a": images, "b": captions} if one_per_group == "a" else {"b": images, "a": captions}
    other = "b" if one_per_group == "a" else "a"
    scores = score(sides["a"], sides["b"], ids, one_per_group=one_per_group, k=(1, 3))
    for k in (1, 3):
        search = oracle.recall(captions.tolist(), once.tolist(), ids, list(range(6)), k)
        assert scores[f"{other}_to_{one_per_group}_recall_at_{k}"] == search
        search = oracle.recall(once.tolist(), captions.tolist(), list(range(6)), ids, k)
        assert scores[f"{one_per_group}_to_{other}_recall_at_{k}"] == search


@pytest.mark.parametrize("value", [1.0, 0.0, float("nan")])
@pytest.mark.parametrize("group", [None, GROUP])
def test_collapsed_network_gets_nothing(value: float, group: Any) -> None:
    assert set(score(torch.full((30, 8), value), torch.full((30, 8), value), group).values()) == {0.0}


def test_perfect_network_gets_everything() -> None:
    a = normal(30, 8)
    turn, _ = torch.linalg.qr(normal(8, 8, seed=2))
    assert set(score(a @ turn, 5 * a @ turn).values()) == {1.0}


@pytest.mark.parametrize("group", [None, GROUP])
def test_precision_and_median_rank_equal_a_sort(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "MAX_CELLS", 100)
    a, b = normal(30, 4), normal(30, 4) + normal(30, 4, seed=1)
    ids = list(range(30)) if group is None else GROUP
    scores = score(a, b, group, also=("mean_average_precision", "median_rank"))
    for direction, queries, candidates in (("a_to_b", a, b), ("b_to_a", b, a)):
        found = oracle.places(queries.tolist(), candidates.tolist(), ids, ids)
        assert len(found[0]) == (1 if group is None else 3)
        precisions = [sum(j / rank for j, rank in enumerate(ranks, 1)) / len(ranks) for ranks in found]
        assert scores[f"{direction}_mean_average_precision"] == pytest.approx(sum(precisions) / 30)
        best = [ranks[0] for ranks in found]
        assert scores[f"{direction}_median_rank"] == statistics.median(best)
    assert len(scores) == 10


def test_precision_asks_for_all_matches() -> None:
    """Matches 1st and 4th of five candidates: (1/1 + 2/4) / 2."""
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).double()
    candidates = torch.stack([angles.cos(), angles.sin()], 1)
    queries = torch.tensor([[1.0, 0.0]] * 5).double()
    ids = [0, 1, 2, 0, 4]
    scores = score(queries, candidates, ids, direction="a_to_b", also=("mean_average_precision", "median_rank"))
    one, two, last = (1 + 2 / 4) / 2, 1 / 2, 1 / 5
    assert scores["mean_average_precision"] == pytest.approx((one + two + 1 / 3 + one + last) / 5)
    assert scores["median_rank"] == 2.0


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_ties_and_nan_stand_before_the_matches(value: float) -> None:
    same = torch.full((6, 3), value)
    scores = score(same, same, [0, 0, 1, 1, 2, 2], also=("mean_average_precision", "median_rank"), direction="a_to_b")
    assert scores["mean_average_precision"] == pytest.approx((1 / 5 + 2 / 6) / 2) and scores["median_rank"] == 5.0


def test_states_of_others_come_after_its_own() -> None:
    a, b = normal(30, 4), normal(30, 4, seed=1)
    names = [f"image {i}" for i in GROUP]
    parts = [Retrieval(one_per_group="a") for _ in range(3)]
    for part, rows in zip(parts, (slice(0, 11), slice(11, 30), slice(30, 30)), strict=True):
        part(a[rows], b[rows], names[rows])
    parts[0].merge([parts[1].state(), parts[2].state(), Retrieval().state()])
    assert parts[0].compute() == score(a, b, names, one_per_group="a")


def test_ports_and_options_must_fit() -> None:
    with pytest.raises(GraphError, match="3 ids"):
        Retrieval()(normal(4, 3), normal(4, 3), [1, 2, 3])
    with pytest.raises(GraphError, match="needs the port 'group'"):
        Retrieval(one_per_group="a")(normal(4, 3), normal(4, 3))
    with pytest.raises(RecipeError):
        Retrieval(k=(0, 1))
