"""One optimiser step of a training graph: every critic's phase, every schedule's, then the students'."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.graph import gradient_cache, ranks
from mmkd.graph.apart import Apart
from mmkd.graph.gradient_cache import GradientCache
from mmkd.graph.look_ahead import RandomState, train_schedule
from mmkd.graph.objective import Objective, share, together
from mmkd.graph.phase import Phase, frozen
from mmkd.graph.portion import Portions, portions

if TYPE_CHECKING:
    from mmkd.graph.training_graph import TrainingGraph


def take(
    graph: TrainingGraph,
    batches: Sequence[Mapping[str, Any]],
    optimizers: Mapping[str, Optimizer],
    max_grad_norm: float | None,
    kept_graphs: int = 0,
) -> dict[str, Tensor]:
    """What `TrainingGraph.step` does."""
    main, optimizer = graph.phases[-1], optimizers["main"]
    for group in optimizer.param_groups:  # `zero_grad` does the same, with a record for the profiler
        for parameter in group["params"]:
            parameter.grad = None
    apart = Apart(graph.groups, main) if graph.groups else None
    if len(batches) == 1:
        out = _backward(graph, batches[0], optimizers, apart)
    else:
        out = _in_parts(graph, batches, optimizers, apart, kept_graphs)
    if ranks.world() > 1:
        (apart or main).average()
        ranks.average_statistics(graph.children())
    if apart is not None:
        apart.sum_up()
    if max_grad_norm is not None:
        out["grad_norm"] = (apart or main).clip(max_grad_norm)
    if apart is not None:
        with apart.handed_to(optimizer):
            found = main.apply(optimizer, out["loss"])
    else:
        found = main.apply(optimizer, out["loss"])
    out["finite"] = found.logical_not()
    graph.advance(found)
    return out


def _in_parts(
    graph: TrainingGraph,
    batches: Sequence[Mapping[str, Any]],
    optimizers: Mapping[str, Optimizer],
    apart: Apart | None,
    kept_graphs: int,
) -> dict[str, Tensor]:
    """The gradient of several batches as of one; returns its losses."""
    gradient_cache.check(graph, len(batches))
    if gradient_cache.due(graph):
        return _in_two_passes(graph, GradientCache(graph, batches, kept_graphs), optimizers, apart)
    shares = portions(graph, graph.terms, batches, [graph.plan.read(batch) for batch in batches])
    parts = [_backward(graph, batch, optimizers, apart, own) for batch, own in zip(batches, shares, strict=True)]
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def _in_two_passes(
    graph: TrainingGraph, cache: GradientCache, optimizers: Mapping[str, Optimizer], apart: Apart | None
) -> dict[str, Tensor]:
    values = cache.values()
    whole = graph.whole(values)
    critics = [phase for phase in graph.phases if phase.term]
    for phase in critics:
        train_critic(graph, phase, values, optimizers[phase.name], whole)
    with frozen(critics) if critics else contextlib.nullcontext():
        objective = Objective(cache.terms, values, whole, graph.steps, graph.total_steps) if cache.terms else None
        graph.note(whole)
        return cache.backward(objective, apart)


def _backward(
    graph: TrainingGraph,
    batch: Mapping[str, Any],
    optimizers: Mapping[str, Optimizer],
    apart: Apart | None,
    portion: Portions | None = None,
) -> dict[str, Tensor]:
    """Critics' and schedules' phases, then the gradient of a batch, or of a micro-batch that is a `portion` of one;
    returns its losses, or its share of them."""
    drawn = RandomState(graph.device) if graph.lessons else None
    values = graph.compute(batch)
    whole = graph.whole(values)
    *others, _ = graph.phases
    if not others:
        return _differentiate(graph.weighed(values, whole), apart, portion)
    critics = [phase for phase in others if phase.term]
    for phase in critics:
        train_critic(graph, phase, values, optimizers[phase.name], whole)
    with frozen(critics):
        lessons: dict[str, Tensor] = {}
        for phase in others:
            if drawn is not None and phase.schedule and graph.weightings[phase.name].due:
                lessons |= train_schedule(graph, phase, batch, values, optimizers, drawn)
        objective = graph.weighed(values, graph.whole(values) if lessons else whole)
        return lessons | _differentiate(objective, apart, portion)


def _differentiate(objective: Objective, apart: Apart | None, portion: Portions | None) -> dict[str, Tensor]:
    """The gradient of an objective, of its `portion` where it is that of a micro-batch; returns its losses."""
    if portion is not None:
        objective.scale(portion)
    if apart is not None:
        apart.backward(objective)
    else:
        objective.told["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: loss.detach() for name, loss in objective.told.items()}


def train_critic(
    graph: TrainingGraph,
    phase: Phase,
    values: Mapping[str, Tensor],
    optimizer: Optimizer,
    whole: Mapping[str, Tensor] | None = None,
) -> None:
    """Move a critic alone, with the values held fixed, as often as its phase says; `whole` is `graph.whole(values)`."""
    whole = graph.whole(values) if whole is None else whole
    term = next(t for t in graph.terms if t.name == phase.term)
    for _ in range(phase.repeats):
        if together():
            ((loss,),) = share([term], values, whole, detached=True)
        else:
            loss = term(values, detached=True)
        gradients = torch.autograd.grad(-loss if phase.ascend else loss, phase.parameters, allow_unused=True)
        for parameter, gradient in zip(phase.parameters, gradients, strict=True):
            parameter.grad = gradient
        if ranks.world() > 1:
            phase.average()
        phase.apply(optimizer, loss.detach())
