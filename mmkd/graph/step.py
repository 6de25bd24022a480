"""One optimiser step of a training graph: every critic's phase, then the students'."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.errors import GraphError
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
    parts = [_backward(graph, part, len(batches), optimizers) for part in batches]
    out = parts[0] if len(parts) == 1 else {name: torch.stack([p[name] for p in parts]).sum(0) for name in parts[0]}
    if max_grad_norm is not None:
        out["grad_norm"] = main.clip(max_grad_norm)
    found = main.apply(optimizer, out["loss"])
    out["finite"] = found.logical_not()
    graph.advance(found)
    return out


def _backward(
    graph: TrainingGraph, batch: Mapping[str, Any], parts: int, optimizers: Mapping[str, Optimizer]
) -> dict[str, Tensor]:
    """Critics' phases, then the gradient of one of `parts` batches; returns its share of the losses."""
    values = graph.compute(batch)
    *critics, _ = graph.phases
    for phase in critics:
        train_critic(graph, phase, values, optimizers[phase.name])
    with frozen(critics) if critics else contextlib.nullcontext():
        out = graph.objective(values)
        loss = out["loss"] if parts == 1 else out["loss"] / parts
        loss.backward()  # type: ignore[no-untyped-call]
    return {name: loss.detach() if parts == 1 else loss.detach() / parts for name, loss in out.items()}


def train_critic(graph: TrainingGraph, phase: Phase, values: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Move a critic alone, with the values held fixed, as often as its phase says."""
    term = next(t for t in graph.terms if t.name == phase.term)
    for _ in range(phase.repeats):
        loss = term(values, detached=True)
        gradients = torch.autograd.grad(-loss if phase.ascend else loss, phase.parameters, allow_unused=True)
        for parameter, gradient in zip(phase.parameters, gradients, strict=True):
            parameter.grad = gradient
        phase.apply(optimizer, loss.detach())


def _check_additive(graph: TrainingGraph, parts: int) -> None:
    critics = {phase.term for phase in graph.phases}
    for term in graph.terms:
        if term.loss.coupled or term.name in critics:
            raise GraphError(
                f"{type(term.loss).__name__} needs the whole batch at once, not {parts} parts of it",
                where=term.binding.where,
                next="train.gradient_accumulation_steps=1",
            )
