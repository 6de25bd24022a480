"""Raw samples to a batch: shared fields on top, each network's own under its name."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmkd.components import Sample
from mmkd.errors import DataError, MmkdError
from mmkd.graph.node import Node


class Prepared(NamedTuple):
    """A raw sample with what each network's transform made of it; networks of equal transform share a row."""

    sample: Sample
    rows: list[dict[str, Any]]


class Collator:
    """Applies each network's transform to the same raw samples and stacks; equal transforms run once.

    Args:
        nodes: the networks that will run; by stream or view where there are several, "" being the batch itself.
        remembered: look the rows of nodes that have tables up instead of transforming for them.
        wanted: what is read of each network (`Plan.wanted`); everything of those that it leaves out.
    """

    def __init__(
        self,
        nodes: Sequence[Node] | Mapping[str, Sequence[Node]],
        *,
        remembered: bool = False,
        wanted: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._remembered, self._wanted = remembered, wanted or {}
        by_view = nodes if isinstance(nodes, Mapping) else {"": nodes}
        self._groups = {view: self._alike(view, own) for view, own in by_view.items()}

    def __call__(
        self, samples: Sequence[Sample], streams: Mapping[str, Sequence[Sample]] | None = None
    ) -> dict[str, Any]:
        """Collate; samples of further streams or views go to `batch["@name"]` and `batch["node@name"]`.

        Raises:
            DataError: a transform fails, named with its sample, or fields cannot be stacked.
        """
        columns = {"": samples, **(streams or {})}
        return self.stack({view: [self.prepare(s, view) for s in column] for view, column in columns.items()})

    def prepare(self, sample: Sample, view: str = "", replica: int = 0) -> Prepared:
        """One sample, as it is under the draws of a replica, through every transform."""
        return Prepared(sample, [self._row(group[0], sample, view, replica) for group in self._groups.get(view, ())])

    def stack(self, columns: Mapping[str, Sequence[Prepared]]) -> dict[str, Any]:
        """Prepared samples, by stream or view, as one batch."""
        batch: dict[str, Any] = {}
        for view, column in columns.items():
            suffix = f"@{view}" if view else ""
            shared = _shared([prepared.sample for prepared in column])
            batch.update({suffix: shared} if view else shared)
            for i, group in enumerate(self._groups.get(view, ())):
                fields = self._stacked(group[0], [prepared.rows[i] for prepared in column], view)
                for node in group if fields else ():
                    if node.name in shared and not view:
                        raise DataError(
                            f"the samples have a field '{node.name}', and so is a network called", where=node.name,
                            next="give the network another name in the recipe",
                        )  # fmt: skip
                    batch[node.name + suffix] = fields
        return batch

    def _alike(self, view: str, nodes: Sequence[Node]) -> list[list[Node]]:
        """The networks, those of equal transform together."""
        groups: dict[Hashable, list[Node]] = {}
        for node in {node.name: node for node in nodes}.values():
            with node.encoder.reading(self._wanted.get(node.name)):
                key = None if self._looks_up(node, view) else node.encoder.transform_key()
            groups.setdefault((key, *sorted(node.inputs.items())) if key is not None else object(), []).append(node)
        return list(groups.values())

    def _looks_up(self, node: Node, view: str) -> bool:
        return self._remembered and view in node.tables

    def _row(self, node: Node, sample: Sample, view: str, replica: int) -> dict[str, Any]:
        if self._looks_up(node, view):
            table = node.tables[view]
            return {"row": table.row(sample["key"], replica % table.replicas)}
        with node.encoder.reading(self._wanted.get(node.name)):
            return self._transform(node, sample)

    def _stacked(self, node: Node, rows: Sequence[dict[str, Any]], view: str) -> dict[str, Any]:
        if self._looks_up(node, view):
            return {"row": [row["row"] for row in rows]}
        try:
            with node.encoder.reading(self._wanted.get(node.name)):
                return node.encoder.collate(rows) if any(rows) else {}
        except MmkdError:
            raise
        except Exception as error:
            shapes = [f"{field} {tuple(np.shape(value))}" for row in rows for field, value in row.items()]
            raise DataError(
                f"what its transform gives cannot be stacked: {error}", where=node.name,
                exists=list(dict.fromkeys(shapes)), next="transform to one shape, or pad in the encoder's collate",
            ) from error  # fmt: skip

    @staticmethod
    def _transform(node: Node, sample: Sample) -> dict[str, Any]:
        if node.inputs:
            sample = {**sample, **{own: sample[field] for own, field in node.inputs.items() if field in sample}}
        try:
            return node.encoder.transform(sample)
        except Exception as error:
            where = f"sample '{sample.get('key', '?')}' for '{node.name}'"
            if isinstance(error, MmkdError):
                raise error.at(where) from error.__cause__
            if isinstance(error, KeyError):
                raise DataError(
                    f"has no field {error}", where=where, exists=[str(k) for k in sample],
                    next="rebind it: inputs: {<field>: batch.<other>}",
                ) from error  # fmt: skip
            raise DataError(f"{type(error).__name__}: {error}", where=where) from error


def _shared(samples: Sequence[Sample]) -> dict[str, Any]:
    """Numbers and arrays of one shape are stacked, text is listed; what only a transform can read stays out."""
    batch: dict[str, Any] = {}
    for field in samples[0] if samples else ():
        column = [sample.get(field) for sample in samples]
        if all(isinstance(value, str) for value in column):
            batch[field] = column
        elif all(isinstance(value, Tensor | np.ndarray | numbers.Number) for value in column):
            tensors = [torch.as_tensor(value) for value in column]
            if all(t.shape == tensors[0].shape for t in tensors):
                batch[field] = torch.stack(tensors)
    return batch


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Every tensor of a batch on `device`."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            moved[name] = value.to(device, non_blocking=True)
        else:
            moved[name] = to_device(value, device) if isinstance(value, Mapping) else value
    return moved
