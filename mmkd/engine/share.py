"""An evaluation shared among processes: which batches are whose, and one metric out of many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from mmkd.components import Dataset, Metric, Sample
from mmkd.engine.data import read
from mmkd.errors import GraphError
from mmkd.graph import ranks

processes = ranks.world
"""How many processes evaluate together; 1 where torch.distributed is not initialised."""


class Share(Dataset):
    """This process's part of a dataset: whole batches in a row, so that they hold what they hold in one process."""

    def __init__(self, dataset: Dataset, batch: int) -> None:
        self.dataset = dataset
        rank, world = ranks.rank(), ranks.world()
        batches = -(-len(dataset) // batch)
        first, last = (min(len(dataset), batches * place // world * batch) for place in (rank, rank + 1))
        self.places = range(first, last)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return read(self.dataset, self.places[index])


def check(metric: Metric, where: str) -> None:
    """Raise where several processes evaluate and the metric cannot be put together again.

    Raises:
        GraphError: the metric has no `state` and `merge`.
    """
    if processes() > 1 and not metric.mergeable:
        raise GraphError(
            f"{type(metric).__name__} cannot be merged across {processes()} processes", where=where,
            next="keep what it has seen in mmkd.Rows, or define state() and merge(states); or evaluate in one process",
        )  # fmt: skip


def gather(metric: Metric, device: torch.device) -> None:
    """Make the metric of every process what one metric would be that saw all batches in order."""
    states: list[Any] = [None] * processes()
    distributed.all_gather_object(states, _moved(metric.state(), torch.device("cpu")))
    metric.reset()
    metric.merge([_moved(state, device) for state in states])


def _moved(state: Any, device: torch.device) -> Any:
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, Mapping):
        return {name: _moved(value, device) for name, value in state.items()}
    return [_moved(value, device) for value in state] if isinstance(state, list) else state
