"""Distances between label-wise embeddings: one vector per sample and class."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class LabelEmbeddingDistance(Loss):
    """Match distances between the embeddings of present labels, within classes and within samples (L2D, 2023).

    Class-aware: among the samples that carry class c, `1 / n_c * sum_j huber(d_ij, d'_ij)` for sample i, where `d`
    and `d'` are the student's and the teacher's distances, each divided by its mean over all such pairs.
    Instance-aware: the same among the classes that sample i carries. The loss of a sample is `class_weight` times
    the sum of the first over its classes plus `instance_weight` times the sum of the second over its classes.
    Distances are relative, so the widths may differ and scaling, rotating or moving an embedding changes nothing.
    A class that one sample carries, and a sample that carries one class, have no distance and cost nothing.

    The authors (Yang et al., 2023) add up over the batch; this is their loss divided by the batch size.

    Shape: student `[B, C, D]`, teacher `[B, C, E]`, label `[B, C]` of zeros and ones -> `[B]`.

    Raises:
        GraphError: the shapes do not fit.
    """

    coupled = True

    def __init__(
        self,
        class_weight: Annotated[float, Field(ge=0)] = 100.0,
        instance_weight: Annotated[float, Field(ge=0)] = 1000.0,
    ) -> None:
        super().__init__()
        self.class_weight, self.instance_weight = class_weight, instance_weight

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        if student.dim() != 3 or student.shape[:2] != teacher.shape[:2] or label.shape != student.shape[:2]:
            raise GraphError(
                "needs embeddings [B, C, D] and [B, C, E] and labels [B, C], not "
                f"{list(student.shape)}, {list(teacher.shape)} and {list(label.shape)}",
                where="core.label_embedding",
            )
        s, t, present = widen(student), widen(teacher), label > 0
        within_classes = structure(s.transpose(0, 1), t.transpose(0, 1), present.T).sum(0)
        within_samples = structure(s, t, present).sum(1)
        return self.class_weight * within_classes + self.instance_weight * within_samples

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {
            "student": torch.randn(4, 5, 8, generator=generator),
            "teacher": torch.randn(4, 5, 6, generator=generator),
            "label": torch.randint(0, 2, (4, 5), generator=generator),
        }


def structure(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """Each member's share in the difference of relative distances within its set, over those that are present.

    Shape: student `[N, M, D]`, teacher `[N, M, E]`, present `[N, M]` -> `[N, M]`.
    """
    size = present.shape[1]
    pairs = present[:, :, None] & present[:, None, :] & ~torch.eye(size, dtype=torch.bool, device=present.device)
    difference = F.smooth_l1_loss(distances(student, pairs), distances(teacher, pairs), reduction="none")
    return (pairs * difference).sum(2) / present.sum(1, keepdim=True).clamp(min=1)


def distances(members: Tensor, pairs: Tensor) -> Tensor:
    """Euclidean distances divided by their mean over the pairs; zero where all coincide."""
    distance = torch.cdist(members, members, compute_mode="donot_use_mm_for_euclid_dist")
    mean = (pairs * distance).sum((1, 2), keepdim=True) / pairs.sum((1, 2), keepdim=True).clamp(min=1)
    return distance / mean.clamp(min=1e-12)
