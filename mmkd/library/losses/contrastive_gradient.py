"""The gradient that a contrastive loss sends to the embeddings."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.relation import products


class ContrastiveGradient(Loss):
    """Match what each network's own contrastive loss would change about its embeddings (CLIP-KD, "GD").

    For embeddings x, y of length one (image and text) and `p = softmax(x y' / T)`, InfoNCE from x to y has at `x_k` the
    gradient `sum_b (p_kb - [k = b]) y_b / T`, at `y_b` `sum_k (p_kb - [k = b]) x_k / T`. The loss is
    `|difference of student and teacher|^2`, summed over these two and those of the other direction (Yang et al., 2024).
    Temperatures are those of the networks, `1 / logit_scale`; `teacher_temperature` is `temperature` unless given.
    The authors' code takes the gradient of the batch mean and the mean over dimensions: ours divided by `B^2 D`.

    Shape: student, teacher pairs of `[B, D]` -> `[B]`. A batch of one is a constant zero.

    Raises:
        GraphError: not a pair each, or shapes differ.
        RecipeError: a temperature is not greater than zero.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        teacher_temperature: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self._temperatures()

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        if len(student) != 2 or len(teacher) != 2:
            raise GraphError(
                f"student and teacher need a pair each, not {len(student)} and {len(teacher)} values",
                where="core.contrastive_gradient",
            )
        pairs = [same_shape("core.contrastive_gradient", s, t) for s, t in zip(student, teacher, strict=True)]
        if pairs[0][0].shape != pairs[1][0].shape or pairs[0][0].dim() != 2:
            raise GraphError(
                f"a pair is two embeddings [B, D], not {[list(s.shape) for s, _ in pairs]}",
                where="core.contrastive_gradient",
            )
        own, other = self._temperatures()
        g_s = _gradients(pairs[0][0], pairs[1][0], own)
        g_t = _gradients(pairs[0][1], pairs[1][1], other)
        return torch.stack([(a - b).square().sum(1) for a, b in zip(g_s, g_t, strict=True)]).sum(0)

    def _temperatures(self) -> tuple[float, float]:
        own = positive("core.contrastive_gradient", "temperature", self.temperature)
        if self.teacher_temperature is None:
            return own, own
        return own, positive("core.contrastive_gradient", "teacher_temperature", self.teacher_temperature)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(4, 8, generator=generator) for _ in range(4)]
        return {"student": values[:2], "teacher": values[2:]}


def _gradients(x: Tensor, y: Tensor, temperature: float) -> list[Tensor]:
    """At x and y, of the search from x to y and of that from y to x. Shape: `[N, D]` twice -> four `[N, D]`."""
    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    logits = products(x, y) / temperature
    own = torch.eye(len(x), dtype=x.dtype, device=x.device)
    forth, back = logits.softmax(1) - own, logits.T.softmax(1) - own
    pairs = [(forth, y), (forth.T, x), (back, x), (back.T, y)]
    return [products(weights, values.T) / temperature for weights, values in pairs]
