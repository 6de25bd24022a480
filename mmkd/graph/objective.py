"""The objective: every loss of a graph over one batch, before and after its weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.graph import ranks
from mmkd.graph.term import Term
from mmkd.graph.weighting import Share


@dataclass(frozen=True)
class Objective:
    """Losses of one batch, of the global one where there are several ranks, by the names of their terms."""

    losses: Mapping[str, Tensor]
    weighted: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, terms: Sequence[Term], values: Mapping[str, Tensor], whole: Mapping[str, Tensor], step: int, total: int
    ) -> Objective:
        """The losses of these values; coupled ones read `whole`, the values as of the global batch."""
        losses: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for term, found in zip(terms, reduced(terms, values, whole), strict=True):
            loss = losses[term.name] = found[0]
            if len(found) > 1:
                loss = found[1]
            elif (weight := term.weight_at(step, total)) != 1.0:
                loss = loss * weight
            weighted[term.name] = loss
        return cls(losses, weighted)

    def total(self, names: Iterable[str] | None = None) -> Tensor:
        """The weighted sum of these terms, of all unless given.

        Raises:
            GraphError: there is none.
        """
        total: Tensor | None = None
        for name in self.weighted if names is None else names:
            total = self.weighted[name] if total is None else total + self.weighted[name]
        if total is None:
            raise GraphError("the graph has no loss", next="add one under losses:")
        return total

    def told(self) -> dict[str, Tensor]:
        """`<name>_loss` of each term before its weight, and `loss`, their weighted sum."""
        return {**{f"{name}_loss": loss for name, loss in self.losses.items()}, "loss": self.total()}


def reduced(
    terms: Sequence[Term], values: Mapping[str, Tensor], whole: Mapping[str, Tensor], *, detached: bool = False
) -> list[Sequence[Tensor]]:
    """Each term's loss; after it, where its weight is a value, the loss under that weight.

    Where gradients of several ranks are to be averaged, each loss has the value of the global batch and this rank's
    share of the gradient; without gradients every rank is by itself.
    """
    if not together():
        return [
            term.both(values) if isinstance(term.weight, Share) and not detached else (term(values, detached=detached),)
            for term in terms
        ]
    parts = [term.parts(whole if term.loss.coupled else values, detached=detached) for term in terms]
    shares = iter(ranks.share([part for own in parts for part in own]))
    return [[next(shares) for _ in own] for own in parts]


def together() -> bool:
    """Whether what is computed now is one objective of several ranks."""
    return ranks.world() > 1 and torch.is_grad_enabled()
