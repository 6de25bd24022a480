"""Neuron selectivity transfer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.feature_map import example_maps
from mmkd.library.losses.port import widen
from mmkd.library.losses.relation import products


class NeuronSelectivity(Loss):
    """Match where in the image the channels of two feature maps fire (NST: Huang and Wang, 2017).

    Squared maximum mean discrepancy between the student's and the teacher's channels, each the pattern it makes over
    all positions, divided by its norm: `mean k(t, t') + mean k(s, s') - 2 mean k(s, t)` over channels. `kernel` is
    `linear`, `<x, y>`, `polynomial`, `<x, y>^2`, or `gaussian`, `exp(-|x - y|^2 / 2v)` with v the mean of `|s - t|^2`,
    which sends no gradient. Numbers of channels may differ; the larger map is averaged down to the smaller. The
    polynomial one is that of RepDistiller (`distiller_zoo/NST.py`); the paper leaves open which pairs v is the mean of.

    Shape: student `[B, C, H, W]`, teacher `[B, E, G, V]` -> `[B]`; also `[B, L, D]`, `[B, L, E]` with D and E channels.

    Raises:
        GraphError: not two maps, or two sequences of one length, of the same samples.
    """

    def __init__(self, kernel: Literal["linear", "polynomial", "gaussian"] = "polynomial") -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = _patterns(student, teacher)
        ss, tt, st = products(s, s), products(t, t), products(s, t)
        if self.kernel == "gaussian":
            variance = (2 - 2 * st).mean((1, 2), keepdim=True).detach().clamp(min=torch.finfo(st.dtype).eps)
            ss, tt, st = (((x - 1) / variance).exp() for x in (ss, tt, st))
        elif self.kernel == "polynomial":
            ss, tt, st = ss.square(), tt.square(), st.square()
        return ss.mean((1, 2)) + tt.mean((1, 2)) - 2 * st.mean((1, 2))

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 8)


def _patterns(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """One row of length one per channel, over positions in both. Shape: `[B, C, P]`, `[B, E, P]`."""
    s, t = widen(student), widen(teacher)
    alike = s.dim() == t.dim() and s.shape[:1] == t.shape[:1]
    if alike and s.dim() == 4:
        size = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
        s, t = (F.adaptive_avg_pool2d(x, size).flatten(2) for x in (s, t))
    elif alike and s.dim() == 3 and s.shape[1] == t.shape[1]:
        s, t = s.mT, t.mT
    else:
        raise GraphError(
            f"needs two maps [B, C, H, W] or two sequences [B, L, D] of one length, not {list(student.shape)} and "
            f"{list(teacher.shape)}",
            where="core.nst",
        )
    return F.normalize(s, dim=2), F.normalize(t, dim=2)
