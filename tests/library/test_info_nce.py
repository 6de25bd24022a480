from __future__ import annotations

import math

import pytest
import torch

from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.info_nce import InfoNCE

from . import oracle
from .test_losses import normal

GROUP = [7, 3, 7, 9, 3, 7]


@pytest.mark.parametrize("group", [None, GROUP])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("learnable", [True, False])
def test_equals_the_search_written_out(group: list[int] | None, symmetric: bool, learnable: bool) -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    loss = InfoNCE(0.2, learnable, symmetric).double()(student, teacher, None if group is None else torch.tensor(group))
    truth = oracle.info_nce(student.tolist(), teacher.tolist(), 0.2, group)
    if symmetric:
        back = oracle.info_nce(teacher.tolist(), student.tolist(), 0.2, group)
        truth = [(there + back) / 2 for there, back in zip(truth, back, strict=True)]
    assert loss.tolist() == pytest.approx(truth, rel=1e-6)


def test_distinct_ids_change_nothing_and_one_group_is_uniform() -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    loss = InfoNCE()
    torch.testing.assert_close(loss(student, teacher, torch.arange(6)), loss(student, teacher))
    same = student[:1].expand(6, -1)
    assert loss(same, same, torch.zeros(6)).tolist() == pytest.approx([math.log(6)] * 6)


def test_limits_and_invariances() -> None:
    student, teacher = normal(6, 8), normal(6, 8, seed=1)
    turn, _ = torch.linalg.qr(normal(8, 8, seed=2))
    loss = InfoNCE()
    torch.testing.assert_close(loss(1e3 * student @ turn, 1e-3 * teacher @ turn), loss(student, teacher))
    assert InfoNCE(1e-3)(student, student).max() < 1e-12
    assert InfoNCE(1e6)(student, teacher).tolist() == pytest.approx([math.log(6)] * 6, abs=1e-5)


def test_learnt_scale_is_brought_back_to_100_and_comes_down_again() -> None:
    loss = InfoNCE(0.01, learnable=True)
    assert loss.log_scale is not None
    with torch.no_grad():
        loss.log_scale.add_(1)
    loss.update()
    assert torch.as_tensor(loss.scale()).item() == pytest.approx(100)
    loss(normal(4, 6).float(), normal(4, 6, seed=1).float()).sum().backward()
    assert loss.log_scale.grad is not None
    assert loss.log_scale.grad > 0
    assert not list(InfoNCE().parameters())
    with pytest.raises(RecipeError, match=r"at least 0\.01"):
        InfoNCE(0.005, learnable=True)


def test_widths_must_fit() -> None:
    with pytest.raises(GraphError, match=r"core\.linear"):
        InfoNCE()(normal(4, 6), normal(4, 5))
    with pytest.raises(GraphError, match=r"\[B, D\]"):
        InfoNCE()(normal(4, 3, 6), normal(4, 3, 6))


def test_autocast_does_not_round_the_similarities() -> None:
    student, teacher = normal(6, 32).float(), normal(6, 32, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = InfoNCE(0.01)(student, teacher)
    torch.testing.assert_close(rounded, InfoNCE(0.01)(student, teacher))
