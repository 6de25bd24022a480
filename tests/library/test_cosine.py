from __future__ import annotations

import pytest
import torch

from mmkd.library.losses.cosine import CosineDistance

from . import oracle
from .test_losses import normal


def test_equals_one_minus_the_cosine() -> None:
    student, teacher = normal(4, 3, 6), normal(4, 3, 6, seed=1)
    loss = CosineDistance()(student, teacher)
    truth = [[1 - oracle.cosine(student[b, t].tolist(), teacher[b, t].tolist()) for t in range(3)] for b in range(4)]
    torch.testing.assert_close(loss, torch.tensor(truth, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_feature_map_is_the_mean_over_positions() -> None:
    student, teacher = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)
    tokens = [v.flatten(2).transpose(1, 2) for v in (student, teacher)]
    torch.testing.assert_close(CosineDistance()(student, teacher), CosineDistance()(*tokens).mean(1))


def test_extremes_and_invariances() -> None:
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=2))
    cosine = CosineDistance()
    assert cosine(student, 3 * student).tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert cosine(student, -student).tolist() == pytest.approx([2] * 4)
    assert cosine(torch.zeros(4, 6), teacher.float()).tolist() == [1] * 4
    torch.testing.assert_close(cosine(student @ turn, 1e4 * teacher @ turn), cosine(student, teacher))
