"""Self-attention relations: heads, masks, and what does not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.minilm import RelationTransfer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_padding_is_as_if_it_were_not_there() -> None:
    loss, student, teacher = RelationTransfer(2), normal(1, 5, 4), normal(1, 5, 6, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    expected = loss([student[:, :3]], [teacher[:, :3]])
    torch.testing.assert_close(loss([student], [teacher], mask), expected)
    student[:, 3:] = 1e3
    torch.testing.assert_close(loss([student.requires_grad_()], [teacher], mask), expected)
    loss([student], [teacher], mask).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[:, 3:].abs().max() == 0


def test_a_sample_of_padding_alone_is_zero() -> None:
    student = normal(2, 3, 4).requires_grad_()
    value = RelationTransfer(2)([student], [normal(2, 3, 4, seed=1)], torch.tensor([[1, 1, 1], [0, 0, 0]]))
    value.sum().backward()
    assert value[1] == 0
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_pairs_are_averaged() -> None:
    loss = RelationTransfer(2)
    students, teachers = [normal(2, 3, 4, seed=i) for i in range(3)], [normal(2, 3, 6, seed=9 + i) for i in range(3)]
    apart = torch.stack([loss([s], [t]) for s, t in zip(students, teachers, strict=True)]).mean(0)
    torch.testing.assert_close(loss(students, teachers), apart)


def test_rotation_within_a_head_does_not_matter_but_heads_do() -> None:
    student, teacher = normal(2, 5, 6), normal(2, 5, 6, seed=1)
    rotation = torch.block_diag(*(torch.linalg.qr(normal(3, 3, seed=i)).Q for i in (2, 3)))
    expected = RelationTransfer(2)([student], [teacher])
    torch.testing.assert_close(RelationTransfer(2)([student @ rotation], [teacher]), expected)
    assert not torch.allclose(
        RelationTransfer(3)([student @ rotation], [teacher]), RelationTransfer(3)([student], [teacher])
    )


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(GraphError, match="multiple of 4"):
        RelationTransfer(4)([normal(2, 3, 6)], [normal(2, 3, 8)])
    with pytest.raises(GraphError, match="3 tokens"):
        RelationTransfer(2)([normal(2, 3, 6)], [normal(2, 4, 6)])
    with pytest.raises(GraphError, match="2 values"):
        RelationTransfer(2)([normal(2, 3, 6)] * 2, [normal(2, 3, 6)])
