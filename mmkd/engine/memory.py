"""Constant teachers that see no augmentation are run once per sample, then remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mmkd.components import Curator, Dataset
from mmkd.engine.data import eval_batches, read
from mmkd.errors import RecipeError
from mmkd.graph.collate import Collator, to_device
from mmkd.graph.node import MemoryTable
from mmkd.graph.training_graph import TrainingGraph


def remember(
    graph: TrainingGraph,
    names: Sequence[str],
    dataset: Dataset,
    curators: Sequence[Curator],
    progress: Callable[[str, int, int], None],
    batch: int = 64,
) -> None:
    """Run the named nodes over the dataset in a fixed order and keep what the losses read of them.

    Raises:
        RecipeError: a curator changes a field that the node reads, so that its output differs from draw to draw.
    """
    changed = frozenset().union(*(curator.fields for curator in curators))
    for name in names:
        node = graph.roles[name]
        if node.trained:
            raise RecipeError("only a constant node can be remembered; this one is trained", where=f"{name}.cache")
        reads = _fields_read(read(dataset, 0), node.encoder.transform, node.inputs)
        if reads & changed:
            raise RecipeError(
                f"curators change {sorted(reads & changed)}, which '{name}' reads", where=f"{name}.cache",
                next="remove `cache`, or the curator",
            )  # fmt: skip
        run = next(run for run in graph.plan.runs if run.id == name)
        rows: dict[str, int] = {}
        parts: list[dict[str, torch.Tensor]] = []
        for part in eval_batches(dataset, Collator([node]), batch):
            values: dict[str, torch.Tensor] = {}
            with torch.no_grad(), graph._autocast():
                run(to_device(part, graph.device), values)
            parts.append({key: value.clone() for key, value in values.items()})
            for key in part["key"]:
                if key in rows:
                    raise RecipeError(f"two samples have the key '{key}'", where="data.train")
                rows[key] = len(rows)
            progress(f"remembering {name}", len(rows), len(dataset))
        node.table = MemoryTable(rows, {key: torch.cat([p[key] for p in parts]) for key in parts[0]})


def _fields_read(sample: Mapping[str, Any], transform: Callable[[Any], Any], inputs: Mapping[str, str]) -> set[str]:
    """Which fields of a sample a transform looks at (all of them where it has none of its own)."""
    noted = _Noted({**sample, **{own: sample[field] for own, field in inputs.items() if field in sample}})
    made = transform(noted)
    return {inputs.get(name, name) for name in noted.read} if made else set(sample)


class _Noted(Mapping[str, Any]):
    """A sample that notes which of its fields are read."""

    def __init__(self, sample: Mapping[str, Any]) -> None:
        self._sample, self.read = sample, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._sample[name]

    def __iter__(self) -> Iterator[str]:
        self.read.update(self._sample)
        return iter(self._sample)

    def __len__(self) -> int:
        return len(self._sample)
