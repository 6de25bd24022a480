"""Token-level relationship graph: neighbours, the whole graph, and the context within a sample."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive, widen
from mmkd.library.losses.relation import by_rows, products
from mmkd.library.losses.similarity import similarity


class TokenContext(Loss):
    """Match how similar the tokens of one sample are (TRG, "inner": Zhang et al., 2023).

    `mean_ij (c_ij(teacher) - c_ij(student))^2` with `c = softmax_j(x_i x_j / sqrt(width))` over all tokens of a
    sample: the paper's contextual loss, read in a digest of it, as no code is published. Widths may differ.

    Shape: student `[B, L, D]`, teacher `[B, L, E]`, or maps `[B, D, H, W]` -> `[B]`.

    Raises:
        GraphError: not the same tokens of the same samples.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = _tokens("core.trg_inner", student, teacher)

        def loss(rows: slice) -> Tensor:
            c_s, c_t = ((products(x[rows], x[rows]) / math.sqrt(x.shape[2])).softmax(2) for x in (s, t))
            return (c_s - c_t).square().mean((1, 2))

        return by_rows(loss, s, s.shape[1] ** 2)

    def example(self) -> dict[str, Any]:
        return _example()


class SampledTokens(Loss):
    """Relates tokens of all samples of the batch to each other: some positions, drawn anew for each step.

    One position is drawn from each of `tokens` equal stretches of the sequence, the same for all samples and both
    networks; `tokens: null` takes every position.
    """

    coupled = True
    place: Tensor | None

    def __init__(self, component: str, tokens: int | None) -> None:
        super().__init__()
        if tokens is not None and tokens < 1:
            raise RecipeError(f"tokens must be at least 1, not {tokens}", where=component)
        self.component = component
        self.register_buffer("place", None if tokens is None else torch.rand(tokens))

    @torch.no_grad()
    def update(self) -> None:
        """Draw the positions for the next step."""
        if self.place is not None:
            self.place.copy_(torch.rand(self.place.shape))

    def sample(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, int]:
        """The tokens of all samples as rows, and how many there are of each. Shape: `[B * n, D]`, `[B * n, E]`."""
        s, t = _tokens(self.component, student, teacher)
        length = s.shape[1]
        if self.place is not None and len(self.place) < length:
            count = len(self.place)
            first = torch.tensor([k * length // count for k in range(count + 1)], device=s.device)
            chosen = first[:-1] + (self.place * first.diff()).long()
            s, t = s[:, chosen], t[:, chosen]
        return s.flatten(0, 1), t.flatten(0, 1), s.shape[1]

    def example(self) -> dict[str, Any]:
        return _example()


class TokenNeighbours(SampledTokens):
    """Match which tokens of the batch are near which (TRG, "local": Zhang et al., 2023).

    `mean_i KL(softmax_j(A_ij(teacher)) || softmax_j(A_ij(student)))` with `A_ij = exp(-|x_i - x_j|^2 / 2 sigma)` where
    i is one of the `neighbours` tokens nearest to j and zero elsewhere, in each network's own graph. A token is not its
    own neighbour. Which tokens are near sends no gradient. Widths may differ.

    The paper's formulas, read in a digest of it, as no code is published, leave two things open, and results depend on
    them. They do not say that tokens are brought to length one: `normalize: false` takes them as they are, where sigma
    must be of the size of their squared distances. They print the student's distribution first, as the paper also does
    for Hinton's divergence, which is the teacher's: `direction: reverse` takes that at its word.

    Shape: student `[B, L, D]`, teacher `[B, L, E]`, or maps `[B, D, H, W]` -> `[B]`; nats.

    Raises:
        GraphError: not the same tokens of the same samples.
        RecipeError: tokens, neighbours or sigma are not greater than zero.
    """

    def __init__(
        self,
        tokens: Annotated[int, Field(ge=1)] | None = 8,
        neighbours: Annotated[int, Field(ge=1)] = 8,
        sigma: Annotated[float, Field(gt=0)] = 1.0,
        normalize: bool = True,
        direction: Literal["forward", "reverse"] = "forward",
    ) -> None:
        super().__init__("core.trg_local", tokens)
        self.normalize, self.direction = normalize, direction
        self.neighbours = int(positive("core.trg_local", "neighbours", neighbours))
        self.sigma = positive("core.trg_local", "sigma", sigma)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t, count = self.sample(student, teacher)
        if self.normalize:
            s, t = F.normalize(s, dim=1), F.normalize(t, dim=1)
        radius_s, radius_t = self._radius(s), self._radius(t)

        def loss(rows: slice) -> Tensor:
            a_t, a_s = self._affinity(t, rows, radius_t), self._affinity(s, rows, radius_s)
            return divergence(a_t, a_s) if self.direction == "forward" else divergence(a_s, a_t)

        return by_rows(loss, s, len(s)).view(len(student), count).mean(1)

    @torch.no_grad()
    def _radius(self, x: Tensor) -> Tensor:
        """Nearness of each token to the last of its neighbours. Shape: `[N, D]` -> `[N]`."""
        count = min(self.neighbours, len(x) - 1)
        if count < 1:
            return x.new_full((len(x),), math.inf)
        return by_rows(lambda rows: _nearness(x, rows)[0].topk(count, dim=1).values[:, -1], x, len(x))

    def _affinity(self, x: Tensor, rows: slice, radius: Tensor) -> Tensor:
        nearness, rounding = _nearness(x, rows)
        near = nearness.detach() >= radius - rounding
        return torch.where(near, (nearness / self.sigma).exp(), 0.0)


class TokenGraph(SampledTokens):
    """Find each student token's own teacher token among those of the batch (TRG, "global": Zhang et al., 2023).

    `-log exp(cos(s_i, t_i) / T) / sum_j exp(cos(s_i, t_j) / T)` over tokens j of all samples, averaged over the tokens
    of a sample; read in a digest of the paper, as no code is published. The paper brings both to one width by a linear
    projection and lowers the temperature as training goes on: `temperature: {use: core.cosine, ...}`.

    Shape: student, teacher `[B, L, D]` or maps `[B, D, H, W]` -> `[B]`; nats.

    Raises:
        GraphError: not the same tokens of the same samples, or widths differ.
        RecipeError: tokens or temperature are not greater than zero.
    """

    def __init__(
        self,
        tokens: Annotated[int, Field(ge=1)] | None = 8,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
    ) -> None:
        super().__init__("core.trg_global", tokens)
        self.temperature = positive("core.trg_global", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t, count = self.sample(student, teacher)
        temperature = positive("core.trg_global", "temperature", self.temperature)

        def loss(rows: slice) -> Tensor:
            logits = similarity("core.trg_global", s[rows], t) / temperature
            own = torch.arange(len(s), device=s.device)[rows, None]
            return logits.logsumexp(1) - logits.gather(1, own)[:, 0]

        return by_rows(loss, s, len(s)).view(len(student), count).mean(1)


def _nearness(x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """`-|x_i - x_j|^2 / 2` for all tokens j, its own being minus infinity, and how far rounding may be off.

    Shape: `[N, D]` -> `[R, N]` twice.
    """
    own, squares = torch.arange(len(x), device=x.device), x.square().sum(1)
    half = (squares[rows, None] + squares) / 2
    nearness = (products(x[rows], x) - half).clamp(max=0.0)
    return nearness.masked_fill(own[rows, None] == own, -math.inf), 4 * torch.finfo(x.dtype).eps * half.detach()


def _tokens(component: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    s, t = (widen(x).flatten(2).mT if x.dim() == 4 else widen(x) for x in (student, teacher))
    if s.dim() != 3 or t.dim() != 3 or s.shape[:2] != t.shape[:2]:
        raise GraphError(
            f"needs the same tokens of both networks, [B, L, D] or [B, D, H, W], not {list(student.shape)} and "
            f"{list(teacher.shape)}",
            where=component,
        )
    return s, t


def _example() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(4, 12, 8, generator=generator) for name in ("student", "teacher")}
