"""One network and the projectors on it as a plain module: tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.components import Encoder, Sample
from mmkd.errors import DataError, GraphError, TrainingError
from mmkd.graph.node import NodeRun
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import parse


class Portable(nn.Module):
    """Some values of one network as a function of its inputs, in evaluation mode and without gradient.

    Args:
        graph: an exported model.
        node: the network.
        values: addresses of what to return (`student.embedding` is returned as `embedding`); None for its
            `embedding` and `logits` and the projectors on it alone.
        samples: raw samples; which inputs there are, and which sizes vary, is seen from them.
        normalize: take images in [0, 1]; mean and standard deviation are applied inside.

    Attributes:
        fields: names of the inputs, in the order of `forward`.
        example: inputs for the first two samples.
        varying: for each input, the dimensions whose size may change; the first one is the batch.

    Raises:
        TrainingError: a value stands on another network, or there is nothing to return.
        DataError: no sample can be turned into inputs.
    """

    def __init__(
        self,
        graph: TrainingGraph,
        node: str,
        values: Sequence[str] | None,
        samples: Sequence[Sample],
        *,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if len(samples) < 2:
            raise DataError(f"needs 2 samples to see how inputs vary, not {len(samples)}", where="samples")
        self.node = node
        self._image: int | None = None  # which input is divided by mean and std inside
        self.encoder: Encoder = graph.roles[node].encoder
        addresses = _default(graph, node) if values is None else list(values)
        self._keys = [parse(address).key for address in addresses]
        short = [address.removeprefix(f"{node}.") for address in addresses]
        self.values = tuple(addresses if set(short) & graph.bound.keys() - set(addresses) else short)
        plan = graph.reading(addresses)
        others = sorted({run.node.name for run in plan.runs} - {node} | set(plan.fields))
        if others or not plan.runs:
            plan.close()
            raise TrainingError(
                f"only values of '{node}' can be exported with it, not of {', '.join(others) or 'nothing'}",
                where="values", exists=[f"{node}.{name}" for name in self.encoder.values()],
                next="--values embedding, or --node for another network",
            )  # fmt: skip
        self._plan = plan
        self.projectors = nn.ModuleList(binding.module for binding in plan.derived)
        self.projector_names = [binding.name for binding in plan.derived]
        self.eval().requires_grad_(False)
        self._learn(plan.runs[0], [graph.collate(part, addresses) for part in (samples[:2], *([s] for s in samples))])
        if normalize:
            self._normalize()

    def _learn(self, run: NodeRun, batches: Sequence[Mapping[str, Any]]) -> None:
        """Inputs and their varying sizes, from a batch of two samples and some of one."""
        inputs = [run.given(batch) for batch in batches]
        self._plan.learn(batches[0])
        self.fields = [field for field in inputs[0] if isinstance(inputs[0][field], Tensor)]
        expected = self(*(inputs[0][field] for field in self.fields))
        for field, required in self.encoder.inputs().items():
            if field in self.fields and not required and self._same_without(field, inputs[0], expected):
                self.fields.remove(field)
        self.example = tuple(inputs[0][field] for field in self.fields)
        self.varying = [
            (0, *(d for d in range(1, inputs[0][field].dim()) if len({i[field].shape[d] for i in inputs}) > 1))
            for field in self.fields
        ]

    def _same_without(self, field: str, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
        before, self.fields = self.fields, [name for name in self.fields if name != field]
        try:
            found = self(*(inputs[name] for name in self.fields))
        except GraphError:
            return False
        finally:
            self.fields = before
        return all(torch.equal(found[name], value) for name, value in expected.items())

    def _normalize(self) -> None:
        image = next((i for i, field in enumerate(self.fields) if field.rpartition(".")[2] == "image"), None)
        about = self.encoder.preprocessing() or {}
        if image is None or not {"mean", "std"} <= about.keys():
            raise TrainingError(
                f"{type(self.encoder).__name__} does not say mean and std of its images", where="normalize"
            )
        mean, std = (torch.tensor(list(about[key])).view(1, -1, 1, 1) for key in ("mean", "std"))
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)
        self.example = tuple(x * std + mean if i == image else x for i, x in enumerate(self.example))
        self._image = image

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        given = dict(zip(self.fields, inputs, strict=True))
        if self._image is not None:
            field = self.fields[self._image]
            given[field] = (given[field] - self.mean) / self.std
        with torch.no_grad():
            found = self._plan.run({self.node: given})
        return {name: found[key] for name, key in zip(self.values, self._keys, strict=True)}


def _default(graph: TrainingGraph, node: str) -> list[str]:
    own = [n for n in graph.roles[node].encoder.values() if n.rpartition(".")[2] in ("embedding", "logits")]
    return [f"{node}.{name}" for name in own] + [name for name in graph.bound if _stands_on(graph, name, node)]


def _stands_on(graph: TrainingGraph, projector: str, node: str) -> bool:
    plan = graph.reading([projector])
    plan.close()
    return {run.node.name for run in plan.runs} == {node} and not plan.fields


def difference(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> float:
    """Largest difference, over all values, relative to the largest magnitude of a value where that is above 1."""
    return max(
        float((torch.as_tensor(found[name]) - value).abs().max() / value.abs().max().clamp(min=1))
        for name, value in expected.items()
    )
