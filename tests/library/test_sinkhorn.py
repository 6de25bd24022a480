"""The transport plan, and what it costs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mmkd.errors import RecipeError
from mmkd.library.losses.sinkhorn import sinkhorn, transport_plan
from tests.library import relational_oracle as oracle


def cost(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_plan_against_loops() -> None:
    expected = torch.tensor(oracle.plan(cost(4, 6).tolist(), 0.3, 7), dtype=torch.float64)
    torch.testing.assert_close(transport_plan("x", cost(4, 6), 0.3, 7), expected)


def test_rows_and_columns_weigh_the_same() -> None:
    plan = transport_plan("x", cost(2, 4, 6), 0.1, 300)
    torch.testing.assert_close(plan.sum(1), torch.full((2, 6), 1 / 6, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(2), torch.full((2, 4), 1 / 4, dtype=torch.float64))


def test_small_epsilon_finds_the_best_assignment() -> None:
    table = cost(5, 5)
    best = min(sum(table[i, j].item() for i, j in enumerate(p)) / 5 for p in itertools.permutations(range(5)))
    assert sinkhorn("x", table, 1e-3, 2000).item() == pytest.approx(best, abs=1e-4)
    assert sinkhorn("x", table, 1e3, 5).item() == pytest.approx(table.mean().item(), abs=1e-3)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 4), (4, 1)])
def test_smallest_sets(shape: tuple[int, int]) -> None:
    table = cost(*shape).requires_grad_()
    value = sinkhorn("x", table, 0.1, 5)
    value.backward()
    assert table.grad is not None
    if 0 in shape:
        assert value == 0
    else:
        torch.testing.assert_close(value, table.mean())
        torch.testing.assert_close(table.grad, torch.full_like(table, 1 / table.numel()))


def test_gradient_is_that_of_the_iterations() -> None:
    assert torch.autograd.gradcheck(lambda x: sinkhorn("x", x, 0.2, 4), cost(3, 4).requires_grad_())


def test_costs_that_underflow_in_the_kernel_are_transported() -> None:
    plan = transport_plan("x", 1e4 * cost(4, 4).float(), 1e-2, 50)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(0), torch.full((4,), 0.25))


def test_half_precision_is_widened() -> None:
    assert sinkhorn("x", cost(3, 3).half(), 0.1, 5).dtype == torch.float32


@pytest.mark.parametrize("options", [(0.0, 5), (-1.0, 5), (0.1, 0)])
def test_options_out_of_range(options: tuple[float, int]) -> None:
    with pytest.raises(RecipeError):
        transport_plan("x", cost(2, 2), *options)
