"""The average of WAKD by its authors: a copy of the network at some step, then the mean with every later one."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from record import Checkout, normal
from torch import nn

REPOSITORY = "vorobeevich/distillation-in-dg"
FUNCTION = "src.swad.swa_utils.AveragedModel"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("src/swad/swa_utils.py", "AveragedModel", deepcopy=deepcopy)["AveragedModel"]
    for begin in (1, 3):
        weights = normal(7, 2, 3, seed=begin)
        network = nn.Linear(3, 2, bias=False).double()
        for step, now in enumerate(weights, 1):
            network.weight.data = now.clone()
            if step == begin:
                average = cls(network)
            elif step > begin:
                average.update_parameters(network)
        yield {
            "options": {"begin": begin},
            "inputs": {"weights": weights.tolist()},
            "output": average.model.weight.tolist(),
            "gradients": {},
        }
