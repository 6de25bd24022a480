"""Evaluation: metrics over every evaluation dataset, each network run once per batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmkd.components import Dataset, Metric
from mmkd.engine import reference, share
from mmkd.engine.data import eval_batches, read
from mmkd.errors import GraphError
from mmkd.graph.binding import Binding
from mmkd.graph.collate import Collator, to_device
from mmkd.graph.plan import Plan, located
from mmkd.graph.training_graph import TrainingGraph

Scores = dict[str, dict[str, dict[str, float]]]
"""Dataset to metric to named numbers."""


@dataclass
class Measure:
    """A metric as bound, after how many steps it is due, and how the teacher's own score beside it is read."""

    binding: Binding
    every: int | None = None
    teacher_score: bool | Mapping[str, str] = True
    teacher: str | None = None
    """The teacher that is scored; None where it is the students."""

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
        for measure in [*self.measures, *self._references(graph)]:
            share.check(measure.metric, measure.binding.where)
            plan = Plan(graph.roles, graph.bound, measure.binding.readers())
            plan.close()
            for binding in plan.derived:
                if binding.name not in graph.widths and binding.needs_setup:
                    raise GraphError(
                        f"no loss reads '{binding.name}', so that it is neither set up nor trained",
                        where=measure.binding.where,
                        exists=list(graph.widths),
                    )

    def __call__(self, graph: TrainingGraph, step: int, total: int) -> tuple[Scores, dict[str, Scores]]:
        """Scores of the students by the metrics that are due, and each teacher's own; both whole at the end only.

        A teacher is scored once, in the same pass as the students at the end. Where torch.distributed is initialised,
        every process evaluates its part of each dataset, and all return what one process alone would.
        """
        due = [m for m in self.measures if step == total or (m.every and step % m.every == 0)]
        students: Scores = {}
        teachers: dict[str, Scores] = {}
        if not due:
            return students, teachers
        was_training = graph.training
        graph.eval()
        with torch.no_grad():
            for name, dataset in self.datasets.items():
                beside = self._references(graph, dataset) if step == total else []
                for measure, found in self._scores(graph, dataset, [*due, *beside]):
                    column = teachers.setdefault(measure.teacher, {}) if measure.teacher else students
                    column.setdefault(name, {})[measure.binding.name] = found
        graph.train(was_training)
        return students, teachers

    def _scores(
        self, graph: TrainingGraph, dataset: Dataset, measures: Sequence[Measure]
    ) -> Iterator[tuple[Measure, dict[str, float]]]:
        shared = share.processes() > 1
        for measure in measures:
            share.check(measure.metric, measure.binding.where)
            measure.metric.reset()
        plan = graph.reading([str(address) for m in measures for address, _ in m.binding.readers()])
        collator = Collator([run.node for run in plan.runs], wanted=plan.wanted)
        part = share.Share(dataset, self.batch_size) if shared else dataset
        for batch in eval_batches(part, collator, self.batch_size):
            values = plan.run(to_device(batch, graph.device))
            for measure in measures:
                with located(measure.binding.where):
                    measure.metric(**measure.binding.arguments(values, float32=True))
        plan.close()
        for measure in measures:
            with located(measure.binding.where):
                if shared:
                    share.gather(measure.metric, graph.device)
                found = measure.metric.compute()
            measure.metric.reset()
            yield measure, found

    def _references(self, graph: TrainingGraph, dataset: Dataset | None = None) -> list[Measure]:
        """The metrics as they score each teacher; with a dataset, those that mean something on it."""
        found = []
        for measure in self.measures:
            binding, written = measure.binding, measure.teacher_score
            mine = reference.owner(written, graph, binding.where) if isinstance(written, Mapping) else None
            for teacher in reference.teachers(graph) if written else ():
                own = written if isinstance(written, Mapping) and teacher == mine else None
                made = reference.rebound(binding, graph, teacher, own)
                if made is None:
                    continue
                if own or not dataset or reference.comparable(binding, made, graph, read(dataset, 0)):
                    found.append(Measure(made, teacher=teacher))
        return found


def first_number(scores: Scores | Mapping[str, Any]) -> tuple[str, float] | None:
    """The number that decides which checkpoint is best: the first of the first metric, larger being better."""
    for dataset, metrics in scores.items():
        for metric, numbers in metrics.items():
            for name, number in numbers.items():
                return f"{dataset}.{metric}.{name}", float(number)
    return None
