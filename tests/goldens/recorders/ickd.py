"""ICKD-C by its authors, without their 1x1 convolution before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal
from torch import nn

REPOSITORY = "ADLab-AutoDrive/ICKD"
FUNCTION = "Cifar100.distiller_zoo.ICKD.ICKDLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("Cifar100/distiller_zoo/ICKD.py", "ICKDLoss")["ICKDLoss"]
    loss = cls.__new__(cls)
    nn.Module.__init__(loss)
    loss.embed_s = nn.Identity()
    yield case(loss.batch_loss, {"student": normal(3, 4, 2, 2), "teacher": normal(3, 4, 3, 3, seed=1)})
    yield case(loss.batch_loss, {"student": normal(2, 3, 1, 2), "teacher": normal(2, 3, 1, 2, seed=1)})
