"""Accuracy of a nearest-neighbour classifier on embeddings."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import GraphError
from mmkd.library.losses.port import positive, widen
from mmkd.library.metrics.chunk import chunks


class NearestNeighbours(Metric):
    """Share of samples that their nearest neighbours in the evaluation set label rightly (Wu et al., 2018).

    Every sample is left out once and labelled by a vote of the `k` others nearest by cosine, or of all others where
    there are fewer; a neighbour votes with `exp(cosine / temperature)`. Neighbours as near as the k-th all vote, and
    a tied vote is wrong, so the order of the samples does not matter and a collapsed network scores no more than
    the largest class.

    Shape: student `[B, D]`, label `[B]` -> `knn_accuracy`, between 0 and 1.

    Raises:
        DataError: fewer than two samples were seen.
        GraphError: the shapes do not fit.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, k: Annotated[int, Field(ge=1)] = 20, temperature: Annotated[float, Field(gt=0)] = 0.07) -> None:
        super().__init__()
        self.k, self.temperature = k, positive("core.knn", "temperature", temperature)
        self.embeddings, self.labels = Rows("core.knn"), Rows("core.knn")

    def forward(self, student: Tensor, label: Tensor) -> None:
        if student.dim() != 2 or label.shape != student.shape[:1]:
            raise GraphError(
                f"needs student [B, D] and label [B], not {list(student.shape)} and {list(label.shape)}",
                where="core.knn",
            )
        self.embeddings.add(F.normalize(widen(student), dim=1))
        self.labels.add(label)

    def compute(self) -> dict[str, float]:
        embeddings = self.embeddings.joined(at_least=2)
        classes, label = torch.unique(self.labels.joined(), return_inverse=True)
        right = torch.zeros((), dtype=torch.long, device=label.device)
        for rows, cosine in chunks(embeddings, embeddings):
            cosine.scatter_(1, rows[:, None], -torch.inf)
            nearest = cosine.topk(min(self.k, len(embeddings) - 1), dim=1).values
            voice = ((cosine - nearest[:, :1]) / self.temperature).exp().where(cosine >= nearest[:, -1:], 0.0)
            votes = voice.new_zeros(len(rows), len(classes)).scatter_add_(1, label.expand(len(rows), -1), voice)
            own = votes.gather(1, label[rows, None])
            right += ((votes >= own).sum(1) == 1).sum()
        return {"knn_accuracy": right.item() / len(label)}
