"""Which part of a batch each of its micro-batches is, for losses that are means over samples or tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.graph import ranks

if TYPE_CHECKING:
    from mmkd.graph.term import Term
    from mmkd.graph.training_graph import TrainingGraph

Portions = Mapping[str, float | Tensor]
"""By loss: what its mean over a micro-batch counts in the mean over the whole batch."""


def portions(
    graph: TrainingGraph,
    terms: Sequence[Term],
    batches: Sequence[Mapping[str, Any]],
    values: Sequence[Mapping[str, Tensor]],
) -> list[Portions]:
    """For every micro-batch its portions, such that the means of all add up to the one over all valid samples (or
    tokens) of all micro-batches and ranks.

    Args:
        graph: whose losses these are.
        terms: the losses.
        batches: the micro-batches.
        values: of each, at least what `term.counted` names.
    """
    counts = {term.name: _counts(graph, term, batches, values) for term in terms}
    if ranks.world() > 1 and counts:
        dtype = torch.float32 if graph.device.type == "mps" else torch.float64
        table = [torch.as_tensor(n, dtype=dtype, device=graph.device) for column in counts.values() for n in column]
        total = ranks.total(torch.stack(table)).view(len(counts), len(batches))
        counts = {name: list(row.unbind()) for name, row in zip(counts, total, strict=True)}
    shares = {name: _shares(column) for name, column in counts.items()}
    return [{name: own[i] for name, own in shares.items()} for i in range(len(batches))]


def _shares(counts: Sequence[float | Tensor]) -> list[float | Tensor]:
    total = sum(counts)
    if isinstance(total, Tensor):
        return [count / total.clamp(min=1e-12) for count in counts]
    return [count / total if total else 0.0 for count in counts]


def _counts(
    graph: TrainingGraph, term: Term, batches: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, Tensor]]
) -> list[float | Tensor]:
    if (mask := term.counted) is not None:
        dtype = torch.float32 if graph.device.type == "mps" else torch.float64
        return [own[mask.key].detach().sum(dtype=dtype) for own in values]
    view = _view(graph, term)
    return [float(rows(batch, view)) for batch in batches]


def _view(graph: TrainingGraph, term: Term) -> str:
    """The stream whose samples a term is a mean over: that of the first value it reads."""
    address = next((a for a, _ in term.readers()), None)
    while address is not None and address.node in graph.bound:
        address = next((a for a, _ in graph.bound[address.node].readers()), None)
    return "" if address is None else address.view


def rows(batch: Mapping[str, Any], view: str = "") -> int:
    """The number of samples of a batch, or of a stream or view in it.

    Raises:
        GraphError: the batch holds nothing that tells.
    """
    if view:
        fields = [value for name, value in batch.items() if str(name).endswith(f"@{view}")]
    else:
        own = [value for name, value in batch.items() if isinstance(value, Mapping) and "@" not in str(name)]
        fields = [batch, *own]
    for field in fields:
        for value in [field["key"]] if "key" in field else field.values():
            if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.dim()):
                return len(value)
    raise GraphError(
        f"cannot tell how many samples the {f'stream {view!r} of the batch' if view else 'batch'} has",
        exists=[str(name) for name in batch], next="give every batch a field `key`: a list of the samples' names",
    )  # fmt: skip
