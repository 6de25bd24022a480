"""Contrastive representation distillation: the bank, groups, and what the negatives do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.library.losses.crd import NO_GROUP, ContrastiveRepresentation
from tests.library import relational_oracle as oracle


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(negatives: int = 6) -> ContrastiveRepresentation:
    torch.manual_seed(0)
    loss = ContrastiveRepresentation(dim=3, negatives=negatives, temperature=0.5)
    loss.setup(student=torch.Size([4, 5]), teacher=torch.Size([4, 7]))
    return loss.double()


def embedded(loss: ContrastiveRepresentation, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    heads = list(loss.heads)
    return F.normalize(heads[0](student), dim=1).detach(), F.normalize(heads[1](teacher), dim=1).detach()


def test_value_against_loops() -> None:
    loss, student, teacher = made(), normal(4, 5), normal(4, 7, seed=1)
    loss.log_normalizer.copy_(torch.tensor([0.3, -0.2], dtype=torch.float64))
    s, t = embedded(loss, student, teacher)
    constants = loss.log_normalizer.exp().tolist()
    expected = oracle.crd(s.tolist(), t.tolist(), (loss.bank[0].tolist(), loss.bank[1].tolist()), 0.5, constants)
    assert loss(student, teacher).tolist() == pytest.approx(expected, rel=1e-9)


def test_forward_changes_no_state() -> None:
    loss = made()
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    first, second = (loss(normal(4, 5), normal(4, 7)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_bank_keeps_the_newest_in_turn() -> None:
    loss = made(negatives=6)
    batches = [(normal(4, 5, seed=i), normal(4, 7, seed=9 + i)) for i in range(3)]
    for i, batch in enumerate(batches):
        loss.update(*batch, group=torch.full((4,), i))
    assert loss.groups.tolist() == [1, 1, 2, 2, 2, 2]
    torch.testing.assert_close(loss.bank[1, 2:], embedded(loss, *batches[2])[1])
    assert loss.cursor.item() == 0


def test_bank_holds_both_networks() -> None:
    loss, student, teacher = made(), normal(4, 5), normal(4, 7)
    loss.update(student, teacher)
    torch.testing.assert_close((loss.bank[0, :4], loss.bank[1, :4]), embedded(loss, student, teacher))
    assert (loss.groups == NO_GROUP).all()


def test_batch_larger_than_the_bank_leaves_its_last_samples() -> None:
    loss, student, teacher = made(negatives=3), normal(5, 5), normal(5, 7)
    loss.update(student, teacher)
    torch.testing.assert_close(loss.bank[1], embedded(loss, student, teacher)[1][-3:])


def test_normaliser_is_that_of_the_first_batch() -> None:
    loss = made()
    loss.update(normal(4, 5), normal(4, 7))
    first = loss.log_normalizer.clone()
    loss.update(normal(4, 5, seed=5), normal(4, 7, seed=6))
    torch.testing.assert_close(loss.log_normalizer, first, rtol=0, atol=0)


def test_own_group_is_no_negative() -> None:
    loss, student, teacher = made(), normal(2, 5), normal(2, 7)
    loss.update(normal(6, 5, seed=2), normal(6, 7, seed=3), group=torch.tensor([0, 1, 0, 2, 2, 1]))
    with_group = loss(student, teacher, group=torch.tensor([0, 3]))
    others = made(negatives=4)
    others.load_state_dict(
        {**loss.state_dict(), "bank": loss.bank[:, [1, 3, 4, 5]], "groups": loss.groups[[1, 3, 4, 5]]}
    )
    torch.testing.assert_close(with_group[0], others(student, teacher)[0])
    torch.testing.assert_close(with_group[1], loss(student, teacher)[1])
    everything = loss(student, teacher, group=loss.groups.new_tensor([0, 0]))
    assert everything.isfinite().all()


def test_no_negative_left_is_finite() -> None:
    loss, student = made(), normal(3, 5).requires_grad_()
    loss.update(normal(6, 5), normal(6, 7), group=torch.zeros(6, dtype=torch.long))
    loss(student, normal(3, 7), group=torch.zeros(3, dtype=torch.long)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_negatives_keep_embeddings_apart() -> None:
    """Without negatives nothing stops the heads from sending all samples the same way."""

    def similarity(negatives: bool) -> float:
        torch.manual_seed(0)
        loss = ContrastiveRepresentation(dim=4, negatives=16, temperature=0.2)
        student, teacher = normal(16, 5).float(), normal(16, 7).float()
        loss.setup(student=student.shape, teacher=teacher.shape)
        group = torch.arange(16) if negatives else torch.zeros(16, dtype=torch.long)
        optimizer = torch.optim.Adam(loss.parameters(), 0.03)
        for _ in range(60):
            loss.update(student, teacher, group)
            optimizer.zero_grad()
            loss(student, teacher, group).mean().backward()
            optimizer.step()
        s, t = embedded(loss, student, teacher)
        return ((s @ t.T).sum() - (s * t).sum()).item() / (16 * 15)

    assert similarity(negatives=True) < 0.1
    assert similarity(negatives=False) > 0.3
