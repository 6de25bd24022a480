"""Contrastive representation distillation with a bank of negatives."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive
from mmkd.library.losses.relation import flat, products

NO_GROUP = torch.iinfo(torch.int64).min


class ContrastiveRepresentation(Loss):
    """Tell a sample's own teacher embedding from those in a bank, and its student embedding likewise (CRD).

    For an anchor x, its partner y and the N bank entries b of the partner's network: `-log h(x, y) - sum_b log(1 -
    h(x, b))`, `h(x, b) = e / (e + N c)` with `e = exp(x b / T)`, summed over the student and the teacher as
    anchor (Tian et al., 2020). Embeddings are linear, of width `dim` and length one; both heads are trained and serve
    training only. As in the authors' code (RepDistiller, `crd/`) c is the mean of e, here over each sample's own row
    until the first `update()` fixes it at the mean of that batch; the paper's is one by the size of the dataset.

    The bank is a queue of the last `negatives` samples, so that no sample needs a number: `update()` puts the batch
    in, and random directions stand there before. Authors' code instead keeps one moving average for every
    sample of the dataset and takes partners from it too. With `group` (`batch.label`; any integer ids) entries of the
    sample's own group are no negatives, as in their experiments; they count neither in the sum nor in N.

    Shape: student, teacher `[B, ...]`, widths may differ, group `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the batches differ.
        RecipeError: the temperature is not greater than zero, or the loss is not set up.
    """

    bank: Tensor
    groups: Tensor
    cursor: Tensor
    log_normalizer: Tensor

    def __init__(
        self,
        dim: Annotated[int, Field(ge=1)] = 128,
        negatives: Annotated[int, Field(ge=1)] = 16384,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
    ) -> None:
        super().__init__()
        self.dim, self.negatives = dim, negatives
        self.temperature = positive("core.crd", "temperature", temperature)

    def setup(self, student: torch.Size, teacher: torch.Size, group: torch.Size | None = None) -> None:
        self.heads = nn.ModuleList(nn.Linear(shape[1:].numel(), self.dim) for shape in (student, teacher))
        self.register_buffer("bank", F.normalize(torch.randn(2, self.negatives, self.dim), dim=2))
        self.register_buffer("groups", torch.full((self.negatives,), NO_GROUP))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))
        self.register_buffer("log_normalizer", torch.full((2,), math.nan))

    def forward(self, student: Tensor, teacher: Tensor, group: Tensor | None = None) -> Tensor:
        losses = []
        for logits, fixed in zip(self._logits(student, teacher, group), self.log_normalizer, strict=True):
            count = (logits > -math.inf).sum(1, keepdim=True).to(logits.dtype)
            mean = logits.detach().logsumexp(1, keepdim=True) - count.log()
            odds = logits - torch.where(fixed.isnan(), mean, fixed) - (count - 1).clamp(min=1).log()
            losses.append(F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1))
        return losses[0] + losses[1]

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, group: Tensor | None = None) -> None:
        """Put the batch into the bank in the place of the oldest entries, and fix the normaliser by the first."""
        both = self._logits(student, teacher, group)
        means = torch.stack([x.logsumexp((0, 1)) - (x > -math.inf).sum().to(x.dtype).log() for x in both])
        self.log_normalizer.copy_(torch.where(self.log_normalizer.isnan(), means, self.log_normalizer))
        newest = min(len(student), self.negatives)
        places = (self.cursor + torch.arange(newest, device=self.bank.device)) % self.negatives
        self.bank[:, places] = torch.stack(self._embed(student, teacher))[:, -newest:]
        self.groups[places] = NO_GROUP if group is None else group[-newest:].long()
        self.cursor.add_(newest).remainder_(self.negatives)

    def _embed(self, student: Tensor, teacher: Tensor) -> list[Tensor]:
        if not hasattr(self, "heads"):
            raise RecipeError("the heads have no widths yet", where="core.crd", next="call setup(**shapes)")
        values = flat("core.crd", student, teacher)
        with torch.autocast(student.device.type, enabled=False):
            return [F.normalize(head(x), dim=1) for head, x in zip(self.heads, values, strict=True)]

    def _logits(self, student: Tensor, teacher: Tensor, group: Tensor | None) -> list[Tensor]:
        """Own partner first, then the bank, for the student and for the teacher as anchor. Shape: `[B, 1 + N]`."""
        s, t = self._embed(student, teacher)
        temperature = positive("core.crd", "temperature", self.temperature)
        partner = (s * t).sum(1, keepdim=True) / temperature
        negatives = [products(anchor, bank) / temperature for anchor, bank in ((s, self.bank[1]), (t, self.bank[0]))]
        if group is not None:
            negatives = [x.masked_fill(group[:, None] == self.groups, -math.inf) for x in negatives]
        return [torch.cat([partner, x], 1) for x in negatives]
