"""e2KD with GradCAM by its authors, on networks that are a mean and a linear map."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from record import Checkout, case, normal
from torch import Tensor

REPOSITORY = "m-parchami/GoodTeachersExplain"
FUNCTION = "TeachersExplain.explanation_aware_forward, TeachersExplainCriterion._explanation_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    kinds = SimpleNamespace(BCOS_WEIGHT="bcos", GRAD_CAM_POS="gradcam")
    given = {"ExpMethod": kinds, "relu": torch.relu, "resize": lambda maps, size: maps}
    names = ("TeachersExplainCriterion", "explanation_aware_forward", "select_classes_and_teachers")
    found = checkout.load("bcos/distillation_methods/TeachersExplain.py", *names, **given)

    def function(features: Tensor, weight: Tensor, teacher_features: Tensor, head: Tensor) -> Tensor:
        maps = [features * 1, teacher_features * 1]
        logits = [maps[0].square().mean((2, 3)) @ weight.T, maps[1].mean((2, 3)) @ head.T]
        for each in maps:
            each.retain_grad()
        outputs = [{"features": m, "output": y} for m, y in zip(maps, logits, strict=True)]

        class Trainer(SimpleNamespace):
            def __call__(self, _: Tensor) -> Any:
                return outputs

        criterion = SimpleNamespace(explanation_method=kinds.GRAD_CAM_POS, exp_of="top1")
        trainer = Trainer(
            exp_distill=True, livekd_training=True, criterion=criterion, sync_ctx=contextlib.nullcontext,
            model=SimpleNamespace(), teacher_model=SimpleNamespace(),
        )  # fmt: skip
        images = torch.zeros(len(features), 3, *features.shape[2:])
        student, teacher = found["explanation_aware_forward"](trainer, images, None)
        loss = found["TeachersExplainCriterion"]._explanation_loss
        value: Tensor = loss(None, student["grad_cam"], teacher["grad_cam"][:, 0])
        return value.mean()

    inputs = {
        "features": normal(4, 5, 3, 3),
        "weight": normal(6, 5, seed=1),
        "teacher_features": normal(4, 7, 3, 3, seed=2),
        "head": normal(6, 7, seed=3),
    }
    yield case(function, inputs)
