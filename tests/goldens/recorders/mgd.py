"""MGD by its authors, with a mask that is handed in."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from record import Checkout, case, normal
from torch import Tensor, nn
from torch.func import functional_call

REPOSITORY = "yzd-v/MGD"
FUNCTION = "FeatureLoss (seg), MGDLoss (cls)"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    for blank, path, name, ratio in (
        ("position", "seg/mmseg/distillation/losses/mgd.py", "FeatureLoss", 0.75),
        ("channel", "cls/mmcls/distillation/losses/mgd.py", "MGDLoss", 0.15),
    ):
        draws: list[Tensor] = []
        kept = (0.0, 1.0) if blank == "position" else (1.0, 0.0)  # the two files compare the other way round
        given = SimpleNamespace(rand=lambda _, d=draws: d[0], where=torch.where, mul=torch.mul)
        cls = checkout.load(path, name, DISTILL_LOSSES=registry, torch=given, Tensor=Tensor)[name]
        loss = cls(4, 4, "mgd", alpha_mgd=1.0, lambda_mgd=ratio).double()
        loss.generation[1] = nn.ReLU()
        weights = [name for name, _ in loss.named_parameters()]

        def function(
            student: Tensor,
            teacher: Tensor,
            keep: Tensor,
            *values: Tensor,
            loss=loss,
            weights=weights,
            draws=draws,
            kept=kept,
        ) -> Tensor:
            draws[:] = [torch.where(keep > 0, *kept)]
            made: Tensor = functional_call(loss, dict(zip(weights, values, strict=True)), (student, teacher))
            return made

        inputs = {"student": normal(2, 4, 3, 3), "teacher": normal(2, 4, 3, 3, seed=1)}
        shape = (2, 1, 3, 3) if blank == "position" else (2, 4, 1, 1)
        inputs["keep"] = (normal(*shape, seed=2) > 0).long()
        for i, weight in enumerate(weights):
            inputs[weight.removeprefix("generation.")] = normal(
                *loss.get_parameter(weight).shape, seed=3 + i, scale=0.2
            )
        yield case(function, inputs, blank=blank)
