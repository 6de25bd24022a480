"""Explanations of a decision: which places of the image it rests on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class ExplanationMatch(Loss):
    """Make the student decide for the teacher's reasons, e2KD with GradCAM (Parchami-Araghi et al., 2024).

    `1 - cos(E_s, E_t)`, E being the explanation of the class that the teacher finds likeliest, over positions. The
    student's is `relu(sum_c g_c F_c)` with F its feature map and `g_c` the mean over positions of the derivative of
    the class's logit in `F_c`: the loss differentiates through a derivative. The teacher's is one of

    - `explanation`, a map per sample: a field of the dataset, computed beforehand by any method;
    - `teacher_features` and `head`, its last map and the weight of its linear classifier
      (`teacher/layer4`, `teacher/fc.weight`): `relu(sum_c head_yc F_c)`. Where only a mean over positions stands
      between the two, that is GradCAM but for a factor, and needs no derivative through the teacher.

    The student's feature map must be the one that its logits come from: neither altered in place nor converted, so
    `train.precision` must be fp32. Maps of different size are averaged down to the smaller (the authors enlarge both
    to the image). An explanation of zero everywhere is at distance one. Samples must not see each other in the student
    after its feature map (BatchNorm in training mode). Where no derivative can be taken, under `no_grad`, the loss is
    not a number.

    Shape: student `[B, C]` (logits), features `[B, D, H, W]`, teacher `[B, C]` (logits), explanation `[B, G, V]` or
    `[B, 1, G, V]`, teacher_features `[B, E, G, V]`, head `[C, E]` -> `[B]`.

    Raises:
        GraphError: the shapes do not fit, the teacher's explanation is given twice or not at all, or the student's
            logits do not come from its features.
    """

    def forward(
        self,
        student: Tensor,
        features: Tensor,
        teacher: Tensor,
        explanation: Tensor | None = None,
        teacher_features: Tensor | None = None,
        head: Tensor | None = None,
    ) -> Tensor:
        if student.shape != teacher.shape or student.dim() != 2 or features.dim() != 4:
            raise GraphError(
                f"needs logits [B, C] twice and a feature map [B, D, H, W], not {list(student.shape)}, "
                f"{list(teacher.shape)} and {list(features.shape)}",
                where="core.e2kd",
            )
        label = teacher.argmax(1)
        target = _given(label, explanation, teacher_features, head)
        if not torch.is_grad_enabled():
            return widen(features).flatten(1).mean(1) * torch.nan
        own = gradcam(student, features, label)
        size = min(own.shape[1], target.shape[1]), min(own.shape[2], target.shape[2])
        e_s, e_t = (F.adaptive_avg_pool2d(x, size).flatten(1) for x in (own, target.to(own.dtype)))
        return 1 - F.cosine_similarity(e_s, e_t, dim=1)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(4, 6, 5, 5, generator=generator, requires_grad=True)
        weight = torch.randn(3, 6, generator=generator)
        return {
            "student": features.relu().mean((2, 3)) @ weight.T,
            "features": features,
            "teacher": torch.randn(4, 3, generator=generator),
            "explanation": torch.rand(4, 5, 5, generator=generator),
        }


def gradcam(logits: Tensor, features: Tensor, label: Tensor) -> Tensor:
    """`relu(sum_c g_c F_c)`, differentiable. Shape: `[B, C]`, `[B, D, H, W]`, `[B]` -> `[B, H, W]`.

    Raises:
        GraphError: the logits do not come from these features.
    """
    chosen = logits.gather(1, label[:, None]).sum()
    gradient = None
    if features.requires_grad and logits.requires_grad:
        (gradient,) = torch.autograd.grad(chosen, features, create_graph=True, allow_unused=True)
    if gradient is None:
        raise GraphError(
            "the student's logits do not come from its features",
            where="core.e2kd.features",
            next="tap a student/<block> that nothing overwrites in place, without detach(...), at train.precision=fp32",
        )
    importance = widen(gradient).mean((2, 3), keepdim=True)
    return (importance * widen(features)).sum(1).relu()


def _given(label: Tensor, explanation: Tensor | None, features: Tensor | None, head: Tensor | None) -> Tensor:
    """The teacher's explanation, without gradient. Shape: `[B, G, V]`."""
    if explanation is not None and features is None and head is None:
        made = explanation.squeeze(1) if explanation.dim() == 4 else explanation
    elif explanation is None and features is not None and head is not None:
        if features.dim() != 4 or head.dim() != 2 or features.shape[1] != head.shape[1]:
            raise GraphError(
                f"teacher_features [B, E, G, V] and head [C, E] do not fit: {list(features.shape)}, {list(head.shape)}",
                where="core.e2kd",
            )
        made = torch.einsum("bd,bdhw->bhw", widen(head)[label], widen(features)).relu()
    else:
        raise GraphError(
            "bind either explanation, or teacher_features and head",
            where="core.e2kd",
            next="teacher_features: teacher/<last block>, head: teacher/<classifier>.weight",
        )
    if made.dim() != 3 or len(made) != len(label):
        raise GraphError(f"an explanation is [B, H, W], not {list(made.shape)}", where="core.e2kd")
    return made.detach()
