"""Patient knowledge distillation of hidden states."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.feature_map import pairs
from mmkd.library.losses.port import same_shape


class PatientStates(Loss):
    """Match the direction of one token's hidden state in several layers, PKD (Sun et al., 2019).

    `sum_l |s_l / |s_l| - t_l / |t_l||^2` over pairs of layers, of the token `token` (0, the class token). That is
    `2 (1 - cosine)` each. Which layers: every k-th of the teacher (PKD-Skip), or its last ones (PKD-Last), written
    as lists; the authors leave the student's last out.

    The paper's code averages over layers and features instead of adding up: with L pairs of width D its weight is
    `L D` times this one's. Not to be mixed up with the PKD of detectors (Cao et al., 2022), which is
    `core.pearson_map`.

    Shape: student, teacher lists of `[B, L, D]` or `[B, D]` -> `[B]`.

    Raises:
        GraphError: the lists are empty or of different lengths, or the widths differ.
    """

    def __init__(self, token: Annotated[int, Field(ge=0)] = 0) -> None:
        super().__init__()
        self.token = token

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        losses = []
        for states in pairs("core.patient", student, teacher):
            s, t = same_shape("core.patient", *(x[:, self.token] if x.dim() == 3 else x for x in states))
            losses.append((F.normalize(s, dim=1) - F.normalize(t, dim=1)).square().sum(1))
        return torch.stack(losses).sum(0)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {p: [torch.randn(4, 5, 8, generator=generator) for _ in range(2)] for p in ("student", "teacher")}
