from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mmkd.errors import DataError, GraphError
from mmkd.library.metrics.cka import CKA

from .test_losses import normal


def scored(student: torch.Tensor, teacher: torch.Tensor, batch: int | list[int]) -> float:
    metric = CKA()
    for s, t in zip(student.split(batch), teacher.split(batch), strict=True):
        metric(s, t)
    return metric.compute()["cka"]


def hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """The unbiased estimator as what it estimates: a mean over all choices of 4 different samples (Song et al., 2012).

    `E[k(1,2) l(1,2)] + E[k(1,2) l(3,4)] - 2 E[k(1,2) l(1,3)]`, every expectation over samples that all differ.
    """
    k, l = (np.array([[float(a @ b) for b in z.flatten(1)] for a in z.flatten(1)]) for z in (x, y))  # noqa: E741
    fours = list(itertools.permutations(range(len(x)), 4))
    total = sum(k[a, b] * l[a, b] + k[a, b] * l[c, d] - 2 * k[a, b] * l[a, c] for a, b, c, d in fours)
    return total / len(fours)


def test_equals_a_mean_over_all_fours() -> None:
    student, teacher = normal(12, 3) + 2.0, normal(12, 5, seed=1) - 1.0
    teacher[:, :3] += student
    sizes = [6, 5, 1]
    batches = list(zip(student.split(sizes), teacher.split(sizes), strict=True))[:2]  # one sample alone is left out
    both, s, t = (sum(hsic(pair[i], pair[j]) for pair in batches) for i, j in ((0, 1), (0, 0), (1, 1)))
    assert scored(student, teacher, sizes) == pytest.approx(both / math.sqrt(s * t), rel=1e-9)


def test_does_not_change_under_rotation_scale_and_shift() -> None:
    student = normal(64, 6)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=2))
    assert scored(student, student, 16) == pytest.approx(1.0)
    assert scored(student, 3 * student @ turn + 5.0, 16) == pytest.approx(1.0)
    assert scored(student.view(64, 2, 3), student.float(), 16) == pytest.approx(1.0)


def test_does_not_depend_on_the_batch_where_the_biased_one_does() -> None:
    student, teacher = normal(4000, 8), normal(4000, 8, seed=1)
    both = torch.cat([student[:, :4], teacher[:, 4:]], dim=1)
    for other, expected in ((teacher, 0.0), (both, 0.5)):
        for batch in (8, 500):
            assert scored(student, other, batch) == pytest.approx(expected, abs=0.03)
    centred = [z[:8] - z[:8].mean(0) for z in (student, teacher)]
    biased = (centred[0].T @ centred[1]).square().sum() / math.prod(float((c.T @ c).norm()) for c in centred)
    assert biased > 0.3


def test_of_the_constant_the_few_and_the_broken() -> None:
    assert scored(torch.full((20, 3), 0.1), normal(20, 3), 10) == 0.0
    assert scored(normal(20, 3), torch.zeros(20, 3), 10) == 0.0
    for size in (0, 1, 3):
        metric = CKA()
        metric(normal(size, 3), normal(size, 3))
        with pytest.raises(DataError, match=f"the largest of 1 had {size}"):
            metric.compute()
    with pytest.raises(DataError, match="needs a batch"):
        CKA().compute()
    with pytest.raises(DataError, match="1 of 2 samples are not finite"):
        scored(torch.cat([normal(10, 3), torch.full((10, 3), math.nan)]), normal(20, 3), 10)
    with pytest.raises(GraphError, match=r"teacher \[B, \.\.\.\]"):
        CKA()(normal(4, 3), normal(5, 3))
    metric = CKA()
    metric(normal(8, 3), normal(8, 2))
    metric.reset()
    with pytest.raises(DataError):
        metric.compute()
