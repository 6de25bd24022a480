"""Entropic optimal transport between two uniform sets, solved in the log domain."""

from __future__ import annotations

from torch import Tensor

from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive, widen


def transport_plan(component: str, cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """How much of each row goes to each column, the total being one (Sinkhorn and Knopp, 1967; Cuturi, 2013).

    Starts from `exp(-cost / epsilon)` and makes rows, then columns, sum to `1 / N` and `1 / M`, `iterations` times;
    so columns are exact and rows as near as the iterations bring them. Logarithms neither over- nor underflow, for any
    `epsilon`. The gradient is that of the iterations; under `torch.no_grad()` the plan is a constant, and then
    `(plan * cost).sum()` has the gradient of the converged entropic distance. A plan whose rows and columns sum to
    one, as of N samples that each carry the mass one, is this one times N.

    Shape: cost `[..., N, M]` -> `[..., N, M]`; N and M may be 1 (everything goes there) or 0 (nothing does).

    Raises:
        RecipeError: epsilon is not greater than zero, or there is no iteration.
    """
    positive(component, "epsilon", epsilon)
    if iterations < 1:
        raise RecipeError(f"iterations must be at least 1, not {iterations}", where=component)
    log_plan = widen(cost) / -epsilon
    for _ in range(iterations):
        log_plan = log_plan.log_softmax(-1).log_softmax(-2)
    return log_plan.exp() / max(1, cost.shape[-1])


def sinkhorn(component: str, cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """What the plan costs, `sum_ij plan_ij cost_ij`, near the exact transport's cost as `epsilon` falls.

    Shape: cost `[..., N, M]` -> `[...]`; zero where a set is empty.
    """
    return (transport_plan(component, cost, epsilon, iterations) * widen(cost)).sum((-2, -1))
