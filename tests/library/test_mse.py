from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.mse import MeanSquaredError

from . import oracle
from .test_losses import normal


@pytest.mark.parametrize(
    ("shape", "kept"), [((4,), 1), ((4, 6), 1), ((4, 3, 6), 2), ((4, 3, 2, 2), 1), ((4, 2, 2, 2, 2), 1)]
)
def test_is_the_mean_over_features(shape: tuple[int, ...], kept: int) -> None:
    student, teacher = normal(*shape), normal(*shape, seed=1)
    loss = MeanSquaredError()(student, teacher)
    assert loss.shape == shape[:kept]
    rows = zip(student.reshape(loss.numel(), -1).tolist(), teacher.reshape(loss.numel(), -1).tolist(), strict=True)
    assert loss.flatten().tolist() == pytest.approx([oracle.mse(s, t) for s, t in rows], rel=1e-10)
    assert loss.mean().item() == pytest.approx((student - teacher).square().mean().item(), rel=1e-10)


def test_zero_at_equality_and_blind_to_rotation() -> None:
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=2))
    mse = MeanSquaredError()
    assert mse(student, student).max() == 0
    torch.testing.assert_close(mse(student @ turn, teacher @ turn), mse(student, teacher))


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(GraphError, match="same shape"):
        MeanSquaredError()(normal(4, 3, 6), normal(4, 1, 6))
