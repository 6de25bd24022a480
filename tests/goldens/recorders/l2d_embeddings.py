"""Label-wise embedding distillation by the authors of L2D."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from record import Checkout, case, normal

REPOSITORY = "penghui-yang/L2D"
FUNCTION = "LED"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    folder = "criterion/distiller_zoo/le_based"
    huber = checkout.load(f"{folder}/huber_dist.py", "phi", "HuberDist")["HuberDist"]
    parts = {name: checkout.load(f"{folder}/{name.lower()}.py", name, HuberDist=huber)[name] for name in ("CD", "ID")}
    led = checkout.load(f"{folder}/led.py", "LED", **parts)["LED"]
    inputs = {
        "student": normal(6, 4, 3),
        "teacher": normal(6, 4, 3, seed=10),
        "label": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
    }
    for class_weight, instance_weight in ((1.0, 0.0), (0.0, 1.0), (100.0, 1000.0)):
        yield case(
            led(class_weight, instance_weight), inputs, class_weight=class_weight, instance_weight=instance_weight
        )
