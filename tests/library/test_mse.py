from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

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


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_equals_the_plain_formula_forward_backward_and_twice(shape: list[int], seed: int) -> None:
    student, teacher = (normal(*shape, seed=s).requires_grad_() for s in (seed, seed + 100))
    loss = MeanSquaredError()(student, teacher)
    plain = (student - teacher) ** 2
    while plain.dim() > loss.dim():
        plain = plain.mean(-1)
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    weights = normal(*loss.shape, seed=seed)
    grads = [torch.autograd.grad((x * weights).sum(), (student, teacher), create_graph=True) for x in (loss, plain)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-15)
    twice = [torch.autograd.grad((g**2).sum(), student) for (g, _) in grads]
    torch.testing.assert_close(*twice, rtol=1e-12, atol=1e-15)


def test_zero_at_equality_and_blind_to_rotation() -> None:
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=2))
    mse = MeanSquaredError()
    assert mse(student, student).max() == 0
    torch.testing.assert_close(mse(student @ turn, teacher @ turn), mse(student, teacher))


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(GraphError, match="same shape"):
        MeanSquaredError()(normal(4, 3, 6), normal(4, 1, 6))
