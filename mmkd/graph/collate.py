"""Raw samples to a batch: shared fields on top, each network's own under its name."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkd.components import Sample
from mmkd.errors import DataError, MmkdError
from mmkd.graph.node import Node


class Collator:
    """Applies each network's transform to the same raw samples and stacks; equal transforms run once.

    Args:
        nodes: the networks that will run.
        remembered: look the rows of nodes with a memory table up instead of transforming for them.
    """

    def __init__(self, nodes: Sequence[Node], *, remembered: bool = False) -> None:
        self._nodes, self._remembered = list({node.name: node for node in nodes}.values()), remembered

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Collate.

        Raises:
            DataError: a transform fails, named with its sample, or fields cannot be stacked.
        """
        batch = _shared(samples)
        done: dict[Hashable, dict[str, Any]] = {}
        for node in self._nodes:
            if self._remembered and node.table is not None:
                batch[node.name] = {"row": torch.tensor([node.table.row(s["key"]) for s in samples])}
                continue
            key = node.encoder.transform_key()
            shared = (key, tuple(sorted(node.inputs.items()))) if key is not None else object()
            if shared not in done:
                rows = [self._transform(node, sample) for sample in samples]
                done[shared] = node.encoder.collate(rows) if any(rows) else {}
            if done[shared]:
                if node.name in batch:
                    raise DataError(
                        f"the samples have a field '{node.name}', and so is a network called", where=node.name,
                        next="give the network another name in the recipe",
                    )  # fmt: skip
                batch[node.name] = done[shared]
        return batch

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
