"""Wasserstein contrastive representation distillation: within the batch, and against the product distribution."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive
from mmkd.library.losses.relation import by_rows, flat, products
from mmkd.library.losses.similarity import similarity
from mmkd.library.losses.sinkhorn import sinkhorn


class WassersteinLocal(Loss):
    """Transport the batch's student features to its teacher features at the least cost (WCoRD, "LCKT").

    Primal form: `sum_ij pi_ij (1 - cos(s_i, t_j))`, pi the entropic plan between the two batches, each sample
    weighing `1 / B` (Chen et al., 2021); found in `iterations` rounds of Sinkhorn at a temperature of
    `epsilon`. Which feature came from which sample is not used; so the loss is zero, up to the entropy, wherever the
    two batches are the same set. Written from accounts of the paper; it has no published code.

    Shape: student, teacher `[B, D]` -> scalar, between 0 and 2.

    Raises:
        GraphError: the values are not embeddings of one width.
        RecipeError: epsilon is not greater than zero, or there is no iteration.
    """

    coupled = True

    def __init__(
        self, epsilon: Annotated[float, Field(gt=0)] = 0.05, iterations: Annotated[int, Field(ge=1)] = 20
    ) -> None:
        super().__init__()
        self.epsilon = positive("core.wcord_local", "epsilon", epsilon)
        self.iterations = iterations
        if iterations < 1:
            raise RecipeError(f"iterations must be at least 1, not {iterations}", where="core.wcord_local")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        cost = 1 - similarity("core.wcord_local", student, teacher)
        return sinkhorn("core.wcord_local", cost, self.epsilon, self.iterations)


class WassersteinGlobal(Loss):
    """Make a critic tell a sample's own pair of features from pairs of two samples (WCoRD, "GCKT").

    Dual form: `mean_{j != i} g(t_i, s_j) - g(t_i, s_i)`, g a critic that no two pairs make differ by more than their
    distance; features are of length one. The best g makes it minus the Wasserstein distance between the joint
    distribution of the features and the product of theirs, a lower bound of whose dependence critic and student raise
    together (Chen et al., 2021): so both descend this loss, the critic `steps` times, by Adam at `lr`,
    before each step of the student. It has `layers` hidden layers of width `hidden`. Written from accounts of the
    paper; it has no published code, and critic and schedule are ours.

    Each layer's weight is divided by a bound of its largest singular value that exceeds it by a few percent, found by
    repeated squaring of `W W'`: unlike power iteration it is never too small and has no state.

    Shape: student `[B, D]`, teacher `[B, E]` -> `[B]`, at least -2.

    Raises:
        GraphError: the batches differ.
        RecipeError: not set up.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self,
        hidden: Annotated[int, Field(ge=1)] = 256,
        layers: Annotated[int, Field(ge=1)] = 2,
        steps: Annotated[int, Field(ge=1)] = 1,
        lr: Annotated[float, Field(gt=0)] = 1e-3,
    ) -> None:
        super().__init__()
        self.hidden, self.layers, self.steps, self.lr = hidden, layers, steps, lr

    def setup(self, student: torch.Size, teacher: torch.Size) -> None:
        network = PairCritic(teacher[1:].numel(), student[1:].numel(), self.hidden, self.layers)
        self.critic = mmkd.critic(network, ascend=False, steps=self.steps, lr=self.lr)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if not hasattr(self, "critic"):
            raise RecipeError("the critic has no widths yet", where="core.wcord_global", next="call setup(**shapes)")
        s, t = (F.normalize(x, dim=1) for x in flat("core.wcord_global", student, teacher))
        size = len(s)

        def loss(rows: slice) -> Tensor:
            score: Tensor = self.critic(t[rows], s)
            own = score.gather(1, torch.arange(size, device=s.device)[rows, None])[:, 0]
            return (score.sum(1) - own) / max(1, size - 1) - own * (size > 1)

        return by_rows(loss, s, size * 2 * self.layers * self.hidden)


class PairCritic(nn.Module):
    """A score for every pair of a row of `t` and a row of `s`, which moves by no more than the two together do.

    The first layer is linear in each of the two, so that it is computed once for a row and not once for a pair.

    Shape: t `[B, D]`, s `[N, E]` -> `[B, N]`.
    """

    def __init__(self, width_t: int, width_s: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.widths = (width_t, width_s)
        inner = [layer for _ in range(layers - 1) for layer in (LipschitzLinear(hidden, hidden), nn.ReLU())]
        self.first = LipschitzLinear(width_t + width_s, hidden)
        self.rest = nn.Sequential(nn.ReLU(), *inner, LipschitzLinear(hidden, 1))

    def forward(self, t: Tensor, s: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):
            of_t, of_s = (self.first.weight / spectral_bound(self.first.weight)).split(self.widths, 1)  # type: ignore[no-untyped-call]
            pairs = F.linear(t, of_t, self.first.bias)[:, None] + F.linear(s, of_s)
        scores: Tensor = self.rest(pairs)[:, :, 0]
        return scores


class LipschitzLinear(nn.Linear):
    """A linear layer that brings no two inputs further apart.

    Shape: `[..., D]` -> `[..., E]`.
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):  # rounding to half precision is not Lipschitz
            return F.linear(input, self.weight / spectral_bound(self.weight), self.bias)


def spectral_bound(weight: Tensor, squarings: int = 6) -> Tensor:
    """Never less than the largest singular value of a matrix, and at most `n^(1 / 4 / 2^squarings)` times it.

    The Schatten norm of order `4 * 2^squarings`, n the smaller side: 1.02 times for 256.

    Shape: `[M, N]` -> scalar.
    """
    power = products(weight, weight) if weight.shape[0] <= weight.shape[1] else products(weight.T, weight.T)
    bound = torch.ones((), dtype=power.dtype, device=power.device)
    for k in range(squarings + 1):
        norm = power.norm().clamp(min=torch.finfo(power.dtype).tiny)
        bound = bound * norm ** (0.5 ** (k + 1))
        power = products(power / norm, (power / norm).T)
    return bound.clamp(min=torch.finfo(power.dtype).tiny)
