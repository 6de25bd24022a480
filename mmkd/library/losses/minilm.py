"""Self-attention relations."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.layer_map import LayerMap, layer_pairs
from mmkd.library.losses.port import widen
from mmkd.library.losses.relation import by_rows, products


class RelationTransfer(Loss):
    """Match how the queries, keys and values of a layer relate the tokens of a sequence (MiniLMv2: Wang et al., 2021).

    For each pair of values x, all heads together are split anew into `relation_heads` heads; the loss is the mean over
    values, heads and tokens i of `KL(softmax_j(t_i t_j / sqrt(d_t)) || softmax_j(s_i s_j / sqrt(d_s)))`, d being the
    width of a relation head. So widths and numbers of attention heads may differ: the paper's eqs. 5 to 8 with equal
    weights; its authors published no training code, that of bloomberg/minilmv2.bb agrees. Queries, keys and values are
    taken with a tap each, `student/layers.5.attention.query`; any number of pairs will do. A token whose `mask` is zero
    is neither related nor counted.

    The paper takes one layer of each network (of a large teacher not the last). Several layers are listed one after
    the other, `per_layer` values each (3: query, key, value), and `layers` says which belong together: `each` one to
    one, `uniform`, `last`, `uniform_last` or `consecutive` (Udagawa et al., 2023, as in `core.hidden_states`).

    Shape: student list of `[B, L, D]`, teacher list of `[B, L, E]`, mask `[B, L]` -> `[B]`; nats.

    Raises:
        GraphError: lists that do not fit the map, sequences of different lengths, or a width that the heads do not
            divide.
        RecipeError: there is no relation head.
    """

    conformance: ClassVar[dict[str, Any]] = {"inert": ("layers", "per_layer")}  # of one layer each, all maps are alike

    def __init__(
        self,
        relation_heads: Annotated[int, Field(ge=1)] = 48,
        layers: LayerMap = "each",
        per_layer: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__()
        self.relation_heads, self.layers, self.per_layer = relation_heads, layers, per_layer
        if relation_heads < 1:
            raise RecipeError(f"relation_heads must be at least 1, not {relation_heads}", where="core.minilm")

    def forward(self, student: list[Tensor], teacher: list[Tensor], mask: Tensor | None = None) -> Tensor:
        own, given = [self._heads(x) for x in student], [self._heads(x) for x in teacher]
        valid = None if mask is None else mask > 0
        losses = [_relation_loss(own[i], given[j], valid) for i, j in self._pairs(len(own), len(given))]
        return torch.stack(losses).mean(0)

    def _pairs(self, students: int, teachers: int) -> list[tuple[int, int]]:
        """The values that are compared: those of the mapped layers, in order."""
        size = self.per_layer
        if students % size or teachers % size:
            raise GraphError(
                f"{students} values of the student and {teachers} of the teacher are not {size} per layer",
                where="core.minilm.per_layer",
            )
        mapped = layer_pairs("core.minilm", self.layers, students // size, teachers // size)
        return [(i * size + k, j * size + k) for i, j in mapped for k in range(size)]

    def _heads(self, x: Tensor) -> Tensor:
        """Shape: `[B, L, D]` -> `[B, R, L, D / R]`."""
        if x.dim() != 3 or x.shape[2] % self.relation_heads:
            raise GraphError(
                f"needs [B, L, D] with D a multiple of {self.relation_heads} relation heads, not {list(x.shape)}",
                where="core.minilm",
                next="relation_heads: a number that divides both widths",
            )
        batch, length, width = x.shape
        return widen(x).reshape(batch, length, self.relation_heads, width // self.relation_heads).transpose(1, 2)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        widths = (2 * self.relation_heads, 3 * self.relation_heads)
        q_s, k_s, q_t, k_t = (torch.randn(4, 5, w, generator=generator) for w in widths for _ in range(2))
        return {"student": [q_s, k_s], "teacher": [q_t, k_t]}


def _relation_loss(s: Tensor, t: Tensor, valid: Tensor | None) -> Tensor:
    if s.shape[:3] != t.shape[:3]:
        raise GraphError(
            f"student has {s.shape[2]} tokens in {s.shape[0]} samples, teacher {t.shape[2]} in {t.shape[0]}",
            where="core.minilm",
        )

    def loss(rows: slice) -> Tensor:
        a, b = (products(x[rows], x[rows]) / math.sqrt(x.shape[3]) for x in (t, s))
        if valid is None:
            return divergence(a, b).mean((1, 2))
        own = valid[rows, None, :]
        per_token = divergence(*(x.masked_fill(~own[:, :, None], -math.inf) for x in (a, b)))
        counted = own.expand_as(per_token)
        return torch.where(counted, per_token, 0.0).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)

    return by_rows(loss, s, s.shape[1] * s.shape[2] ** 2)
