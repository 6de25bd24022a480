"""Length of a feature, and its direction to the mean of its class."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import class_labels, same_shape, widen


class NormDirection(Loss):
    """Push a feature along the teacher's class mean and to the teacher's length at least, ND (Wang et al., 2023).

    `1 - <s, c_y> / max(|s|, |t|)`, where `c_y` is the direction of the mean of the teacher's features over all samples
    of the label's class. Zero exactly where the student points there and is no shorter than the teacher's
    feature; a longer one is only turned.

    The authors compute the means over the training set beforehand. Here `update()` keeps a running mean of all
    teacher features seen so far, each counted once, which is theirs after a pass over the data without
    augmentation; a class that has not been seen yet costs nothing. `classes` bounds the labels.

    Shape: student, teacher `[B, D]`, label `[B]` -> `[B]`, from 0 to 2.

    Raises:
        GraphError: the shapes do not fit, or `setup()` was not called.
    """

    means: Tensor
    """Mean teacher feature of each class, `[classes, D]`."""
    counts: Tensor
    """Features in each mean, `[classes]`."""

    def __init__(self, classes: Annotated[int, Field(gt=0)] = 1000) -> None:
        super().__init__()
        self.classes = classes

    def setup(self, student: torch.Size, teacher: torch.Size, label: torch.Size) -> None:
        self.register_buffer("means", torch.zeros(self.classes, teacher[-1]))
        self.register_buffer("counts", torch.zeros(self.classes, dtype=torch.long))

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        student, teacher = same_shape("core.nd", student, teacher)
        label = class_labels("core.nd", student, label)
        if "means" not in self._buffers:
            raise GraphError(
                "has no class means",
                where="core.nd",
                next="call setup(student=shape, teacher=shape, label=shape) first",
            )
        centre = torch.nn.functional.normalize(self.means[label].to(student), dim=-1)
        s, t = (torch.linalg.vector_norm(x, dim=-1) for x in (student, teacher))
        loss = 1 - (student * centre).sum(-1) / torch.maximum(s, t).clamp(min=1e-12)
        return torch.where(self.counts[label] > 0, loss, 0 * loss)

    @torch.no_grad()
    def update(self, teacher: Tensor, label: Tensor) -> None:
        """Take the features into the means of their classes."""
        label = label.long()
        new = torch.zeros_like(self.counts).index_add_(0, label, torch.ones_like(label))
        total = torch.zeros_like(self.means).index_add_(0, label, widen(teacher).to(self.means.dtype))
        self.counts += new
        self.means += (total - new[:, None] * self.means) / self.counts.clamp(min=1)[:, None]
