"""The objective: every loss of a graph over one batch, before and after its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.graph import ranks
from mmkd.graph.term import Term
from mmkd.graph.weighting import Share


class Objective:
    """Losses of one batch, of the global one where there are several ranks.

    Args:
        terms: the losses.
        values: what they read.
        whole: the values as of the global batch, which coupled ones read.
        step, total: where weights are that follow the step.
    """

    __slots__ = ("told", "weighted")

    def __init__(
        self, terms: Sequence[Term], values: Mapping[str, Tensor], whole: Mapping[str, Tensor], step: int, total: int
    ) -> None:
        told: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        loss: Tensor | None = None
        shared = share(terms, values, whole) if together() else None
        for i, term in enumerate(terms):
            name, valued = term.name, isinstance(term.weight, Share)
            if shared is not None:
                own, *after = shared[i]
            elif valued:
                own, *after = term.both(values)
            else:
                own = term(values)
            told[f"{name}_loss"] = own
            if valued:
                (own,) = after
            elif (weight := term.weight_at(step, total)) != 1.0:
                own = own * weight
            weighted[name] = own
            loss = own if loss is None else loss + own
        if loss is None:
            raise GraphError("the graph has no loss", next="add one under losses:")
        told["loss"] = loss
        self.told, self.weighted = told, weighted
        """`<name>_loss` of each term before its weight, then `loss`, their weighted sum; each term after its weight."""

    def scale(self, portions: Mapping[str, float | Tensor]) -> None:
        """Make of losses of a micro-batch what they count in those of the whole batch."""
        for name, portion in portions.items():
            for held, key in ((self.told, f"{name}_loss"), (self.weighted, name)):
                own = held[key]
                held[key] = own * (portion.to(own) if isinstance(portion, Tensor) else portion)
        self.told["loss"] = self.total(list(self.weighted))

    def total(self, names: Sequence[str]) -> Tensor:
        """The weighted sum of these terms."""
        first, *others = (self.weighted[name] for name in names)
        return sum(others, start=first)


def share(
    terms: Sequence[Term], values: Mapping[str, Tensor], whole: Mapping[str, Tensor], *, detached: bool = False
) -> list[list[Tensor]]:
    """Each term's loss over the global batch, with this rank's share of the gradient; then, where its weight is a
    value, the loss under that weight. Coupled terms read `whole`."""
    parts = [term.parts(whole if term.loss.coupled else values, detached=detached) for term in terms]
    shares = iter(ranks.share([part for own in parts for part in own]))
    return [[next(shares) for _ in own] for own in parts]


def together() -> bool:
    """Whether what is computed now is one objective of several ranks."""
    return ranks.world() > 1 and torch.is_grad_enabled()
