"""How much a teacher is worth on a sample, learned from where predictions and label lie to one another."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd import Schedule
from mmkd.errors import GraphError


class GeometrySchedule(Schedule):
    """Weight per sample, learned from the geometry of student, teacher and label (TGeo-KD: Hu et al., 2024).

    `alpha = sigmoid(net(x))`, a network of one hidden layer over four corners and the sides between them:
    the student's prediction `S`, the teacher's `T`, the label `G` (one-hot), which make the relations within a sample,
    and `M`, the mean of the teacher's predictions over all samples of this label that training has seen, which makes
    those between samples and holds outliers off. A side is the vector of squared differences of its ends:
    `x = [S, T, G, M, (S-T)^2, (S-G)^2, (T-G)^2, (S-M)^2, (M-G)^2]`, `[9 C]` numbers.

    The paper trains the network on a validation set, such that the student is better after its next step: name the
    loss on a stream of its own by `phase`. `weight: alpha` on the teacher's loss and `weight: 1 - alpha` on the label's
    make its convex combination. Written from accounts of the paper, whose code was not at hand: that sides are squares
    class by class, that the mean runs with training, and the single hidden layer are ours.

    Shape: student, teacher: logits `[B, C]`; label: `[B]` class indices -> weights `[B]`, in 0..1.

    Args:
        start: weight of every sample before anything is learned.
        width: units of the hidden layer.
        lr: learning rate (Adam) of the network; 0 keeps `start` for ever.
        interval: steps from one update of the network to the next.

    Raises:
        GraphError: teacher and student differ in their classes, or the layers were not set up.
    """

    means: Tensor
    """`M`: mean teacher prediction by label."""
    counts: Tensor
    """Samples behind each mean."""

    def __init__(
        self,
        start: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        width: Annotated[int, Field(ge=1)] = 32,
        lr: Annotated[float, Field(ge=0)] = 1e-3,
        interval: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__()
        self.start, self.width, self.lr, self.interval = start, width, lr, interval
        self.network: nn.Sequential | None = None

    def setup(self, *, student: torch.Size, teacher: torch.Size, label: torch.Size) -> None:
        if student != teacher or len(student) != 2:
            raise GraphError(f"needs logits [B, C] of the same classes, not {list(student)} and {list(teacher)}")
        classes = student[-1]
        last = nn.Linear(self.width, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, torch.logit(torch.tensor(self.start, dtype=torch.float64)).item())
        self.network = nn.Sequential(nn.Linear(9 * classes, self.width), nn.ReLU(), last)
        self.register_buffer("means", torch.full((classes, classes), 1.0 / classes))
        self.register_buffer("counts", torch.zeros(classes))

    def forward(self, step: int, total: int, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        if self.network is None:
            raise GraphError(f"{type(self).__name__} was not set up", next="call setup(student=, teacher=, label=)")
        s, t = student.softmax(-1), teacher.softmax(-1)
        g, m = F.one_hot(label, s.shape[-1]).to(s.dtype), self.means[label]
        sides = [(a - b).square() for a, b in ((s, t), (s, g), (t, g), (s, m), (m, g))]
        weight: Tensor = self.network(torch.cat([s, t, g, m, *sides], -1)).squeeze(-1).sigmoid()
        return weight

    def update(self, *, teacher: Tensor, label: Tensor) -> None:
        """Take the batch into the means."""
        of_label = F.one_hot(label, len(self.counts)).to(self.means.dtype)
        seen = of_label.sum(0)
        sums = self.means * self.counts[:, None] + of_label.T @ teacher.to(self.means.dtype).softmax(-1)
        self.counts += seen
        known = self.counts > 0
        self.means[known] = sums[known] / self.counts[known, None]
