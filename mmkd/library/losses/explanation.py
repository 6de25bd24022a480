"""Explanations of a decision: which places of the image it rests on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class ExplanationMatch(Loss):
    """Make the student decide for the teacher's reasons, e2KD with GradCAM (Parchami-Araghi et al., 2024).

    `1 - cos(E_s, E_t)`, `E = relu(sum_c g_c F_c)` being the explanation of the class that the teacher finds likeliest,
    over positions: `F` is a feature map and `g_c` the mean over positions of the derivative of the class's logit in
    `F_c`. The student's is differentiated once more, through the derivative; the teacher's is a constant.

    Each feature map must be one that the logits come from (`teacher/layer4`, `teacher.logits`). Maps of different size
    are averaged down to the smaller (the authors enlarge both to the image). An explanation of zero everywhere is at
    distance one. Samples must not see each other in the student after its feature map (BatchNorm in training mode).

    Shape: student `[B, C]` (logits), features `[B, D, H, W]`, teacher `[B, C]` (logits), teacher_features
    `[B, E, G, V]` -> `[B]`.

    Raises:
        GraphError: the shapes do not fit, or logits do not come from the features.
    """

    needs_graph: ClassVar[frozenset[str]] = frozenset({"student", "features", "teacher", "teacher_features"})

    def forward(self, student: Tensor, features: Tensor, teacher: Tensor, teacher_features: Tensor) -> Tensor:
        label = _label(student, features, teacher)
        if teacher_features.dim() != 4:
            raise GraphError(f"needs a feature map [B, E, G, V], not {list(teacher_features.shape)}", where="core.e2kd")
        own = gradcam(student, features, label, "features")
        return distance(own, gradcam(teacher, teacher_features, label, "teacher_features", twice=False))

    def example(self) -> dict[str, Any]:
        student, features = _network(6, seed=0)
        teacher, teacher_features = _network(7, seed=1)
        return {"student": student, "features": features, "teacher": teacher, "teacher_features": teacher_features}


class GivenExplanation(Loss):
    """Make the student decide for reasons given beforehand, e2KD with frozen maps (Parchami-Araghi et al., 2024).

    As `core.e2kd`, with the teacher's explanation a field of the dataset, made by whatever method once and for all; the
    teacher's pass needs no graph and may be remembered.

    Shape: student `[B, C]` (logits), features `[B, D, H, W]`, teacher `[B, C]` (logits, of the class that is
    explained), explanation `[B, G, V]` or `[B, 1, G, V]` -> `[B]`.

    Raises:
        GraphError: the shapes do not fit, or the student's logits do not come from its features.
    """

    needs_graph: ClassVar[frozenset[str]] = frozenset({"student", "features"})

    def forward(self, student: Tensor, features: Tensor, teacher: Tensor, explanation: Tensor) -> Tensor:
        label = _label(student, features, teacher)
        given = explanation.squeeze(1) if explanation.dim() == 4 else explanation
        if given.dim() != 3 or len(given) != len(label):
            raise GraphError(f"an explanation is [B, H, W], not {list(given.shape)}", where="core.e2kd_given")
        return distance(gradcam(student, features, label, "features"), given.detach())

    def example(self) -> dict[str, Any]:
        student, features = _network(6, seed=0)
        generator = torch.Generator().manual_seed(1)
        teacher, explanation = torch.randn(4, 3, generator=generator), torch.rand(4, 5, 5, generator=generator)
        return {"student": student, "features": features, "teacher": teacher, "explanation": explanation}


def gradcam(logits: Tensor, features: Tensor, label: Tensor, port: str, *, twice: bool = True) -> Tensor:
    """`relu(sum_c g_c F_c)`, differentiable where `twice`. Shape: `[B, C]`, `[B, D, H, W]`, `[B]` -> `[B, H, W]`.

    Raises:
        GraphError: the logits do not come from these features.
    """
    chosen = logits.gather(1, label[:, None]).sum()
    gradient = None
    if features.requires_grad and logits.requires_grad:
        (gradient,) = torch.autograd.grad(chosen, features, create_graph=twice, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise GraphError(
            "the logits do not come from these features",
            where=port,
            next="tap a block of the network whose logits are bound: teacher/layer4",
        )
    importance = widen(gradient).mean((2, 3), keepdim=True)
    explained = (importance * widen(features)).sum(1).relu()
    return explained if twice else explained.detach()


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 - cos` over positions, after averaging down to the smaller map. Shape: `[B, H, W]`, `[B, G, V]` -> `[B]`."""
    size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    e_s, e_t = (F.adaptive_avg_pool2d(x, size).flatten(1) for x in (student, teacher.to(student.dtype)))
    return 1 - F.cosine_similarity(e_s, e_t, dim=1)


def _label(student: Tensor, features: Tensor, teacher: Tensor) -> Tensor:
    """The class that the teacher finds likeliest."""
    if student.shape != teacher.shape or student.dim() != 2 or features.dim() != 4:
        raise GraphError(
            f"needs logits [B, C] twice and a feature map [B, D, H, W], not {list(student.shape)}, "
            f"{list(teacher.shape)} and {list(features.shape)}",
            where="core.e2kd",
        )
    return teacher.argmax(1)


def _network(width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits of 4 samples and the features that they come from."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, width, 5, 5, generator=generator, requires_grad=True)
    weight = torch.randn(3, width, generator=generator)
    return features.relu().mean((2, 3)) @ weight.T, features
