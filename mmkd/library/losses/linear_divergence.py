"""Divergence over a vocabulary from hidden states and heads, without the logits."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, get_args

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.divergences import share
from mmkd.library.losses.head import Head, LinearLaw
from mmkd.library.losses.port import positive
from mmkd.library.losses.slope import Comparison, Divergence

MAX_CELLS = 16 * 2**20
"""Logits of a chunk on a CPU, 64 MiB in float32 for each side. A GPU makes 10 times as many at once: its products have
to outweigh that the gradient of the head is read and written for every chunk."""
UNSKEWED: dict[Divergence, Divergence] = {"skew_kl": "kl", "skew_reverse_kl": "reverse_kl"}
ID = "core.linear_divergence"


class LinearDivergence(Loss):
    """Divergence over a vocabulary from hidden states and heads, a few logits at a time (Liger: Hsu et al., 2024).

    `T^2 * D(softmax(W_t h_t / T), softmax(W_s h_s / T))`, the numbers of `core.kl`, `core.reverse_kl`, `core.jsd`,
    `core.skew_kl` or (`skew_reverse_kl`) its `reverse` on `logits = h W^T + b`. Logits are made for `chunk` tokens at a
    time, and their gradient with them, which goes straight into hidden states and head; no `[B, T, V]` is ever held.
    The teacher's side is a constant. Bind the input of the head and its weight, so that the networks stop before it:

        student: student/lm_head.input, student_head: student/lm_head.weight

    Tokens whose `mask` is zero cost nothing: they are left out before the first product, read zero, and the host takes
    the mean over the others. Where all valid tokens weigh the same in the objective the backward pass is a
    multiplication; otherwise it makes the logits once more. It can be differentiated once.

    Logits are made in the precision in which the heads would make them, autocast included, distributions of them in
    float32 or wider. A bias of minus infinity rules a class out. A head that does more than that (a bias, a softcap)
    must be told all of it, or the objective is not that of its logits.

    On a CPU the distributions of a few tokens at a time are compared, in its cache. `fused` makes one operation of the
    comparison, by torch.compile, in the ten or so seconds of its first call.

    Shape: student `[B, T, D]`, student_head `[V, D]`, teacher `[B, T, E]`, teacher_head `[V, E]`, biases `[V]`, mask
        `[B, T]` -> `[B, T]`; or without T; nats.

    Args:
        divergence: which.
        temperature: T.
        beta: the teacher's share of the mixture of `jsd`.
        skew: the share of the skewed ones that belongs to the first distribution.
        student_softcap: c of `c tanh(logits / c)`, what the student's network makes of its logits; None for nothing.
        teacher_softcap: the teacher's.
        chunk: tokens at a time; None for as many as make 17 million logits, 10 times that on a GPU.
        fused: whether torch.compile fuses the comparison; an error where it cannot, as without a C++ compiler.

    Raises:
        GraphError: tokens, widths or vocabularies do not fit, or torch cannot compile.
        RecipeError: an option is out of its range.
    """

    skips_masked: ClassVar[bool] = True
    conformance: ClassVar[dict[str, Any]] = {
        "constant": ("teacher", "teacher_head"),
        "inert": ("beta", "skew", "chunk", "fused"),  # shares are those of other divergences than the default
    }

    def __init__(
        self,
        divergence: Divergence = "kl",
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        beta: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        skew: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        student_softcap: Annotated[float, Field(gt=0)] | None = None,
        teacher_softcap: Annotated[float, Field(gt=0)] | None = None,
        chunk: Annotated[int, Field(ge=1)] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        if divergence not in get_args(Divergence):
            raise RecipeError(
                f"no divergence '{divergence}'", where=f"{ID}.divergence", name=divergence,
                exists=list(get_args(Divergence)),
            )  # fmt: skip
        if chunk is not None and chunk < 1:
            raise RecipeError(f"chunk must be at least 1, not {chunk}", where=ID)
        self.divergence: Divergence = divergence
        self.temperature = positive(ID, "temperature", temperature)
        self.beta = share(ID, "beta", beta)
        self.skew = skew if skew == 0 else share(ID, "skew", skew)
        for name, softcap in {"student_softcap": student_softcap, "teacher_softcap": teacher_softcap}.items():
            if softcap is not None:
                positive(ID, name, softcap)
        self.student_softcap, self.teacher_softcap = student_softcap, teacher_softcap
        self.chunk, self.fused = chunk, fused

    def forward(
        self,
        student: Tensor,
        student_head: Tensor,
        teacher: Tensor,
        teacher_head: Tensor,
        student_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        self._check(student, student_head, teacher, teacher_head, mask)
        tokens, size = student.shape[:-1], len(student_head)
        own, given = student.flatten(0, -2), teacher.detach().flatten(0, -2)
        rows = None if mask is None else (mask.flatten() > 0).nonzero().flatten()
        if rows is not None:
            own, given = own[rows], given[rows]
        losses: Tensor = LinearLaw.apply(
            own, student_head, student_bias, Head(given, teacher_head.detach(), teacher_bias), self._how(),
            self.chunk or _chunk(size, own.device), self.fused, torch.is_grad_enabled(),
        )  # fmt: skip
        if rows is not None:
            losses = losses.new_zeros(math.prod(tokens)).index_copy(0, rows, losses)
        return losses.view(tokens)

    def _how(self) -> Comparison:
        divergence, part = self.divergence, self.skew
        if divergence == "jsd":
            part = share(ID, "beta", self.beta)
        elif part:
            share(ID, "skew", part)
        elif divergence in UNSKEWED:
            divergence = UNSKEWED[divergence]
        temperature = positive(ID, "temperature", self.temperature)
        return Comparison(divergence, part, temperature, (self.student_softcap, self.teacher_softcap))

    def _check(self, student: Tensor, head: Tensor, teacher: Tensor, other: Tensor, mask: Tensor | None) -> None:
        if student.dim() < 2 or student.shape[:-1] != teacher.shape[:-1]:
            raise GraphError(
                f"student {list(student.shape)} and teacher {list(teacher.shape)} are not the same tokens", where=ID
            )
        for name, value, weight in (("student", student, head), ("teacher", teacher, other)):
            if weight.dim() != 2 or weight.shape[1] != value.shape[-1]:
                raise GraphError(
                    f"{name} {list(value.shape)} does not go into {name}_head {list(weight.shape)}",
                    where=f"{ID}.{name}_head",
                    next=f"bind the head's input and weight: {name}/lm_head.input, {name}/lm_head.weight",
                )
        if len(head) != len(other):
            raise GraphError(
                f"vocabularies of {len(head)} and {len(other)}", where=ID,
                next="compare the logits of different vocabularies by core.uld",
            )  # fmt: skip
        if mask is not None and mask.shape != student.shape[:-1]:
            raise GraphError(
                f"mask {list(mask.shape)} is not one number per token {list(student.shape[:-1])}", where=f"{ID}.mask"
            )

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        shapes = {"student": (4, 3, 8), "student_head": (7, 8), "teacher": (4, 3, 6), "teacher_head": (7, 6)}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _chunk(vocabulary: int, device: torch.device) -> int:
    return max(1, MAX_CELLS * (1 if device.type == "cpu" else 10) // max(1, vocabulary))
