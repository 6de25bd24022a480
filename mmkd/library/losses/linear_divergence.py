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
from mmkd.library.losses.slope import Divergence

MAX_CELLS = 10 * 2**20
"""Cells of a chunk of logits on a CPU: 40 MiB in float32, which glibc always gives back, while it keeps and fragments
blocks of up to 32. A GPU holds 16 times as many."""
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
    float32 or wider. A bias of minus infinity rules a class out.

    Shape: student `[B, T, D]`, student_head `[V, D]`, teacher `[B, T, E]`, teacher_head `[V, E]`, biases `[V]`, mask
        `[B, T]` -> `[B, T]`; or without T; nats.

    Args:
        divergence: which.
        temperature: T.
        beta: the teacher's share of the mixture of `jsd`.
        skew: the share of the skewed ones that belongs to the first distribution.
        chunk: tokens at a time; None for as many as make 10 million logits, 16 times that on a GPU.

    Raises:
        GraphError: tokens, widths or vocabularies do not fit.
        RecipeError: an option is out of its range.
    """

    skips_masked: ClassVar[bool] = True
    conformance: ClassVar[dict[str, Any]] = {
        "constant": ("teacher", "teacher_head"),
        "inert": ("beta", "skew", "chunk"),  # shares are those of other divergences than the default
    }

    def __init__(
        self,
        divergence: Divergence = "kl",
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        beta: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        skew: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        chunk: Annotated[int, Field(ge=1)] | None = None,
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
        self.chunk = chunk

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
            own, student_head, student_bias, Head(given, teacher_head.detach(), teacher_bias), self._law(),
            positive(ID, "temperature", self.temperature), self.chunk or _chunk(size, own.device),
            torch.is_grad_enabled(),
        )  # fmt: skip
        if rows is not None:
            losses = losses.new_zeros(math.prod(tokens)).index_copy(0, rows, losses)
        return losses.view(tokens)

    def _law(self) -> tuple[Divergence, float]:
        """Divergence and share."""
        if self.divergence == "jsd":
            return "jsd", share(ID, "beta", self.beta)
        return self.divergence, self.skew if self.skew == 0 else share(ID, "skew", self.skew)

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
    return max(1, MAX_CELLS * (1 if device.type == "cpu" else 16) // max(1, vocabulary))
