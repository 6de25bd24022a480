"""What a curator of whole batches must be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.graph.training_graph import TrainingGraph
from mmkd.testing.module import idle_options, kept, refuses_to_build
from mmkd.testing.probe import ProbeFailure, Probes, require
from mmkd.testing.sameness import difference, tensors
from mmkd.testing.samples import samples as any_samples
from mmkd.testing.specimen import Specimen
from mmkd.testing.surroundings import changed, surroundings

STEPS = 8
TOLERANCE = 1e-4


class BatchCase:
    """A curator of batches, a graph for it, and raw samples."""

    def __init__(
        self, specimen: Specimen, graph: TrainingGraph | Callable[[], TrainingGraph] | None,
        samples: Sequence[Mapping[str, Any]] | None, inert: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.specimen, self.inert, self._graph = specimen, inert, graph
        self.samples = list(samples or any_samples())

    @property
    def graph(self) -> TrainingGraph:
        """A graph that is trained and that nothing has happened to."""
        if self._graph is None:
            raise ProbeFailure("a curator of batches needs a graph: give graph=mmkd.build(...) to the check")
        made = copy.deepcopy(self._graph) if isinstance(self._graph, TrainingGraph) else self._graph()
        return made.train()

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        return self.specimen.fresh(seed, changed)

    def curated(
        self, curator: Any, samples: Sequence[Any] | None = None, *, step: int = 0, graph: TrainingGraph | None = None
    ) -> dict[str, Any]:
        """What the host makes of some samples at a step."""
        graph = graph if graph is not None else self.graph
        graph.curators, graph.steps = (curator,), step
        made = graph.curate(graph.collate(self.samples if samples is None else samples))
        require(isinstance(made, Mapping), f"curate returns {type(made).__name__}, not a batch")
        return dict(made)

    def behaviour(self, curator: Any) -> Any:
        graph = self.graph
        return [self.curated(curator, step=step, graph=graph) for step in range(STEPS)]


BATCH = Probes()


@BATCH("give every option a default, and graph=..., options={...} and samples=[...] to the check", first=True)
def curates(case: BatchCase) -> None:
    """Nothing else can be said of a curator that does not run on a batch."""
    refuses_to_build(case.specimen)
    graph = case.graph
    before = graph.collate(case.samples)
    made = case.curated(case.fresh(), graph=graph)
    lost = [name for name in before if name not in made]
    require(not lost, f"takes {', '.join(lost)} out of the batch; return {{**batch, ...}}")
    require(made.get("key") == before.get("key"), "changes the keys of samples")


@BATCH("draw from generator_of(key) alone; no counter, no time, no torch.rand")
def curate_pure(case: BatchCase) -> None:
    """A killed run that goes on from a checkpoint must see the same batches."""
    curator, graph = case.fresh(), case.graph
    first = kept(case.curated(curator, step=3, graph=graph))
    case.curated(curator, step=5, graph=graph)
    torch.default_generator.manual_seed(99)
    found = difference(first, case.curated(curator, step=3, graph=graph)) or difference(
        first, case.curated(case.fresh(), step=3)
    )
    require(not found, f"the same step gives another batch: {found}")


@BATCH("use the numbers that generator_of(key) gives, or draw none")
def draw_matters(case: BatchCase) -> None:
    """A curator that draws and does not look at it trains on the same thing for ever."""
    drawn: list[str] = []

    class Noting(case.specimen.cls):  # type: ignore[name-defined,misc]
        def curate(self, batch: Any, graph: Any, generator_of: Any) -> Any:
            def noting(key: str) -> Any:
                drawn.append(key)
                return generator_of(key)

            return super().curate(batch, graph, noting)

    curator = case.fresh()
    curator.__class__ = Noting
    graph = case.graph
    made = [kept(case.curated(curator, step=step, graph=graph)) for step in range(STEPS)]
    if drawn:
        require(any(difference(made[0], other) for other in made[1:]), f"{STEPS} steps give one and the same batch")


@BATCH("draw by the sample's own key, and let no sample see its neighbours")
def samples_apart(case: BatchCase) -> None:
    """Ranks, micro-batches and batch sizes must not change what a sample becomes."""
    curator, graph = case.fresh(), case.graph
    for step in range(STEPS):
        whole = case.curated(curator, step=step, graph=graph)
        for i, sample in enumerate(case.samples):
            alone = case.curated(curator, [sample], step=step, graph=graph)
            found = _differs(whole, alone, i)
            require(not found, f"sample {i} alone becomes another: {found}")


@BATCH("return a new mapping, and new tensors where values change")
def batch_untouched(case: BatchCase) -> None:
    """The batch that came from the loader may be read by others."""
    graph, curator = case.graph, case.fresh()
    for step in range(STEPS):
        batch = graph.collate(case.samples)
        before = kept(batch)
        graph.curators, graph.steps = (curator,), step
        graph.curate(batch)
        found = difference(before, batch)
        require(not found, f"curate wrote into the batch: {found}")


@BATCH("keep nothing between calls; read the networks, do not move them")
def state_untouched(case: BatchCase) -> None:
    """What a curator remembers is in no checkpoint."""
    graph, curator = case.graph, case.fresh()
    mine, networks = kept(vars(curator)), kept(_state(graph))
    for step in range(STEPS):
        case.curated(curator, step=step, graph=graph)
    found = difference(mine, vars(curator))
    require(not found, f"curate changed the curator: {found}")
    found = difference(networks, _state(graph))
    require(not found, f"curate changed the graph: {found}")


@BATCH("do not call torch.enable_grad")
def no_gradient(case: BatchCase) -> None:
    """Nothing flows back through what is trained on, a sampled token least of all."""
    graph = case.graph
    made = case.curated(case.fresh(), graph=graph)
    flowing = [name for name, value in made.items() for t in tensors(value) if t.requires_grad]
    require(not flowing, f"a gradient flows from {', '.join(dict.fromkeys(flowing))}")
    require(all(p.grad is None for p in graph.parameters()), "leaves gradients in the networks")


@BATCH("name every shared field that curate may change in the class attribute `fields`")
def fields_declared(case: BatchCase) -> None:
    """`fields` decides what may be remembered: a teacher's values of a field that secretly changes would be stale."""
    graph, curator = case.graph, case.fresh()
    batch = graph.collate(case.samples)
    seen = set()
    for step in range(STEPS):
        made = case.curated(curator, step=step, graph=graph)
        seen |= {n for n, v in batch.items() if not isinstance(v, Mapping) and difference(v, made[n])}
    undeclared = sorted(seen - set(curator.fields))
    require(not undeclared, f"changes {', '.join(undeclared)}, and fields names {sorted(curator.fields) or 'none'}")


