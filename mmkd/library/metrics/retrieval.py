"""Cross-modal retrieval: recall, mean average precision, median rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.port import widen
from mmkd.library.metrics.chunk import chunks


class Retrieval(Metric):
    """Share of queries that find a match among the k candidates nearest by cosine, for every k.

    Row i of `a` matches row i of `b`, and with `group` every row of the other side that has its id. A query of
    either side searches all candidates of the other; its best match ranks behind all others that are as near or
    NaN, so a collapsed network scores at or below chance. Once k reaches the number of candidates recall is one.

    `also` adds `mean_average_precision`, the mean over queries of `1/P * sum_j j / rank(match j)` over the P matches
    from the nearest on, which asks for all matches and not just one; or `median_rank` of the best match, from 1.

    `direction: both` names its scores `a_to_b_recall_at_<k>` and `b_to_a_recall_at_<k>`; one direction alone names
    them `recall_at_<k>`. With images as `a` and texts as `b`, `b_to_a` is text to image.

    Where rows are pairs (image, caption) and an image has several captions, it stands in several rows:
    `one_per_group: a` keeps the first row of each group of `a`, which gives the protocol of COCO and Flickr30K, one
    image against all of its captions.

    Shape: a, b `[B, D]`, group: `[B]` ids or a list of B ids -> recalls and precisions between 0 and 1, ranks from 1.

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
        also: tuple[Literal["mean_average_precision", "median_rank"], ...] = (),
    ) -> None:
        super().__init__()
        if not k or min(k) < 1:
            raise RecipeError(f"k must list numbers from 1, not {list(k)}", where="core.retrieval")
        self.k, self.direction, self.one_per_group, self.also = tuple(k), direction, one_per_group, tuple(also)
        self.a, self.b, self.ids = Rows("core.retrieval"), Rows("core.retrieval"), Rows("core.retrieval")

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
        if group is not None:
            self.ids.add(group)

    def compute(self) -> dict[str, float]:
        a, b = self.a.joined(), self.b.joined()
        number, first = _numbered(self.ids.listed() or range(len(a)))
        ids = torch.tensor(number, device=a.device)
        sides = {"a": (a, ids), "b": (b, ids)}
        if self.one_per_group:
            embeddings, _ = sides[self.one_per_group]
            kept = torch.tensor(first, device=a.device)
            sides[self.one_per_group] = (embeddings[kept], ids[kept])
        scores: dict[str, float] = {}
        for direction in ("a_to_b", "b_to_a") if self.direction == "both" else (self.direction,):
            prefix = f"{direction}_" if self.direction == "both" else ""
            found = self._scores(*sides[direction[0]], *sides[direction[-1]])
            scores |= {prefix + name: score for name, score in found}
        return scores

    def _scores(self, *sides: Tensor) -> Iterator[tuple[str, float]]:
        ranks = _ranks(*sides)
        yield from ((f"recall_at_{k}", (ranks <= k).double().mean().item()) for k in self.k)
        if "mean_average_precision" in self.also:
            yield "mean_average_precision", _precisions(*sides).mean().item()
        if "median_rank" in self.also:
            yield "median_rank", ranks.double().quantile(0.5).item()


def _ranks(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> Tensor:
    """Rank, from 1, of the nearest match of every query among its candidates."""
    ranks = []
    for rows, cosine in chunks(queries, candidates):
        match = query_ids[rows, None] == candidate_ids
        best = cosine.masked_fill(~match, -torch.inf).amax(1, keepdim=True)
        ranks.append(1 + (~(cosine < best) & ~match).sum(1))
    return torch.cat(ranks)


def _precisions(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> Tensor:
    """Average precision of every query, in float64; ties and NaN count against the matches."""
    precisions = []
    for rows, cosine in chunks(queries, candidates):
        match = query_ids[rows, None] == candidate_ids
        matches = match.sum(1, keepdim=True)
        cosine = cosine.where(~cosine.isnan(), torch.where(match, -torch.inf, torch.inf))
        place = torch.arange(1, int(matches.max()) + 1, device=cosine.device).expand(len(rows), -1)
        found = cosine.masked_fill(~match, -torch.inf).topk(place.shape[1], dim=1).values
        others = cosine.masked_fill(match, -torch.inf).sort(1).values
        ahead = (cosine.shape[1] - torch.searchsorted(others, found)).minimum(cosine.shape[1] - matches)
        each = (place / (place + ahead).double()).where(place <= matches, 0.0)
        precisions.append(each.sum(1) / matches.squeeze(1))
    return torch.cat(precisions)


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
