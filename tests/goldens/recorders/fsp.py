"""FSP in RepDistiller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from record import Checkout, case, normal
from torch import Tensor

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.FSP.FSP"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("distiller_zoo/FSP.py", "FSP", np=np)["FSP"]

    def function(*maps: Tensor) -> Tensor:
        student, teacher = maps[:3], maps[3:]
        total: Tensor = sum(cls([x.shape for x in student], [x.shape for x in teacher])(student, teacher))
        return total

    student, teacher = ((2, 3, 4, 4), (2, 4, 2, 2), (2, 2, 2, 2)), ((2, 3, 6, 6), (2, 4, 3, 3), (2, 2, 3, 3))
    inputs = {f"s{i}": normal(*shape, seed=i) for i, shape in enumerate(student)}
    inputs |= {f"t{i}": normal(*shape, seed=10 + i) for i, shape in enumerate(teacher)}
    yield case(function, inputs)
