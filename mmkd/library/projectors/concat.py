"""Several embeddings as one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Projector


class Concatenation(Projector):
    """Concatenates values along the last dimension, each at unit length unless told otherwise.

    `[a/|a|, b/|b|, ...]`: the cosine of two such vectors is the mean of the cosines of their parts, so that several
    teachers make one target space. A zero vector stays zero; with `normalize: false` every part keeps its length.
    No parameters.

    Shape: input, a list of `[B, ..., D_i]` -> `[B, ..., sum D_i]`.
    """

    def __init__(self, normalize: bool = True) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, input: list[Tensor]) -> Tensor:
        return torch.cat([F.normalize(part, dim=-1) if self.normalize else part for part in input], dim=-1)
