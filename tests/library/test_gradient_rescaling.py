"""Per-sample gradient rescaling: the ratio of two gradients."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.errors import DataError, GraphError, RecipeError
from mmkd.library.metrics.correlation import spearman
from mmkd.library.metrics.gradient_rescaling import GradientRescaling
from mmkd.testing import check_metric

from . import oracle
from .test_losses import normal
from .test_metrics import label

OPTIONS = [{}, {"temperature": 4.0}, {"temperature": 0.5, "share": 0.7}, {"share": 0.0}]


def scored(student: Tensor, teacher: Tensor, labels: Tensor, *mask: Tensor, **options: float) -> dict[str, float]:
    metric = GradientRescaling(**options)
    for rows in (slice(0, 7), slice(7, 7), slice(7, None)):
        metric(student[rows], teacher[rows], labels[rows], *(m[rows] for m in mask))
    return metric.compute()


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_ratio_of_the_two_derivatives(options: dict[str, float]) -> None:
    student, teacher, labels = 2 * normal(30, 5), 2 * normal(30, 5, seed=1), label(30, 5)
    heat, share = options.get("temperature", 1.0), options.get("share", 1.0)
    ratios, sure = [], []
    for z, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        q, p = (oracle.softmax([v / heat for v in row]) for row in (z, t))
        plain = oracle.softmax(z)[y] - 1
        ratios.append((1 - share) + share * heat * (q[y] - p[y]) / plain)
        sure.append(oracle.softmax(t)[y])
    z = student.clone().requires_grad_()
    kd = F.kl_div((z / heat).log_softmax(1), (teacher / heat).softmax(1), reduction="sum") * heat**2
    ce = F.cross_entropy(z, labels, reduction="sum")
    whole, plain = (torch.autograd.grad(loss, z, retain_graph=True)[0].gather(1, labels[:, None]).squeeze(1)
                    for loss in ((1 - share) * ce + share * kd, ce))  # fmt: skip
    assert (whole / plain).tolist() == pytest.approx(ratios, rel=1e-9)
    scores = scored(student, teacher, labels, **options)
    assert scores["mean"] == pytest.approx(statistics.mean(ratios))
    assert scores["median"] == pytest.approx(statistics.median(ratios))
    assert scores["std"] == pytest.approx(statistics.pstdev(ratios), abs=1e-12)
    expected = spearman(torch.tensor([ratios]), torch.tensor([sure])).item() if share else 0.0
    assert scores["correlation"] == pytest.approx(expected)


def test_what_a_teacher_does_with_single_samples() -> None:
    student, labels = normal(200, 6), label(200, 6)
    certain = torch.full_like(student, -1e9).scatter(1, labels[:, None], 0.0)
    assert scored(student, certain, labels) == pytest.approx({"mean": 1, "median": 1, "std": 0, "correlation": 0})
    same = scored(student, student, labels)
    assert same == pytest.approx({"mean": 0, "median": 0, "std": 0, "correlation": 0}, abs=1e-12)
    teacher = student + 3 * F.one_hot(labels, 6)
    informed = scored(student, teacher, labels)
    assert 0.5 < informed["mean"] < 1
    noise = normal(200, 6, seed=4)
    assert scored(0 * student, noise, labels)["correlation"] == pytest.approx(1)
    random = scored(student, noise, labels)
    assert 0.2 < random["correlation"] < 1


def test_a_sure_student_loses_no_digits() -> None:
    student = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[61.0, 0.0, 0.0]], dtype=torch.float64)
    expected = 1 - math.exp(-1)
    assert scored(student, teacher, torch.tensor([0]))["mean"] == pytest.approx(expected, rel=1e-12)


def test_half_precision_sequences_and_masks() -> None:
    student, teacher, labels = normal(6, 4, 5), normal(6, 4, 5, seed=1), label(24, 5).view(6, 4)
    mask = torch.arange(24).view(6, 4) % 3 > 0
    flat = scored(student[mask], teacher[mask], labels[mask])
    assert scored(student, teacher, labels, mask) == pytest.approx(flat)
    half = scored(student.bfloat16(), teacher.bfloat16(), labels)
    assert half == pytest.approx(scored(student.bfloat16().double(), teacher.bfloat16().double(), labels))


def test_mistakes() -> None:
    for options in ({"temperature": 0.0}, {"share": 1.5}, {"share": -0.1}):
        with pytest.raises(RecipeError, match=next(iter(options))):
            GradientRescaling(**options)
    student, labels = normal(3, 4), label(3, 4)
    with pytest.raises(GraphError, match="same shape"):
        scored(student, normal(3, 5), labels)
    with pytest.raises(GraphError, match="needs a label"):
        scored(student, student, labels[:, None])
    with pytest.raises(DataError, match="saw 0 samples"):
        GradientRescaling().compute()
    sure = torch.tensor([[1e4, 0.0]], dtype=torch.float64)
    with pytest.raises(DataError, match="1 of 1 samples are not finite"):
        scored(sure, sure, torch.tensor([0]))


def test_the_kit_finds_nothing() -> None:
    check_metric(GradientRescaling)
