"""DKD by the authors of mdistiller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from record import Checkout, case, normal

REPOSITORY = "megvii-research/mdistiller"
FUNCTION = "dkd_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("mdistiller/distillers/DKD.py", "dkd_loss", "_get_gt_mask", "_get_other_mask", "cat_mask")
    for seed, options in enumerate(
        ({"alpha": 1.0, "beta": 8.0, "temperature": 4.0}, {"alpha": 0.5, "beta": 0.0, "temperature": 1.0})
    ):
        inputs = {"student": normal(5, 6, seed=seed, scale=2), "teacher": normal(5, 6, seed=seed + 10, scale=3)}
        label = torch.tensor([0, 5, 2, 2, 3])
        yield case(
            lambda s, t, y, o=options: loss["dkd_loss"](s, t, y, o["alpha"], o["beta"], o["temperature"]),
            {**inputs, "label": label},
            **options,
        )
