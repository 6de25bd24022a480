"""One optimiser step of a training graph: every critic's phase, every schedule's, then the students'."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.errors import GraphError
from mmkd.graph import ranks
from mmkd.graph.apart import Apart
from mmkd.graph.look_ahead import RandomState, train_schedule
from mmkd.graph.objective import share, together
from mmkd.graph.phase import Phase, frozen

if TYPE_CHECKING:
    from mmkd.graph.training_graph import TrainingGraph


def take(
    graph: TrainingGraph,
    batches: Sequence[Mapping[str, Any]],
    optimizers: Mapping[str, Optimizer],
    max_grad_norm: float | None,
) -> dict[str, Tensor]:
    """What `TrainingGraph.step` does."""
    if len(batches) > 1:
        _check_additive(graph, len(batches))
    main, optimizer = graph.phases[-1], optimizers["main"]
    optimizer.zero_grad(set_to_none=True)
    apart = Apart(graph.groups, main) if graph.groups else None
    parts = [_backward(graph, part, len(batches), optimizers, apart) for part in batches]
    out = parts[0] if len(parts) == 1 else {name: torch.stack([p[name] for p in parts]).sum(0) for name in parts[0]}
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


def _backward(
    graph: TrainingGraph,
    batch: Mapping[str, Any],
    parts: int,
    optimizers: Mapping[str, Optimizer],
    apart: Apart | None,
) -> dict[str, Tensor]:
    """Critics' and schedules' phases, then the gradient of one of `parts` batches; returns its share of the losses."""
    *others, _ = graph.phases
    drawn = RandomState(graph.device) if graph.lessons else None
    values = graph.compute(batch)
    whole = graph.whole(values)
    critics = [phase for phase in others if phase.term]
    for phase in critics:
        train_critic(graph, phase, values, optimizers[phase.name], whole)
    with frozen(critics) if critics else contextlib.nullcontext():
        lessons: dict[str, Tensor] = {}
        for phase in others:
            if drawn is not None and phase.schedule and graph.weightings[phase.name].due:
                lessons |= train_schedule(graph, phase, batch, values, optimizers, drawn)
        objective = graph.weighed(values, graph.whole(values) if lessons else whole)
        out = {**lessons, **objective.told}
        if apart is not None:
            apart.backward(objective, parts)
        else:
            loss = out["loss"] if parts == 1 else out["loss"] / parts
            loss.backward()  # type: ignore[no-untyped-call]
    return {name: loss.detach() if parts == 1 else loss.detach() / parts for name, loss in out.items()}


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


def _check_additive(graph: TrainingGraph, parts: int) -> None:
    critics = {phase.term for phase in graph.phases}
    for phase in graph.phases:
        if phase.schedule:
            raise GraphError(
                f"schedule '{phase.name}' learns from the step of the whole batch at once, not of {parts} parts of it",
                where=graph.weightings[phase.name].where, next="train.gradient_accumulation_steps=1",
            )  # fmt: skip
    for term in graph.terms:
        if term.loss.coupled or term.name in critics:
            raise GraphError(
                f"{type(term.loss).__name__} needs the whole batch at once, not {parts} parts of it",
                where=term.binding.where,
                next="train.gradient_accumulation_steps=1",
            )
