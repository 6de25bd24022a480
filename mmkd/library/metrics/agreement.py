"""Fidelity: how far the student says what the teacher says."""

from __future__ import annotations

from torch import Tensor

from mmkd import Metric
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import same_shape
from mmkd.library.metrics.rank import rank
from mmkd.library.metrics.rows import Rows


class Agreement(Metric):
    """Share of samples where student and teacher put the same class first, and their mean divergence.

    The divergence is `KL(softmax(teacher) || softmax(student))` in nats, without temperature. Agreement and
    accuracy are different things: a student may be right where its teacher is wrong (Stanton et al., 2021). A
    student whose highest logit is tied agrees with nothing.

    Shape: student, teacher `[B, V]` or `[B, T, V]`, mask `[B]` or `[B, T]` (what to count) -> `agreement`, between
    0 and 1, and `kl`.

    Raises:
        DataError: no sample was seen.
        GraphError: the shapes differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self.agreed, self.divergences = Rows("core.agreement"), Rows("core.agreement")

    def reset(self) -> None:
        self.agreed.clear()
        self.divergences.clear()

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> None:
        student, teacher = same_shape("core.agreement", student, teacher)
        agreed, divergences = rank(student, teacher.argmax(-1)) == 1, divergence(teacher, student)
        keep = slice(None) if mask is None else mask.bool()
        self.agreed.add(agreed[keep].flatten())
        self.divergences.add(divergences[keep].flatten())

    def compute(self) -> dict[str, float]:
        return {
            "agreement": self.agreed.joined().double().mean().item(),
            "kl": self.divergences.joined().double().mean().item(),
        }
