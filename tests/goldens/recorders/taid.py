"""TAID by its authors: losses, shares of the teacher and momenta over some steps, on the CPU in float64."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from record import Checkout, case, normal
from torch import Tensor, nn

REPOSITORY = "SakanaAI/TAID"
FUNCTION = "TAID.forward"
TOTAL = 8


class Here:
    """torch, but for the device and the precision that their code asks for."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, value: Any, device: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor(value, dtype=dtype)

    def zeros(self, size: Any, device: str, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype)


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    here = Here()
    found = checkout.load("src/distil_losses/fkl.py", "forward_kl", torch=here)
    given = {**found, "torch": here, "DistilLoss": nn.Module, "LightningModule": object}
    found = checkout.load("src/distil_losses/taid.py", "TAID", **given)
    for seed, options in enumerate(({}, {"t_start": 0.2, "t_end": 0.9, "alpha": 0.3, "beta": 0.5})):

        def trace(student: Tensor, teacher: Tensor, mask: Tensor, options: dict[str, float] = options) -> Tensor:
            module, rows = found["TAID"](**options), []
            for step in range(len(student)):
                trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=TOTAL)
                module_of = SimpleNamespace(trainer=trainer)
                loss = module(module_of, student[step], teacher[step], mask[step])["distil_loss"]
                rows.append(torch.stack([loss, module.t.detach(), module.momentum.detach()]))
            return torch.stack(rows)

        shape = (6, 3, 5)
        inputs = {"student": normal(*shape, seed=seed, scale=2), "teacher": normal(*shape, seed=seed + 10, scale=2)}
        inputs["mask"] = (normal(6, 3, seed=seed + 20) > -0.5).long()
        yield case(trace, inputs, **options)
