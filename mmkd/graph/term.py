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
        arguments = self.binding.arguments(values, float32=True)
        if detached:
            arguments = {k: [t.detach() for t in v] if isinstance(v, list) else v.detach() for k, v in arguments.items()}
        tensors = [t for v in arguments.values() for t in (v if isinstance(v, list) else [v]) if t.dim()]
        size = len(tensors[0]) if tensors else 1
        if size == 0:
            return torch.stack([t.sum() * 0.0 for t in tensors if t.is_floating_point()]).sum()
        if size < self.loss.min_batch:
            raise GraphError(
                f"{type(self.loss).__name__} needs at least {self.loss.min_batch} samples, the batch has {size}",
                where=self.binding.where,
                next="raise data.batch_size",
            )
        return self._mean(self.loss(**arguments), values)

    def _mean(self, loss: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        if loss.dim() > 2:
            raise GraphError(f"a loss is [], [B] or [B, T], not {list(loss.shape)}", where=self.binding.where)
        if self.sample_weight is not None:
            weight = values[self.sample_weight.key]
            loss = loss * weight.reshape(weight.shape + (1,) * (loss.dim() - weight.dim()))
        if self.mask is None:
            return loss.mean() if loss.dim() else loss
        mask = values[self.mask.key].to(loss.dtype)
        if mask.dim() > loss.dim():
            raise GraphError(
                f"the mask is {list(mask.shape)}, the loss {list(loss.shape)}: it gives one number per sample",
                where=self.binding.where, next="mask samples, or use a loss that returns [B, T]",
            )  # fmt: skip
        mask = mask.reshape(mask.shape + (1,) * (loss.dim() - mask.dim())).expand_as(loss)
        return torch.where(mask > 0, loss * mask, 0.0).sum() / mask.sum().clamp(min=1e-12)
