"""DOT by its authors: where their optimiser leads on given gradients, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import torch
from record import Checkout, normal
from torch import Tensor
from torch.optim import Optimizer

REPOSITORY = "megvii-research/mdistiller"
FUNCTION = "DistillationOrientedTrainer"
STEPS = 4


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    """Three parameters: both losses reach the first, the task alone the second, distillation alone the third."""
    given = {"Tensor": Tensor, "Optimizer": Optimizer, "required": object(), "List": list, "Optional": Optional}
    names = ("check_in", "dot", FUNCTION)
    found = checkout.load("mdistiller/engine/dot.py", *names, **given)
    for seed, decay in enumerate((0.0, 0.05)):
        reached = {"task": [True, True, False], "distill": [True, False, decay == 0.0]}
        start = normal(3, 2, seed=seed)
        gradients = {name: normal(STEPS, 3, 2, seed=10 * seed + i) for i, name in enumerate(reached, 1)}
        parameters = [torch.nn.Parameter(row.clone()) for row in start]
        options = {"lr": 0.1, "momentum": 0.9 - 0.075, "momentum_kd": 0.9 + 0.075, "weight_decay": decay}
        optimizer = found[FUNCTION](parameters, **options)
        trace = []
        for step in range(STEPS):
            for group, move in (("distill", optimizer.step_kd), ("task", optimizer.step)):
                for parameter, gradient, own in zip(parameters, gradients[group][step], reached[group], strict=True):
                    parameter.grad = gradient.clone() if own else None
                move()
            trace.append(torch.stack([parameter.detach().clone() for parameter in parameters]))
        yield {
            "options": {"lr": 0.1, "momentum": 0.9, "delta": 0.075, "weight_decay": decay, "reached": reached},
            "inputs": {"start": start.tolist(), **{name: value.tolist() for name, value in gradients.items()}},
            "output": torch.stack(trace).tolist(),
            "gradients": {},
        }

