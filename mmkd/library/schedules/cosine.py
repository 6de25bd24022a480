"""A number that moves along a half cosine."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from mmkd import Schedule
from mmkd.library.schedules.window import Window


class CosineSchedule(Schedule):
    """Half a cosine from one number to another (Loshchilov and Hutter, 2017).

    `start + (end - start) * (1 - cos(pi p)) / 2`, where `p` goes from 0 to 1 between the fractions `begin`
    and `until` of all steps. The number is `start` before and `end` after; equal fractions make a jump.

    Shape: step (applied updates, from 0), total (updates of the run) -> a number.

    Raises:
        RecipeError: not `0 <= begin <= until <= 1`.
    """

    def __init__(
        self,
        start: float,
        end: float,
        begin: Annotated[float, Field(ge=0, le=1)] = 0.0,
        until: Annotated[float, Field(ge=0, le=1)] = 1.0,
    ) -> None:
        super().__init__()
        self.start, self.end, self.window = start, end, Window("core.cosine", begin, until)

    def forward(self, step: int, total: int) -> float:
        p = (1 - math.cos(math.pi * self.window.progress(step, total))) / 2
        return self.start * (1 - p) + self.end * p
