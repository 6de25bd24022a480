"""Whether the losses pull the students the same way, and how hard each one pulls."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mmkd.components import trainable
from mmkd.errors import GraphError
from mmkd.graph.plan import preserved
from mmkd.graph.training_graph import TrainingGraph


def gradient_cosine(graph: TrainingGraph, batch: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Cosine between the gradients of every two losses on the parameters of the students (Yu et al., 2020).

    `cos(a, b) = <g_a, g_b> / (||g_a|| ||g_b||)`, the losses as they are before their weights: -1 where what helps one
    harms the other in equal measure, 0 where they have nothing to do with each other. A loss without a gradient has
    cosine 0 with every other.

    Args:
        graph: a graph that has been set up; nothing of it changes, no gradient is left behind.
        batch: what `graph.collate` gives, on the graph's device.

    Returns:
        A number between -1 and 1 for every two losses, in the order of the recipe.

    Raises:
        GraphError: no parameter of a student is trained.
    """
    gradients = _gradients(graph, batch)
    norms = {name: _dot(g, g) ** 0.5 for name, g in gradients.items()}
    return {
        (a, b): _dot(gradients[a], gradients[b]) / (norms[a] * norms[b]) if norms[a] * norms[b] else 0.0
        for a, b in combinations(gradients, 2)
    }


def gradient_norms(graph: TrainingGraph, batch: Mapping[str, Any]) -> dict[str, float]:
    """Norm of each loss's gradient on the parameters of the students, times its weight at the present step.

    `|w| ||g||`: what each loss contributes to an optimiser step. Zero where a loss does not reach a student.

    Raises:
        GraphError: no parameter of a student is trained.
    """
    weights = {term.name: abs(term.weight_at(graph.steps, graph.total_steps)) for term in graph.terms}
    return {name: weights[name] * _dot(g, g) ** 0.5 for name, g in _gradients(graph, batch).items()}


def _gradients(graph: TrainingGraph, batch: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """Gradient of each loss, one tensor a parameter, from a single forward pass that leaves no trace."""
    students = trainable(node.encoder for node in graph.roles.values() if node.trained)
    if not students:
        raise GraphError("no parameter of a student is trained", where="student", exists=list(graph.roles))
    found = {}
    with preserved([graph]), torch.enable_grad():
        values = graph.compute(batch)
        for term in graph.terms:
            loss = term(values)
            if loss.requires_grad:
                given = torch.autograd.grad(
                    loss, students, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            else:
                given = tuple(torch.zeros_like(parameter) for parameter in students)
            found[term.name] = list(given)
    return found


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    """Inner product over all parameters, in float64."""
    products = [x.double().flatten().dot(y.double().flatten()) for x, y in zip(a, b, strict=True)]
    return torch.stack(products).sum().item()