@BATCH("leave global settings and generators alone")
def surroundings_kept(case: BatchCase) -> None:
    """Seeds, dtypes, threads and the environment belong to the run; who changes them changes everybody's numbers."""
    graph, before = case.graph, surroundings()
    curator = case.fresh()
    for step in range(STEPS):
        case.curated(curator, step=step, graph=graph)
    require(not changed(before), f"changes {', '.join(changed(before))}")


@BATCH("keep no lambdas, open files, networks or generators in attributes")
def pickles(case: BatchCase) -> None:
    """Processes receive a copy."""
    curator = case.fresh()
    try:
        sent = pickle.loads(pickle.dumps(curator))
    except Exception as error:
        raise ProbeFailure(f"cannot be sent to another process: {error}") from error
    require(not difference(case.behaviour(curator), case.behaviour(sent)), "a copy gives other batches")


@BATCH("use it in curate, or remove it")
def options_matter(case: BatchCase) -> None:
    """An option that does nothing is a typo or a lost line, and users will tune it."""
    idle = idle_options(case)
    require(not idle, f"nothing changes with option {', '.join(idle)}")


def _state(graph: TrainingGraph) -> dict[str, Any]:
    """Tensors of a graph, and which parts are trained."""
    modes = {f"{name} (mode)": module.training for name, module in graph.named_modules()}
    needs = {f"{name} (requires_grad)": p.requires_grad for name, p in graph.named_parameters()}
    return {**dict(graph.named_parameters()), **dict(graph.named_buffers()), **modes, **needs}


def _differs(whole: Mapping[str, Any], alone: Mapping[str, Any], row: int) -> str:
    """Where sample `row` of a batch differs from the same sample alone, padding to a common length aside."""
    for name, value in whole.items():
        if isinstance(value, Mapping):
            found = _differs(value, alone[name], row)
        elif isinstance(value, Tensor):
            mine, other = value[row], alone[name][0]
            shared = tuple(slice(0, min(a, b)) for a, b in zip(mine.shape, other.shape, strict=True))
            found = difference(mine[shared], other[shared], tolerance=TOLERANCE)
            longer = mine if mine.numel() > other.numel() else other
            rest = longer[min(mine.shape[0], other.shape[0]) :] if longer.dim() else longer[None][1:]
            if not found and rest.numel() and bool((rest != rest.flatten()[0]).any()):
                found = "differs in length"
        else:
            found = difference(value[row], alone[name][0])
        if found:
            return f"{name}: {found}"
    return ""
