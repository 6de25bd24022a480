"""How many dimensions an embedding makes use of."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class EffectiveRank(Metric):
    """Number of dimensions that the embeddings make use of, by their spectrum's entropy (Roy & Vetterli, 2007).

    `exp(-sum_k p_k log p_k)` with `p_k = s_k / sum_j s_j` and s the singular values of the matrix of all embeddings:
    between 1, all on one line, and the width, all directions alike; 0 where all are zero. A low one tells of
    dimensional collapse without any label (RankMe: Garrido et al., 2023).

    `center` takes the mean embedding away first, so that a common offset does not count as a dimension.

    Shape: student `[B, D]` -> `effective_rank`.

    Raises:
        DataError: no sample was seen, or embeddings are not finite.
        GraphError: the shape does not fit.
    """

    def __init__(self, center: bool = False) -> None:
        super().__init__()
        self.center = center
        self.embeddings = Rows("core.effective_rank")

    def forward(self, student: Tensor) -> None:
        if student.dim() != 2:
            raise GraphError(f"needs student [B, D], not {list(student.shape)}", where="core.effective_rank")
        self.embeddings.add(widen(student))

    def compute(self) -> dict[str, float]:
        rows = self.embeddings.numbers().double()
        if self.center:
            rows = rows - rows.mean(0)
        if len(rows) > rows.shape[1]:
            rows = torch.linalg.qr(rows, mode="r").R  # the same singular values, from fewer rows
        spectrum = torch.linalg.svdvals(rows)
        total = spectrum.sum()
        if total == 0:
            return {"effective_rank": 0.0}
        return {"effective_rank": torch.special.entr(spectrum / total).sum().exp().item()}
