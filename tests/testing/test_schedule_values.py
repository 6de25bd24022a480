"""Broken schedules that read values, each caught by the probe that is about it; sound ones pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmkd
from mmkd.library.schedules.geometry import GeometrySchedule
from mmkd.testing import ConformanceError, check_schedule


class Confidence(mmkd.Schedule):
    """The teacher's largest probability."""

    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        return teacher.softmax(-1).amax(-1)


class Scalar(mmkd.Schedule):
    """One learned number for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.3))

    def forward(self, step: int, total: int) -> Tensor:
        return self.logit.sigmoid()


class Column(Confidence):
    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        return teacher.softmax(-1).amax(-1, keepdim=True)


class Ranked(Confidence):
    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        return teacher.softmax(-1).amax(-1).sort().values


class Overflowing(Confidence):
    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        return teacher.exp().amax(-1) / teacher.exp().sum(-1)


class Blind(Confidence):
    def forward(self, step: int, total: int, teacher: Tensor, student: Tensor) -> Tensor:  # type: ignore[override]
        return teacher.softmax(-1).amax(-1)


class Spare(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(2))


class Running(mmkd.Schedule):
    """Confidence over its running mean, kept where no checkpoint looks."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 1.0

    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        return teacher.softmax(-1).amax(-1) / self.mean

    def update(self, *, teacher: Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * teacher.softmax(-1).amax(-1).mean().item()


class Late(mmkd.Schedule):
    """A layer born at the first call."""

    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        if not hasattr(self, "layer"):
            self.layer = nn.Linear(teacher.shape[-1], 1)
        weight: Tensor = self.layer(teacher).squeeze(-1)
        return weight


@pytest.mark.parametrize(
    ("cls", "probe"),
    [
        (Column, "number_or_one_per_sample"),
        (Ranked, "sample_order"),
        (Overflowing, "large_values"),
        (Blind, "ports_matter"),
        (Spare, "parameters_learn"),
        (Running, "updates_are_saved"),
        (Late, "parameters_declared"),
    ],
)
def test_the_right_probe_catches_it(cls: Any, probe: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_schedule(cls)
    assert probe in [failure.probe for failure in caught.value.failures]


@pytest.mark.parametrize("cls", [Confidence, Scalar, GeometrySchedule])
def test_sound_ones_pass(cls: Any) -> None:
    assert "number_or_one_per_sample" in check_schedule(cls)
