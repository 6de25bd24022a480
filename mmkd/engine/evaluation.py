"""Evaluation: metrics over every evaluation dataset, each network run once per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmkd.components import Dataset, Metric
from mmkd.engine.data import eval_batches
from mmkd.errors import GraphError
from mmkd.graph.binding import Binding
from mmkd.graph.collate import Collator, to_device
from mmkd.graph.plan import Plan, located
from mmkd.graph.training_graph import TrainingGraph

Scores = dict[str, dict[str, dict[str, float]]]
"""Dataset to metric to named numbers."""


@dataclass
class Measure:
    """A metric as bound, and after how many steps it is due."""

    binding: Binding
    every: int | None = None

    @property
    def metric(self) -> Metric:
        assert isinstance(self.binding.module, Metric)
        return self.binding.module


class Evaluation:
    """All metrics of a recipe over all its evaluation datasets."""

    def __init__(self, measures: Sequence[Measure], datasets: Mapping[str, Dataset], batch_size: int) -> None:
        self.measures, self.datasets, self.batch_size = list(measures), dict(datasets), batch_size

    def due(self, step: int, total: int) -> bool:
        """Whether some metric asks for an evaluation after this step (the end is evaluated anyway)."""
        return step < total and any(m.every and step % m.every == 0 for m in self.measures)

    def check(self, graph: TrainingGraph) -> None:
        """Raise before the first step where a metric reads what does not exist, not when it is due."""
        for measure in self.measures:
            plan = Plan(graph.roles, graph.bound, measure.binding.readers())
            plan.close()
            for projector in plan.projectors:
                if projector.name not in graph.widths:
                    raise GraphError(
                        f"no loss reads '{projector.name}', so that it is neither set up nor trained",
                        where=measure.binding.where,
                        exists=list(graph.widths),
                    )

    def __call__(self, graph: TrainingGraph, step: int, total: int) -> Scores:
        """Scores of the metrics that are due; all of them at the end."""
        due = [m for m in self.measures if step == total or (m.every and step % m.every == 0)]
        if not due or not self.datasets:
            return {}
        readers = [reader for m in due for reader in m.binding.readers()]
        plan = graph.reading([str(address) for address, _ in readers])
        collator = Collator([run.node for run in plan.runs])
        was_training = graph.training
        graph.eval()
        scores: Scores = {}
        with torch.no_grad():
            for name, dataset in self.datasets.items():
                for measure in due:
                    measure.metric.reset()
                for batch in eval_batches(dataset, collator, self.batch_size):
                    values = plan.run(to_device(batch, graph.device))
                    for measure in due:
                        with located(measure.binding.where):
                            measure.metric(**measure.binding.arguments(values, float32=True))
                scores[name] = {m.binding.name: m.metric.compute() for m in due}
        plan.close()
        graph.train(was_training)
        return scores


def first_number(scores: Scores | Mapping[str, Any]) -> tuple[str, float] | None:
    """The number that decides which checkpoint is best: the first of the first metric, larger being better."""
    for dataset, metrics in scores.items():
        for metric, numbers in metrics.items():
            for name, number in numbers.items():
                return f"{dataset}.{metric}.{name}", float(number)
    return None
