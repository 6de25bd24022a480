"""Wasserstein contrastive distillation: the critic's bound, and both forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mmkd
from mmkd.library.losses.wcord import WassersteinGlobal, WassersteinLocal, spectral_bound
from tests.library import relational_oracle as oracle


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(hidden: int = 16, steps: int = 1, lr: float = 1e-2, seed: int = 0) -> WassersteinGlobal:
    torch.manual_seed(seed)
    loss = WassersteinGlobal(hidden, steps=steps, lr=lr)
    loss.setup(student=torch.Size([4, 5]), teacher=torch.Size([4, 7]))
    return loss


def score(critic: nn.Module, pairs: Tensor) -> Tensor:
    """Scores of pairs of a teacher's vector of 7 and a student's of 5, row by row."""
    scores: Tensor = critic(pairs[:, :7], pairs[:, 7:]).diagonal()
    return scores


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(1, 9), (8, 3), (64, 64), (5, 40)])
def test_bound_is_never_below_the_singular_value_nor_far_above(shape: tuple[int, int], scale: float) -> None:
    for seed in range(3):
        weight = scale * normal(*shape, seed=seed).double()
        largest = torch.linalg.matrix_norm(weight, 2)
        assert largest * (1 - 1e-12) <= spectral_bound(weight) <= 1.03 * largest
        assert spectral_bound(weight.float()) >= largest * (1 - 1e-6)


def test_bound_of_the_worst_spectrum_is_the_stated_one() -> None:
    assert spectral_bound(torch.eye(64, dtype=torch.float64)).item() == pytest.approx(64 ** (1 / 256))
    assert spectral_bound(torch.zeros(3, 3)).isfinite()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_critic_is_1_lipschitz(scale: float) -> None:
    """By the product of layers of norm one at most; here also by slopes and by the gradient itself, at any weights."""
    for seed in range(5):
        critic = made(seed=seed).critic
        for p in critic.parameters():
            p.data.mul_(scale)
        x, y = normal(300, 12, seed=seed), normal(300, 12, seed=seed + 50) * torch.logspace(-3, 1, 300)[:, None]
        slopes = (score(critic, x) - score(critic, x + y)).abs() / y.norm(dim=1)
        assert slopes.max() <= 1 + 1e-3  # rounding of tiny differences
        (gradient,) = torch.autograd.grad(score(critic, x.requires_grad_()).sum(), x)
        assert gradient.norm(dim=1).max() <= 1 + 1e-5


def test_unbounded_layers_would_not_be() -> None:
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))
    for p in net.parameters():
        p.data.mul_(100)
    x = normal(50, 12).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert gradient.norm(dim=1).max() > 1


def test_global_value_against_loops() -> None:
    loss, student, teacher = made().double(), normal(5, 5).double(), normal(5, 7).double()
    s, t = ([oracle.unit(row) for row in x.tolist()] for x in (student, teacher))
    g = [[loss.critic(*(torch.tensor([x], dtype=torch.float64) for x in (a, b))).item() for b in s] for a in t]
    expected = [sum(g[i][j] for j in range(5) if j != i) / 4 - g[i][i] for i in range(5)]
    assert loss(student, teacher).tolist() == pytest.approx(expected)
    assert loss(student, teacher).min() >= -2


def trained(teacher_of: Tensor) -> float:
    """Loss on new pairs after the critic alone has been trained; `teacher_of` says whose teacher each student meets."""
    loss, student = made(hidden=32), normal(48, 5)
    teacher = student @ normal(5, 7, seed=8)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    for step in range(60):
        rows = torch.randperm(32, generator=torch.Generator().manual_seed(step))[:16]
        optimizer.zero_grad()
        loss(student[:32][rows], teacher[:32][teacher_of[rows]]).mean().backward()
        optimizer.step()
    return loss(student[32:], teacher[32:][teacher_of[:16] % 16]).mean().item()


def test_critic_finds_dependence_and_none_where_there_is_none() -> None:
    own = torch.arange(32)
    assert trained(own) < -0.1
    assert trained(torch.randperm(32, generator=torch.Generator().manual_seed(1))) > -0.05


def test_critic_has_a_phase_of_its_own_that_descends() -> None:
    loss = made(steps=3, lr=2e-3)
    assert isinstance(loss.critic, mmkd.Critic)
    assert (loss.critic.ascend, loss.critic.steps, loss.critic.lr) == (False, 3, 2e-3)
    assert [name for name, _ in loss.named_parameters() if not name.startswith("critic.")] == []


def test_local_value_against_loops() -> None:
    student, teacher = normal(4, 5).double(), normal(4, 5, seed=1).double()
    cost = [[1 - oracle.cosine(s, t) for t in teacher.tolist()] for s in student.tolist()]
    plan = oracle.plan(cost, 0.3, 6)
    expected = sum(plan[i][j] * cost[i][j] for i in range(4) for j in range(4))
    assert WassersteinLocal(0.3, 6)(student, teacher).item() == pytest.approx(expected)


def test_local_does_not_see_who_belongs_to_whom() -> None:
    teacher = torch.linalg.qr(normal(5, 5)).Q
    order = torch.tensor([3, 0, 4, 2, 1])
    assert WassersteinLocal(0.01, 200)(teacher[order], teacher).item() == pytest.approx(0, abs=1e-5)
    assert (1 - torch.cosine_similarity(teacher[order], teacher)).mean() > 0.9


def test_local_pulls_a_set_onto_the_other() -> None:
    student, teacher = normal(6, 5).requires_grad_(), normal(6, 5, seed=1)
    loss = WassersteinLocal(0.05, 20)
    optimizer = torch.optim.Adam([student], 0.05)
    first = loss(student, teacher).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert loss(student, teacher).item() < 0.2 * first
