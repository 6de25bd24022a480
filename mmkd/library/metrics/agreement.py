"""Fidelity: how far the student says what the teacher says."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import DataError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import same_shape
from mmkd.library.metrics.correlation import kendall, spearman
from mmkd.library.metrics.rank import rank

CORRELATIONS = {"spearman": spearman, "kendall": kendall}


class Agreement(Metric):
    """Share of samples where student and teacher put the same class first, and their mean divergence.

    The divergence is `KL(softmax(teacher) || softmax(student))` in nats, without temperature. Agreement and
    accuracy are different things: a student may be right where its teacher is wrong (Stanton et al., 2021). A
    student whose highest logit is tied agrees with nothing.

    `correlations` adds whether the two order all classes alike, as the mean over samples of Spearman's rho, the
    correlation of the ranks, or of Kendall's tau-b, the share of pairs of classes in the same order less those in
    the opposite one. Both are between -1 and 1; tau compares all pairs of classes and takes `V^2` steps a sample.

    Shape: student, teacher `[B, V]` or `[B, T, V]`, mask `[B]` or `[B, T]` (what to count) -> `agreement`, between
    0 and 1, `kl`, and `spearman` and `kendall` where asked for.

    Raises:
        DataError: no sample was seen, or logits are NaN.
        GraphError: the shapes differ.
    """

    def __init__(self, correlations: tuple[Literal["spearman", "kendall"], ...] = ()) -> None:
        super().__init__()
        self.agreed, self.divergences = Rows("core.agreement"), Rows("core.agreement")
        self.spearman, self.kendall = Rows("core.agreement"), Rows("core.agreement")
        self.correlations = tuple(correlations)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> None:
        student, teacher = same_shape("core.agreement", student, teacher)
        if mask is not None:
            student, teacher = student[mask.bool()], teacher[mask.bool()]
        student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
        self.agreed.add(rank(student, teacher.argmax(-1)) == 1)
        self.divergences.add(divergence(teacher, student))
        for name in self.correlations:
            getattr(self, name).add(CORRELATIONS[name](student, teacher))

    def compute(self) -> dict[str, float]:
        kl = self.divergences.joined()
        if bad := int(kl.isnan().sum()):
            raise DataError(f"the divergence of {bad} of {len(kl)} samples is NaN", where="core.agreement")
        scores = {"agreement": self.agreed.joined().double().mean().item(), "kl": kl.double().mean().item()}
        return scores | {name: getattr(self, name).joined().double().mean().item() for name in self.correlations}
