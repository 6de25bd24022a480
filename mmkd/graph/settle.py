"""The decision for each network that has a form: taken once when the graph is set up, measured, and told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.errors import GraphError, MmkdError
from mmkd.graph.form import Form
from mmkd.graph.formed import FormedRun
from mmkd.graph.node import Node
from mmkd.graph.plan import located, preserved

if TYPE_CHECKING:
    from mmkd.graph.training_graph import TrainingGraph

Drift = Mapping[str, float]
"""By address: ||formed - plain|| / ||plain||, the latter being the network in float32."""


def settle(graph: TrainingGraph, example: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    """Bring every network that has a form into it; note in `graph.decided` and `graph.drift` what came of it.

    Args:
        example: a batch.
        values: what the graph makes of it before.

    Raises:
        GraphError: a network does not run in the form that is asked for, or that form changes nothing.
    """
    for node in graph.roles.values():
        form = node.form
        if form is None or form.taken:
            continue
        plans = {id(plan): plan for plan in (graph.plan, *graph.plans.values())}.values()
        runs = [run for plan in plans for run in plan.runs if run.node is node and isinstance(run, FormedRun)]
        if form.layout is not None and runs and not any(_pictures(run.given(example)) for run in runs):
            raise GraphError(
                "no input of the network is a picture [B, C, H, W], so that there is nothing to lay out",
                where=f"{node.name}.layout", next="remove `layout`",
            )  # fmt: skip
        plain = {} if node.trained else _made(node, runs, example, values)
        keep = node.name in graph.exported or bool(node.cache)
        form.take(node.encoder, trained=not node.constant, keep=keep)
        if form.compile:
            for run in runs:
                with preserved([node.encoder]):
                    run.compile(example)
        decided = f"{form}: asked for"
        if form.imitated:
            decided += f", and slower than fp32: this processor has no {form.precision} arithmetic"
        if plain:
            graph.drift[node.name] = drift = _drift(plain, _formed(node, form, runs, example, values))
            decided += f"; drift {', '.join(f'{100 * error:.2g}% {key}' for key, error in drift.items())}"
        graph.decided[node.name] = decided


def _pictures(given: Mapping[str, Any]) -> list[str]:
    return [name for name, v in given.items() if isinstance(v, Tensor) and v.dim() == 4 and v.is_floating_point()]


def _formed(
    node: Node, form: Form, runs: Sequence[FormedRun], example: Mapping[str, Any], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    try:
        return _made(node, runs, example, values)
    except MmkdError:
        raise
    except Exception as error:
        key = "precision" if form.precision else "layout"
        raise GraphError(
            f"the network does not run as {form}: {error}", where=f"{node.name}.{key}", next=f"remove `{key}`"
        ) from error


def _made(
    node: Node, runs: Iterable[FormedRun], example: Mapping[str, Any], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the passes make as they are now, in the arithmetic of the weights."""
    made: dict[str, Tensor] = {}
    for run in runs:
        device = next((p.device.type for p in node.encoder.parameters()), "cpu")
        given = dict(values)
        with preserved([node.encoder]), torch.autocast(device, enabled=False):
            if run.form.taken:
                run(example, given)
            else:
                with located(run.id):
                    run(example, given)
        made |= {key: given[key].clone() for key in run.makes}
    return made


def _drift(plain: Mapping[str, Tensor], formed: Mapping[str, Tensor]) -> dict[str, float]:
    found = {}
    for key, value in plain.items():
        if value.is_floating_point():
            right = value.double()
            found[key] = ((formed[key].double() - right).norm() / right.norm().clamp(min=1e-30)).item()
    return found
