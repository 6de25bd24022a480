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
    skip: bool = False,
) -> None:
    """Run the named nodes over the dataset in a fixed order and keep what the losses read of them.

    A node with `cache: fixed` sees every sample as it is, while the others see it changed (the "fixed teacher" of
    Beyer et al., 2022); mixing samples is refused even then, since a mixed sample has no output among those kept.

    Raises:
        RecipeError: a curator changes a field that the node reads, so that its output differs from draw to draw.
    """
    for name in names:
        node = graph.roles[name]
        if not node.constant:
            changes = "trained" if node.trained else "the average of one that is"
            raise RecipeError(f"only a constant node can be remembered; this one is {changes}", where=f"{name}.cache")
        if views := [run.view for run in graph.plan.runs if run.node is node and run.view]:
            raise RecipeError(
                f"'{name}' is read on '{views[0]}' too; only what the training set itself gives can be remembered",
                where=f"{name}.cache", next="remove `cache`",
            )  # fmt: skip
        wanted = graph.plan.wanted
        with node.encoder.reading(wanted.get(name)):
            reads = _fields_read(dataset, node.encoder.transform, node.inputs, skip)
        fixed = node.cache == "fixed"
        changed = {field for curator in curators if not (fixed and _keeps(curator)) for field in curator.fields & reads}
        if changed:
            written = any(curator.of_batches() and curator.fields & reads for curator in curators)
            do = "mix" if fixed and not written else "change"
            or_else = "" if fixed or written else ", or cache: fixed, which shows it samples as they are"
            raise RecipeError(
                f"curators {do} {sorted(changed)}, which '{name}' reads", where=f"{name}.cache",
                next=f"remove `cache` or the curator{or_else}",
            )  # fmt: skip
        run = next(run for run in graph.plan.runs if run.id == name)
        rows: dict[str, int] = {}
        parts: list[dict[str, torch.Tensor]] = []
        for part in eval_batches(dataset, Collator([node], wanted=wanted), batch, skip=skip):
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


def _keeps(curator: Curator) -> bool:
    """Whether a sample that it changed still has the outputs that are remembered of it as it was."""
    return not curator.partners and not curator.of_batches()


def _fields_read(dataset: Dataset, transform: Callable[[Any], Any], inputs: Mapping[str, str], skip: bool) -> set[str]:
    """Which fields of the first sample a transform looks at; of the first good one where `skip`."""
    for index in range(len(dataset)):
        try:
            return _looked_at(read(dataset, index), transform, inputs)
        except Exception:
            if not skip:
                raise
    return set()


def _looked_at(sample: Mapping[str, Any], transform: Callable[[Any], Any], inputs: Mapping[str, str]) -> set[str]:
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
