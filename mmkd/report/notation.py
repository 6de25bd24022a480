"""How reports write numbers, shapes and things that change over a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmkd.components import Schedule
from mmkd.errors import GraphError
from mmkd.graph.training_graph import TrainingGraph


def count(number: int) -> str:
    """A count in three digits: `9,412`, `86.6 M`, `1.24 G`."""
    for least, size, unit in ((999.5e6, 1e9, "G"), (999.5e3, 1e6, "M"), (10e3, 1e3, "k")):
        if number >= least:
            return f"{number / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """A count with its noun: `1 loss`, `3 losses`, `2.41 M parameters`."""
    plural = noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")
    return f"{count(number)} {noun if number == 1 else plural}"


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def over_run(schedule: Schedule, total: int) -> str:
    """What a schedule gives first and last: `1 -> 0.1`."""
    return f"{float(schedule(0, total)):.4g} -> {float(schedule(total, total)):.4g}"


class Shapes:
    """Shapes of a graph's values with the batch size written as `B`.

    Raises:
        GraphError: the graph has not been set up, so that no shape is known.
    """

    def __init__(self, graph: TrainingGraph) -> None:
        if not graph.phases:
            raise GraphError("the graph has not been set up", next="call graph.setup(example_batch)")
        self._shapes = graph.shapes
        self._constants = {key for run in graph.plan.runs for key in run.constants}
        fed = [shape for sources in graph.sources.values() for _, shape in sources.values()]
        read = [graph.shapes.get(key) for key in graph.plan.fields]
        sizes = Counter(shape[0] for shape in [*fed, *read] if shape)
        self.batch = sizes.most_common(1)[0][0] if sizes else 0
        """Samples in the example batch."""

    def of(self, key: str) -> str:
        """The shape of a value; parameters of a network have no batch dimension."""
        return self.written(self._shapes.get(key), batched=key not in self._constants)

    def written(self, shape: Sequence[int] | None, *, batched: bool = True) -> str:
        """`[B, 384]`; empty where there is no tensor."""
        if shape is None:
            return ""
        first, *rest = (*shape, None)
        sizes = ["B" if batched and self.batch and first == self.batch else first, *rest][:-1]
        return f"[{', '.join(map(str, sizes))}]"
