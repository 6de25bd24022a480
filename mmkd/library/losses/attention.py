"""Attention maps of transformers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive, same_shape, widen
from mmkd.library.losses.relation import products


class AttentionKL(Loss):
    """Divergence of the student's attention from the teacher's, as MiniLM of the last layer (Wang et al., 2020).

    `1/H sum_h KL(a_h || b_h)` for every query, a_h and b_h what head h of the teacher and of the student gives each
    key. Heads are compared by number; with `heads: mean` their means are, so that numbers of heads may differ.
    Probabilities are taken as they are: zero where the teacher rules a key out costs nothing, zero where only the
    student does costs as much as the smallest number of its precision.

    MiniLM also averages over queries, as the host does; padded ones are left out by the term's `mask`.

    Shape: student `[B, H, L, M]`, teacher `[B, G, L, M]` -> `[B, L]`; nats.

    Raises:
        GraphError: not attention maps of one size, or the numbers of heads differ.
    """

    def __init__(self, heads: Literal["each", "mean"] = "each") -> None:
        super().__init__()
        self.heads = heads

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.heads == "mean" and student.dim() == teacher.dim() == 4:
            student, teacher = (widen(x).mean(1, keepdim=True) for x in (student, teacher))
        if student.dim() != 4 or student.shape != teacher.shape:
            raise GraphError(
                f"needs attention maps [B, heads, L, M] of one shape, not {list(student.shape)} and "
                f"{list(teacher.shape)}",
                where="core.attention_kl",
                next="heads: mean where only the numbers of heads differ, or core.minilm, which splits them anew",
            )
        q, p = widen(student), widen(teacher)
        log_q = q.clamp(min=torch.finfo(q.dtype).tiny).log()
        return (torch.xlogy(p, p) - torch.where(p > 0, p * log_q, 0.0)).sum(-1).mean(1)

    def example(self) -> dict[str, Any]:
        student, teacher = _maps(2)
        return {"student": student, "teacher": teacher}


class CrossAttentionKL(Loss):
    """Divergence between the attention of one modality's queries to the other's keys, DiDE (Wang et al., 2022).

    `1/H sum_h KL(softmax(Q_t K_t' / sqrt(d_t)) || softmax(Q_s K_s' / sqrt(d_s)))` for every query, over the keys of the
    other modality alone. The student is two towers that never attend to each other; the loss does it for them, and
    they stay apart at use. DiDE has one such term from image to text and one from text to image, each with queries
    and keys of the last layer: `student: [student/image.query, student/text.key]`. All heads together are split anew
    into `heads`, so that widths and numbers of heads may differ.

    Shape: student, teacher lists of queries `[B, L, D]` and keys `[B, M, D]`, key_mask `[B, M]` (zero: no key)
    -> `[B, L]`; nats.

    Raises:
        GraphError: not queries and keys, or a width that the heads do not divide.
        RecipeError: there is no head.
    """

    def __init__(self, heads: Annotated[int, Field(ge=1)] = 12) -> None:
        super().__init__()
        self.heads = heads
        if heads < 1:
            raise RecipeError(f"heads must be at least 1, not {heads}", where="core.cross_attention")

    def forward(self, student: list[Tensor], teacher: list[Tensor], key_mask: Tensor | None = None) -> Tensor:
        s, t = same_shape("core.cross_attention", self._scores(student), self._scores(teacher))
        if key_mask is not None:
            hidden = ~(key_mask > 0)[:, None, None, :]
            s, t = _without(s, hidden), _without(t, hidden)
        return divergence(t, s).mean(1)

    def _scores(self, pair: list[Tensor]) -> Tensor:
        shapes = [list(x.shape) for x in pair]
        fits = len(pair) == 2 and all(x.dim() == 3 and x.shape[2] % self.heads == 0 for x in pair)
        if not fits or pair[0].shape[2] != pair[1].shape[2]:
            raise GraphError(
                f"needs queries [B, L, D] and keys [B, M, D], D a multiple of {self.heads} heads, not {shapes}",
                where="core.cross_attention",
                next="heads: a number that divides both widths",
            )
        query, key = (torch.unflatten(widen(x), 2, (self.heads, -1)).transpose(1, 2) for x in pair)
        return products(query, key) / math.sqrt(query.shape[3])

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        widths = {"student": self.heads, "teacher": 2 * self.heads}
        return {p: [torch.randn(4, n, w, generator=generator) for n in (5, 3)] for p, w in widths.items()}


class AttentionAlignment(Loss):
    """Learn which of all the student's heads make up each of the teacher's, and match those, A2D (Jin et al., 2024).

    The heads of all the student's layers are mapped to those of all the teacher's by one matrix with a bias, cell by
    cell; the loss is the mean over teacher heads of `T^2 KL(softmax(teacher / T) || softmax(mapped / T))`, the softmax
    being over all cells of a map, queries and keys, as a mapped map is no distribution. The matrix is learnt with the
    student and dropped at export; nobody has to say which layer teaches which.

    The authors' code adds up over heads and samples, at `T = 1`, and gives it attention weights, whose softmax is
    nearly flat: a smaller T sharpens it. Scores before the softmax will do as well, as long as they are finite; cells
    whose query or key has a `mask` of zero are left out.

    Shape: student list of `[B, H_i, L, M]`, teacher list of `[B, G_i, L, M]`, mask `[B, L]` (then M = L) -> `[B]`;
    nats.

    Raises:
        GraphError: not attention maps of one size.
        RecipeError: the temperature is not greater than zero, or not set up.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.temperature = positive("core.a2d", "temperature", temperature)
        self.alignment: torch.nn.Linear | None = None

    def setup(self, student: list[torch.Size], teacher: list[torch.Size], mask: torch.Size | None = None) -> None:
        own, target = (sum(shape[1] for shape in each) for each in (student, teacher))
        self.alignment = torch.nn.Linear(own, target)

    def forward(self, student: list[Tensor], teacher: list[Tensor], mask: Tensor | None = None) -> Tensor:
        if self.alignment is None:
            raise RecipeError("has no alignment yet", where="core.a2d", next="call setup(**shapes)")
        temperature = positive("core.a2d", "temperature", self.temperature)
        sizes = {(len(x), *x.shape[2:]) for x in (*student, *teacher) if x.dim() == 4}
        if len(sizes) != 1 or any(x.dim() != 4 for x in (*student, *teacher)):
            shapes = [list(x.shape) for x in (*student, *teacher)]
            raise GraphError(f"needs attention maps [B, heads, L, M] of one size, not {shapes}", where="core.a2d")
        s, t = (torch.cat([widen(x) for x in maps], 1) for maps in (student, teacher))
        mapped: Tensor = self.alignment(s.movedim(1, -1)).movedim(-1, 1)
        s, t = mapped.flatten(2) / temperature, t.flatten(2) / temperature
        if mask is not None:
            valid = mask > 0
            hidden = ~(valid[:, :, None] & valid[:, None, :]).flatten(1)[:, None]
            s, t = _without(s, hidden), _without(t, hidden)
        return temperature**2 * divergence(t, s).mean(1)

    def example(self) -> dict[str, Any]:
        return {"student": list(_maps(2)), "teacher": list(_maps(4))}


def _without(scores: Tensor, hidden: Tensor) -> Tensor:
    """Scores with the hidden ones at minus infinity; all equal where none is left: nothing to learn."""
    return scores.masked_fill(hidden, -math.inf).masked_fill(hidden.all(-1, keepdim=True), 0.0)


def _maps(heads: int) -> Tensor:
    """Two attention maps. Shape: `[2, B, heads, L, M]`."""
    return torch.randn(2, 4, heads, 5, 5, generator=torch.Generator().manual_seed(heads)).softmax(-1)
