"""Feature maps of two networks brought to one layout and size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


def feature_maps(component: str, student: Tensor, teacher: Tensor, *, channels: bool = True) -> tuple[Tensor, Tensor]:
    """Both maps, widened, the larger averaged down to the size of the smaller.

    Args:
        channels: whether they must have the same number of channels.

    Shape: student `[B, C, H, W]`, teacher `[B, E, G, V]` -> `[B, C, h, w]`, `[B, E, h, w]`, with h the smaller of H
    and G, w that of W and V.

    Raises:
        GraphError: they are not maps of the same samples, or of the same channels.
    """
    alike = student.dim() == teacher.dim() == 4 and len(student) == len(teacher)
    if not alike or (channels and student.shape[1] != teacher.shape[1]):
        raise GraphError(
            f"needs feature maps [B, C, H, W] of the same samples{' and channels' * channels}, not "
            f"{list(student.shape)} and {list(teacher.shape)}",
            where=component,
            next="put a projector between them: {use: core.linear, input: <student value>, like: <teacher value>}"
            if alike
            else "tap a convolution or a stage: student/layer3",
        )
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    s, t = (x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (widen(student), widen(teacher)))
    return s, t


def pairs(component: str, student: list[Tensor], teacher: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The values of two lists, one to one.

    Raises:
        GraphError: the lists are empty or of different lengths.
    """
    if len(student) != len(teacher) or not student:
        raise GraphError(f"{len(student)} values of the student, {len(teacher)} of the teacher", where=component)
    return list(zip(student, teacher, strict=True))


def example_maps(student: int, teacher: int) -> dict[str, Tensor]:
    """Inputs for the conformance kit: a student's and a teacher's map with these numbers of channels."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(4, channels, 6, 6, generator=generator)
        for name, channels in (("student", student), ("teacher", teacher))
    }
