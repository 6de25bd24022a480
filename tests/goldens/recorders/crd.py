"""CRD by its first author, at its first step: the normaliser is set and the bank holds the batch's own embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from record import Checkout, case, normal
from torch import Tensor

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "crd.criterion.CRDLoss, crd.memory.ContrastMemory"

BATCH, NEGATIVES, DIM = 4, 7, 3


class Unused:
    """In place of the sampler of negatives, which insists on a GPU; they are given by number instead."""

    def __init__(self, _: Tensor) -> None: ...

    def cuda(self) -> None: ...


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    given = checkout.load("crd/memory.py", "ContrastMemory", AliasMethod=Unused, math=math)
    names = ("CRDLoss", "ContrastLoss", "Embed", "Normalize")
    cls = checkout.load("crd/criterion.py", *names, eps=1e-7, **given)["CRDLoss"]
    sizes = {"s_dim": 6, "t_dim": 5, "feat_dim": DIM, "nce_k": NEGATIVES, "nce_t": 0.2, "nce_m": 0.5}
    loss = cls(SimpleNamespace(n_data=BATCH + NEGATIVES, **sizes)).double()

    def function(student: Tensor, teacher: Tensor, weights_s: Tensor, weights_t: Tensor, bank: Tensor) -> Tensor:
        anchors = []
        for embed, value, weights in ((loss.embed_s, student, weights_s), (loss.embed_t, teacher, weights_t)):
            del embed.linear._parameters["weight"]
            embed.linear.weight = weights
            embed.linear.bias.data.zero_()
            anchors.append(embed(value).detach())
        loss.contrast.memory_v1.copy_(torch.cat([anchors[0], F.normalize(bank[0].detach(), dim=1)]))
        loss.contrast.memory_v2.copy_(torch.cat([anchors[1], F.normalize(bank[1].detach(), dim=1)]))
        own = torch.arange(BATCH)
        others = torch.arange(BATCH, BATCH + NEGATIVES).expand(BATCH, -1)
        return loss(student, teacher, own, torch.cat([own[:, None], others], 1))

    inputs = {
        "student": normal(BATCH, 6),
        "teacher": normal(BATCH, 5, seed=1),
        "weights_s": normal(DIM, 6, seed=2),
        "weights_t": normal(DIM, 5, seed=3),
        "bank": normal(2, NEGATIVES, DIM, seed=4),
    }
    yield case(function, inputs, temperature=0.2)
