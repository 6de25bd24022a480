"""Flow of solution procedure."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.feature_map import feature_maps, pairs
from mmkd.library.losses.relation import products


class SolutionFlow(Loss):
    """Match how each layer's channels go with the next one's, FSP (Yim et al., 2017).

    From two maps of one network, `G_cd = mean_p A_cp B_dp` over positions p, the larger map averaged down to the
    smaller; the loss is the sum, over pairs of successive maps, of `mean_cd (G_cd(student) - G_cd(teacher))^2`. Both
    networks must have the same numbers of channels there, else a projector per map brings them; sizes may differ.

    The paper adds up over c and d; with maps of C and D channels its weight is this one's divided by `C D`.

    Shape: student list of `[B, C_i, H_i, W_i]`, teacher list of `[B, C_i, G_i, V_i]`, two or more each -> `[B]`.

    Raises:
        GraphError: the lists are shorter than two or of different lengths, or the maps do not fit.
    """

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        if len(pairs("core.fsp", student, teacher)) < 2:
            raise GraphError("needs two maps of each network, from its earlier to its later one", where="core.fsp")
        flows = zip(_flows(student), _flows(teacher), strict=True)
        return torch.stack([_distance(s, t) for s, t in flows]).sum(0)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 3, 8, 8), (4, 6, 4, 4)]
        return {port: [torch.randn(s, generator=generator) for s in shapes] for port in ("student", "teacher")}


def _flows(maps: list[Tensor]) -> list[Tensor]:
    flows = []
    for earlier, later in itertools.pairwise(maps):
        a, b = (x.flatten(2) for x in feature_maps("core.fsp", earlier, later, channels=False))
        flows.append(products(a, b) / max(1, a.shape[2]))
    return flows


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise GraphError(
            f"student goes from {student.shape[1]} to {student.shape[2]} channels, teacher from {teacher.shape[1]} to "
            f"{teacher.shape[2]}",
            where="core.fsp",
            next="put a projector before each map: {use: core.linear, input: <student value>, like: <teacher value>}",
        )
    return (student - teacher).square().mean((1, 2))
