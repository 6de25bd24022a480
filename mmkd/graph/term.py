"""A term of the objective: one loss, bound, reduced and weighted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd.components import Loss, Schedule
from mmkd.errors import GraphError
from mmkd.graph.binding import Binding
from mmkd.graph.value import Address
from mmkd.graph.weighting import Share


@dataclass
class Term:
    """`weight * mean(loss)`, the mean taken over valid samples (or tokens); a weight per sample stands inside of it."""

    binding: Binding
    weight: float | Schedule | Share = 1.0
    mask: Address | None = None
    sample_weight: Address | None = None
    phase: str = ""
    """The schedule that this loss teaches; empty where it counts in the objective."""
    scalar: bool = False
    """Whether the loss has been found to be a number, not one per sample or token."""

    @property
    def name(self) -> str:
        return self.binding.name

    @property
    def loss(self) -> Loss:
        assert isinstance(self.binding.module, Loss)
        return self.binding.module

    def readers(self) -> Iterator[tuple[Address, str]]:
        """Each address that the term reads, with its place in the recipe."""
        yield from self.binding.readers()
        yield from ((a, self.binding.where) for a in (self.mask, self.sample_weight) if a is not None)
        if isinstance(self.weight, Share):
            yield self.weight.address, f"{self.binding.where}.weight"

    @property
    def counted(self) -> Address | None:
        """What tells how many samples or tokens the loss is a mean over: a mask, or None where all count."""
        port = self.binding.ports.get("mask") if self.scalar else None
        return self.mask or (port if isinstance(port, Address) else None)

    def probe(self, values: Mapping[str, Tensor]) -> None:
        """Compute the loss once, to see that it can be and what it is."""
        loss = self.unreduced(values)
        self.scalar = not loss.dim()
        if isinstance(self.weight, Share):
            loss = self.weight.times(loss, values, self.binding.where)
        self.reduce(loss, values)

    def weight_at(self, step: int, total: int) -> float:
        """The weight at a step; 1 where it is a value of the batch."""
        if isinstance(self.weight, Share):
            return 1.0
        return float(self.weight(step, total)) if isinstance(self.weight, Schedule) else self.weight

    def __call__(self, values: Mapping[str, Tensor], *, detached: bool = False) -> Tensor:
        """The reduced loss, in float32.

        Raises:
            GraphError: the batch is smaller than the loss needs, or its shape is not `[]`, `[B]` or `[B, T]`.
        """
        return self.reduce(self.unreduced(values, detached=detached), values)

    def both(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The reduced loss before its weight, and after a weight that is a value."""
        assert isinstance(self.weight, Share)
        loss = self.unreduced(values)
        return self.reduce(loss, values), self.reduce(self.weight.times(loss, values, self.binding.where), values)

    def parts(self, values: Mapping[str, Tensor], *, detached: bool = False) -> list[tuple[Tensor, Tensor | float]]:
        """What `__call__` or `both` reduce, as sums over valid samples or tokens with their number.

        A loss that is a number stands for all samples, or for as many tokens as its own port `mask` has.
        """
        losses = [loss := self.unreduced(values, detached=detached)]
        if isinstance(self.weight, Share) and not detached:
            losses.append(self.weight.times(loss, values, self.binding.where))
        return [self.part(each, values) for each in losses]

    def part(self, loss: Tensor, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """An unreduced loss as its sum over valid samples or tokens, and their number."""
        count: Tensor | float
        if not loss.dim():
            return loss * (count := self._stands_for(values)), count
        count = loss.numel() if self.mask is None else self._factor(self.mask, loss, values).sum()
        return self.reduce(loss, values) * count, count

    def _stands_for(self, values: Mapping[str, Tensor]) -> Tensor | float:
        arguments = self.binding.arguments(values)
        if isinstance(mask := arguments.get("mask"), Tensor):
            return mask.sum()
        sizes = _sizes(arguments)
        return 0 if 0 in sizes else sizes[0] if sizes else 1

    def unreduced(self, values: Mapping[str, Tensor], *, detached: bool = False) -> Tensor:
        """The loss before mask and mean, times the factors of `sample_weight`; zero for an empty batch."""
        arguments = self.binding.arguments(values, float32=True, detached=detached and not self.binding.needs_graph)
        sizes = _sizes(arguments)
        if 0 in sizes:
            tensors = [t for v in arguments.values() for t in (v if isinstance(v, list) else [v]) if t.dim()]
            return torch.stack([t.sum() * 0.0 for t in tensors if t.is_floating_point()]).sum()
        if sizes and sizes[0] < self.loss.min_batch:
            raise GraphError(
                f"{type(self.loss).__name__} needs at least {self.loss.min_batch} samples, the batch has {sizes[0]}",
                where=self.binding.where,
                next="raise data.batch_size",
            )
        loss = self.binding.call(arguments)
        if loss.dim() > 2:
            raise GraphError(f"a loss is [], [B] or [B, T], not {list(loss.shape)}", where=self.binding.where)
        return loss if self.sample_weight is None else loss * self._factor(self.sample_weight, loss, values)

    def reduce(self, loss: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The mean over valid samples or tokens: linear in `loss`."""
        if self.mask is None:
            return loss.mean() if loss.dim() else loss
        mask = self._factor(self.mask, loss, values)
        return torch.where(mask > 0, loss * mask, 0.0).sum() / mask.sum().clamp(min=1e-12)

    def _factor(self, address: Address, loss: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """One factor for every element of the loss: `[B]` or `[B, T]`."""
        factor = values[address.key].to(loss.dtype)
        if address.detached:
            factor = factor.detach()
        if not loss.dim() and factor.dim() and not len(factor):
            return torch.zeros_like(loss)  # an empty batch
        if not factor.dim() or factor.shape != loss.shape[: factor.dim()]:
            raise GraphError(
                f"'{address}' is {list(factor.shape)}, the loss {list(loss.shape)}: not one factor per sample or token",
                where=self.binding.where,
                next="write a value [B], or use a loss that returns [B, T] for a value [B, T]",
            )
        return factor.reshape(factor.shape + (1,) * (loss.dim() - factor.dim())).expand_as(loss)


def _sizes(arguments: Mapping[str, Any]) -> list[int]:
    """How many samples each tensor has, of those that have a batch dimension."""
    sizes = []
    for value in arguments.values():
        for tensor in value if isinstance(value, list) else (value,):
            if shape := tensor.shape:
                sizes.append(shape[0])
    return sizes
