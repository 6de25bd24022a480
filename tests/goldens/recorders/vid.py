"""VID in RepDistiller, without its regressor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from record import Checkout, case, normal
from torch import Tensor, nn

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.VID.VIDLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("distiller_zoo/VID.py", "VIDLoss", np=np)["VIDLoss"]
    first = cls(3, 3, 3, init_pred_var=2.0).log_scale.detach().double()

    def function(student: Tensor, teacher: Tensor, raw: Tensor) -> Tensor:
        loss = cls(3, 3, 3)
        loss.regressor = nn.Identity()
        del loss.log_scale
        loss.log_scale = raw
        value: Tensor = loss(student, teacher)
        return value

    for raw, options in ((first, {"variance": 2.0}), (normal(3, seed=2), {})):
        inputs = {"student": normal(3, 3, 2, 2), "teacher": normal(3, 3, 4, 4, seed=1), "raw": raw}
        yield case(function, inputs, **options)
