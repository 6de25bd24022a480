"""Accuracy of a classifier."""

from __future__ import annotations

from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import GraphError, RecipeError
from mmkd.library.metrics.rank import rank


class TopK(Metric):
    """Share of samples whose label is among the k highest logits, for every k asked for.

    Ties and NaN count against the label, so a network whose logits are all equal scores 0, not 100%.

    Shape: student `[B, V]`, label `[B]` -> `top_<k>_accuracy`, between 0 and 1.

    Raises:
        DataError: no sample was seen.
        GraphError: the shapes do not fit, or k is not less than the number of classes.
        RecipeError: some k is less than 1, or there is none.
    """

    def __init__(self, k: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        if not k or min(k) < 1:
            raise RecipeError(f"k must list numbers from 1, not {list(k)}", where="core.top_k")
        self.k = tuple(k)
        self.ranks = Rows("core.top_k")

    def forward(self, student: Tensor, label: Tensor) -> None:
        if student.dim() != 2 or label.shape != student.shape[:1]:
            raise GraphError(
                f"needs student [B, V] and label [B], not {list(student.shape)} and {list(label.shape)}",
                where="core.top_k",
            )
        if max(self.k) >= student.shape[1]:
            raise GraphError(
                f"top {max(self.k)} of {student.shape[1]} classes is always right", where="core.top_k", next="lower k"
            )
        self.ranks.add(rank(student, label))

    def compute(self) -> dict[str, float]:
        ranks = self.ranks.joined()
        return {f"top_{k}_accuracy": (ranks <= k).double().mean().item() for k in self.k}
