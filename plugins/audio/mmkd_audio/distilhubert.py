"""Several teacher layers, predicted from one."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, RecipeError

_WHERE = "audio.distilhubert"


class DistilHuBERT(mmkd.Loss):
    """Predict several hidden states of the teacher from the student's last, by a head each (Chang et al., 2022).

    `mean over layers l of  mean_d |p_l - t_l|_d  -  cosine * log sigmoid(cos(p_l, t_l))`, frame by frame, with the
    prediction `p_l = W_l gelu(V_l s + a_l) + b_l` of a head as wide inside as the student. The heads are trained with
    the student and dropped at export. As in the authors' code the layers are averaged; the paper's formula sums them.
    The authors predict layers 4, 8 and 12 of HuBERT from two blocks that begin as the teacher's own first two, with
    `cosine` 1: `recipe: audio.distilhubert`.

    Shape: student `[B, T, D]`, teacher list of `[B, T, E]` -> `[B, T]`; `[B, D]` and `[B, E]` -> `[B]`.

    Args:
        cosine: weight of the cosine term; with 0 it is an L1 distance.

    Raises:
        GraphError: the teacher's states have another number of frames than the student's, or widths of their own.
        RecipeError: the loss is not set up.
    """

    def __init__(self, cosine: Annotated[float, Field(ge=0)] = 1.0) -> None:
        super().__init__()
        self.cosine = cosine
        self.heads: nn.ModuleList | None = None

    def setup(self, student: torch.Size, teacher: list[torch.Size]) -> None:
        width = student[-1]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, layer[-1])) for layer in teacher
        )

    def forward(self, student: Tensor, teacher: list[Tensor]) -> Tensor:
        if self.heads is None:
            raise RecipeError("has no heads yet", where=_WHERE, next="call setup(student=shape, teacher=[shape, ...])")
        if len(teacher) != len(self.heads) or any(t.shape[:-1] != student.shape[:-1] for t in teacher):
            raise GraphError(
                f"needs {len(self.heads)} states of the teacher with the student's frames, "
                f"not {[list(t.shape) for t in teacher]} for {list(student.shape)}",
                where=_WHERE, next="audio.align_frames brings the student's frames to the teacher's times",
            )  # fmt: skip
        losses = []
        for head, target in zip(self.heads, teacher, strict=True):
            predicted = head(student)
            target = target.to(predicted.dtype)
            with torch.autocast(predicted.device.type, enabled=False):
                wide = torch.promote_types(predicted.dtype, torch.float32)
                p, t = predicted.to(wide), target.to(wide)
                near = F.logsigmoid(F.cosine_similarity(p, t, dim=-1))
                losses.append((p - t).abs().mean(-1) - self.cosine * near)
        return torch.stack(losses).mean(0)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        student = torch.randn(4, 5, 8, generator=generator)
        return {"student": student, "teacher": [torch.randn(4, 5, 6, generator=generator) for _ in range(3)]}
