"""A term of the objective: one loss, bound, reduced and weighted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd.components import Loss, Schedule
from mmkd.errors import GraphError
from mmkd.graph.binding import Binding
from mmkd.graph.value import Address


@dataclass
class Term:
    """`weight * mean(loss)`, the mean taken over valid samples (or tokens)."""

    binding: Binding
    weight: float | Schedule = 1.0
    mask: Address | None = None
    sample_weight: Address | None = None

    @property
    def name(self) -> str:
        return self.binding.name

    @property
    def loss(self) -> Loss:
        assert isinstance(self.binding.module, Loss)
        return self.binding.module

    def weight_at(self, step: int, total: int) -> float:
        return self.weight(step, total) if isinstance(self.weight, Schedule) else self.weight

    def __call__(self, values: Mapping[str, Tensor], *, detached: bool = False) -> Tensor:
        """The reduced loss, in float32.

        Raises:
            GraphError: the batch is smaller than the loss needs, or its shape is not `[]`, `[B]` or `[B, T]`.
        """
        arguments = self.binding.arguments(values, float32=True, detached=detached)
        tensors = [t for v in arguments.values() for t in (v if isinstance(v, list) else [v]) if t.dim()]
        sizes = [len(t) for t in tensors]
        if 0 in sizes:
            return torch.stack([t.sum() * 0.0 for t in tensors if t.is_floating_point()]).sum()
        if sizes and sizes[0] < self.loss.min_batch:
            raise GraphError(
                f"{type(self.loss).__name__} needs at least {self.loss.min_batch} samples, the batch has {sizes[0]}",
                where=self.binding.where,
                next="raise data.batch_size",
            )
        return self._mean(self.loss(**arguments), values)

    def _mean(self, loss: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        if loss.dim() > 2:
            raise GraphError(f"a loss is [], [B] or [B, T], not {list(loss.shape)}", where=self.binding.where)
        if self.sample_weight is not None:
            loss = loss * self._factor(self.sample_weight, loss, values)
        if self.mask is None:
            return loss.mean() if loss.dim() else loss
        mask = self._factor(self.mask, loss, values)
        return torch.where(mask > 0, loss * mask, 0.0).sum() / mask.sum().clamp(min=1e-12)

    def _factor(self, address: Address, loss: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """One factor for every element of the loss: `[B]` or `[B, T]`."""
        factor = values[address.key].to(loss.dtype)
        if address.detached:
            factor = factor.detach()
        if not factor.dim() or factor.shape != loss.shape[: factor.dim()]:
            raise GraphError(
                f"'{address}' is {list(factor.shape)}, the loss {list(loss.shape)}: not one factor per sample or token",
                where=self.binding.where,
                next="write a value [B], or use a loss that returns [B, T] for a value [B, T]",
            )
        return factor.reshape(factor.shape + (1,) * (loss.dim() - factor.dim())).expand_as(loss)
