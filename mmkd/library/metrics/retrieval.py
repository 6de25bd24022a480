"""Recall of cross-modal retrieval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Metric
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.port import widen
from mmkd.library.metrics.chunk import chunks
from mmkd.library.metrics.rows import Rows


class Retrieval(Metric):
    """Share of queries that find a match among the k candidates nearest by cosine, for every k.

    Row i of `a` matches row i of `b`, and with `group` every row of the other side that has its id. A query of
    either side searches all candidates of the other; its best match ranks behind all others that are as near or
    NaN, so a collapsed network scores at or below chance. Once k reaches the number of candidates recall is one.

    `direction: both` names its scores `a_to_b_recall_at_<k>` and `b_to_a_recall_at_<k>`; one direction alone names
    them `recall_at_<k>`. With images as `a` and texts as `b`, `b_to_a` is text to image.

    Where rows are pairs (image, caption) and an image has several captions, it stands in several rows:
    `one_per_group: a` keeps the first row of each group of `a`, which gives the protocol of COCO and Flickr30K, one
    image against all of its captions.

    Shape: a, b `[B, D]`, group: `[B]` ids or a list of B ids -> recalls, between 0 and 1.

    Raises:
        DataError: no sample was seen.
        GraphError: the shapes do not fit, or `one_per_group` stands without `group`.
        RecipeError: some k is less than 1, or there is none.
    """

    def __init__(
        self,
        k: tuple[int, ...] = (1, 5, 10),
        direction: Literal["both", "a_to_b", "b_to_a"] = "both",
        one_per_group: Literal["a", "b"] | None = None,
    ) -> None:
        super().__init__()
        if not k or min(k) < 1:
            raise RecipeError(f"k must list numbers from 1, not {list(k)}", where="core.retrieval")
        self.k, self.direction, self.one_per_group = tuple(k), direction, one_per_group
        self.a, self.b = Rows("core.retrieval"), Rows("core.retrieval")
        self.ids: list[Any] = []

    def reset(self) -> None:
        self.a.clear()
        self.b.clear()
        self.ids.clear()

    def forward(self, a: Tensor, b: Tensor, group: Tensor | Sequence[Any] | None = None) -> None:
        if a.dim() != 2 or a.shape != b.shape or (group is not None and len(group) != len(a)):
            ids = "" if group is None else f" and {len(group)} ids"
            raise GraphError(
                f"needs a, b [B, D] and B ids, not {list(a.shape)}, {list(b.shape)}{ids}", where="core.retrieval"
            )
        if group is None and self.one_per_group:
            raise GraphError(f"one_per_group: {self.one_per_group} needs the port 'group'", where="core.retrieval")
        self.a.add(F.normalize(widen(a), dim=1))
        self.b.add(F.normalize(widen(b), dim=1))
        if group is None:
            group = range(len(self.ids), len(self.ids) + len(a))
        self.ids += group.tolist() if isinstance(group, Tensor) else group

    def compute(self) -> dict[str, float]:
        a, b = self.a.joined(), self.b.joined()
        number, first = _numbered(self.ids)
        ids = torch.tensor(number, device=a.device)
        sides = {"a": (a, ids), "b": (b, ids)}
        if self.one_per_group:
            embeddings, _ = sides[self.one_per_group]
            kept = torch.tensor(first, device=a.device)
            sides[self.one_per_group] = (embeddings[kept], ids[kept])
        scores: dict[str, float] = {}
        for direction in ("a_to_b", "b_to_a") if self.direction == "both" else (self.direction,):
            ranks = _ranks(*sides[direction[0]], *sides[direction[-1]])
            prefix = f"{direction}_" if self.direction == "both" else ""
            scores |= {f"{prefix}recall_at_{k}": (ranks <= k).double().mean().item() for k in self.k}
        return scores


def _ranks(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> Tensor:
    """Rank, from 1, of the nearest match of every query among its candidates."""
    ranks = []
    for rows, cosine in chunks(queries, candidates):
        match = query_ids[rows, None] == candidate_ids
        best = cosine.masked_fill(~match, -torch.inf).amax(1, keepdim=True)
        ranks.append(1 + (~(cosine < best) & ~match).sum(1))
    return torch.cat(ranks)


def _numbered(ids: Iterable[Any]) -> tuple[list[int], list[int]]:
    """Ids numbered in order of appearance, and the place where each appears first."""
    numbers: dict[Any, int] = {}
    first: list[int] = []
    numbered = []
    for place, id in enumerate(ids):
        if id not in numbers:
            numbers[id] = len(first)
            first.append(place)
        numbered.append(numbers[id])
    return numbered, first
