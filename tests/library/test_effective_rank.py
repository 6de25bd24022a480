from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmkd.errors import DataError, GraphError
from mmkd.library.metrics.effective_rank import EffectiveRank

from .test_losses import normal


def scored(student: torch.Tensor, center: bool = False) -> float:
    metric = EffectiveRank(center)
    for part in student.split(7):
        metric(part)
    return metric.compute()["effective_rank"]


@pytest.mark.parametrize("size", [3, 6, 50])
@pytest.mark.parametrize("center", [False, True])
def test_equals_numpy(size: int, center: bool) -> None:
    student = normal(size, 6) @ torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.1, 1e-6, 0.0]).double()) + 2.0
    rows = student.numpy() - (student.numpy().mean(0) if center else 0.0)
    spectrum = np.linalg.svd(rows, compute_uv=False)
    p = spectrum / spectrum.sum()
    assert scored(student, center) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p if x > 0)), rel=1e-9)


def test_of_what_one_can_count() -> None:
    turn, _ = torch.linalg.qr(normal(8, 8))
    assert scored(turn) == pytest.approx(8.0)
    assert scored(turn[:, :5] @ turn[:5]) == pytest.approx(5.0)
    assert scored(normal(30, 1) @ normal(1, 8)) == pytest.approx(1.0, abs=1e-6)
    assert scored(100 * turn) == pytest.approx(8.0)
    assert scored(normal(1, 8)) == pytest.approx(1.0)
    constant = torch.full((20, 4), 0.25)
    assert scored(constant) == pytest.approx(1.0, abs=1e-6) and scored(constant, center=True) == 0.0
    assert scored(torch.zeros(5, 3)) == 0.0


def test_refusals() -> None:
    with pytest.raises(GraphError, match=r"student \[B, D\]"):
        EffectiveRank()(normal(2, 3, 4))
    with pytest.raises(DataError, match="saw 0 samples"):
        scored(normal(0, 3))
    with pytest.raises(DataError, match="1 of 3 samples are not finite"):
        scored(torch.tensor([[1.0, 2.0], [math.inf, math.nan], [0.0, 1.0]]))
